use super::conv::{SHAPES, layer, products, shape};
use super::{Random, check, unwritten};
use crate::Mode;
use crate::cpu::bf16::{self, Bf16Conv, Bf16Isa, Blocked, Target};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::round::round;

/// One unit and several, channels that fill rows and panels and that do not; n, h, w, c, k, r, s, stride, pad.
const MORE: &[[usize; 9]] = &[
    [1, 32, 32, 64, 64, 3, 3, 1, 1],
    [1, 16, 16, 40, 72, 3, 3, 2, 1],
    [48, 4, 4, 33, 48, 3, 3, 1, 1],
    [16, 3, 5, 32, 16, 3, 3, 2, 1],
    [2, 9, 7, 3, 20, 5, 5, 3, 2],
    [1, 1, 1, 512, 10, 1, 1, 1, 0],
    [2, 9, 9, 5, 40, 3, 3, 4, 1],
    [1, 3, 3, 5, 9, 1, 1, 1, 3],
    [3, 2, 2, 40, 33, 3, 3, 1, 3],
    [1, 3, 3, 34, 9, 5, 5, 1, 1],
    [5, 4, 4, 33, 40, 3, 3, 1, 1],
];

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| round(Mode::Bf16, value)).collect()
}

/// A few images with the halo that the convolution needs, and groups.
fn layouts([n, h, w, c]: [usize; 4], halo: usize) -> [Blocked; 2] {
    [false, true].map(|grouped| Blocked::new([n, h, w, c], grouped, halo))
}

fn blocked(layout: &Blocked, x: &[f32]) -> Vec<f32> {
    let mut inside = vec![0.0; layout.len()];
    bf16::from_nhwc(layout, x, &mut inside);
    inside
}

fn back(layout: &Blocked, len: usize, inside: &[f32]) -> Vec<f32> {
    let mut y = unwritten(len);
    bf16::to_nhwc(layout, inside, &mut y);
    y
}

#[test]
fn convolution_equals_float64() {
    let mut random = Random::new();
    for isa in Bf16Isa::available() {
        let isa: &'static Bf16Isa = Box::leak(Box::new(isa));
        for &values in SHAPES.iter().chain(MORE) {
            let shape = shape(values);
            let ConvShape { n, h, w, c, k, pad, .. } = shape;
            let (p, q) = (shape.p(), shape.q());
            let x = random.vec(shape.input_len());
            let weights = random.vec(shape.filter_len());
            let bias = random.vec(k);
            let residual = rounded(&random.vec(shape.output_len()));
            let [plain, finished] = layer(&shape, Mode::Bf16, [&x, &weights, &bias, &residual]);
            let wider = [Blocked::new([n, h, w, c], false, pad + 2)];
            let from = layouts([n, h, w, c], pad).into_iter().chain(wider);
            let [apart, grouped] = layouts([n, p, q, k], 1);
            for from in from {
                let to = if from.grouped { &grouped } else { &apart }.clone();
                if !Bf16Conv::takes(&shape, from.grouped) {
                    continue;
                }
                let what = |name| format!("{name} {values:?} {}, {from:?}", isa.name());
                let inside = blocked(&from, &x);
                let new = |relu, pool, to| {
                    let finish = Finish { relu, pool };
                    Bf16Conv::new_on(isa, &shape, &weights, &bias, finish, &from, to)
                };
                let mut y = unwritten(plain.len());
                new(false, false, Target::Nhwc).run(&inside, None, &mut y);
                check(&what("sums"), &y, &plain, 1e-5);
                let mut y = blocked(&to, &unwritten(plain.len()));
                let residual = blocked(&to, &residual);
                new(true, false, Target::Blocked(to.clone())).run(&inside, Some(&residual), &mut y);
                // What is left is the rounding of the results, at most 2^-8 of each.
                check(&what("finished"), &back(&to, plain.len(), &y), &finished, 3e-3);
                nothing_else_is_there(&to, &y, plain.len());
                if from.grouped {
                    let mut y = blocked(&to, &unwritten(plain.len()));
                    new(true, false, Target::Blocked(to.clone())).run(&inside, None, &mut y);
                    let pooled = to.resized([p / 2, q / 2, k]);
                    let mut want = blocked(&pooled, &vec![0.0; n * (p / 2) * (q / 2) * k]);
                    bf16::max_pool(&to, &y, &pooled, &mut want);
                    let mut got = unwritten(pooled.len());
                    let conv = new(true, true, Target::Blocked(pooled.clone()));
                    conv.run(&inside, None, &mut got);
                    assert_eq!(got, want, "{values:?}");
                }
            }
        }
    }
}

/// What NHWC does not show are zeros: the halo, channels behind the last, and what fills up the last group aside.
fn nothing_else_is_there(layout: &Blocked, inside: &[f32], len: usize) {
    let mut seen = blocked(layout, &back(layout, len, inside));
    let [halves, seen]: [&[half::bf16]; 2] =
        [bytemuck::cast_slice(inside), bytemuck::cast_slice_mut(&mut seen)];
    // Images that there are not have rows of their own.
    let there = |i: usize| !layout.grouped || (i / 32) % 16 < layout_images_of(layout, i);
    let strange = (0..halves.len()).find(|&i| there(i) && halves[i].to_f32() != seen[i].to_f32());
    assert_eq!(strange, None, "{layout:?}");
}

/// Images of the group that an element of a grouped layout is in.
fn layout_images_of(layout: &Blocked, element: usize) -> usize {
    let group = element / 32 / layout.group.max(1);
    (layout.n - group * 16).min(16)
}

#[test]
fn what_is_not_finite_stays_in_its_channels() {
    let shape = shape([1, 1, 1, 8, 10, 1, 1, 1, 0]);
    for isa in Bf16Isa::available() {
        let isa: &'static Bf16Isa = Box::leak(Box::new(isa));
        for from in layouts([1, 1, 1, 8], 0) {
            let to = from.resized([1, 1, 10]);
            let relu = Finish { relu: true, pool: false };
            let target = Target::Blocked(to.clone());
            let conv = Bf16Conv::new_on(isa, &shape, &[1.0; 80], &[0.0; 10], relu, &from, target);
            let mut y = blocked(&to, &unwritten(10));
            conv.run(&blocked(&from, &[f32::INFINITY; 8]), None, &mut y);
            assert_eq!(back(&to, 10, &y), [f32::INFINITY; 10], "{}", isa.name());
            nothing_else_is_there(&to, &y, 10);
        }
    }
}

#[test]
fn all_instructions_give_the_bits_of_plain_loops_where_they_sum_in_one_order() {
    let mut random = Random::new();
    let shape = shape([1, 12, 20, 70, 40, 3, 3, 1, 1]);
    let [x, w, bias] = [shape.input_len(), shape.filter_len(), shape.k].map(|len| random.vec(len));
    let from = Blocked::new([1, 12, 20, 70], false, 1);
    let inside = blocked(&from, &x);
    let run = |isa: Bf16Isa| {
        let isa: &'static Bf16Isa = Box::leak(Box::new(isa));
        let mut y = unwritten(shape.output_len());
        let relu = Finish { relu: true, pool: false };
        let conv = Bf16Conv::new_on(isa, &shape, &w, &bias, relu, &from, Target::Nhwc);
        conv.run(&inside, None, &mut y);
        (isa.name(), y)
    };
    let all: Vec<_> = Bf16Isa::available().into_iter().map(run).collect();
    let of = |name| all.iter().find(|(found, _)| *found == name).map(|(_, y)| y);
    match of("amx") {
        Some(y) => assert_eq!(Some(y), of("portable")),
        None => {
            // Past the capture of a passing test.
            use std::io::Write;
            writeln!(std::io::stderr(), "skipped: this processor has no AMX to compare").unwrap();
        }
    }
}

#[test]
fn bits_depend_neither_on_threads_nor_on_other_images() {
    let mut random = Random::new();
    let whole = shape([40, 10, 6, 70, 100, 3, 3, 1, 1]);
    let [x, w, bias] = [whole.input_len(), whole.filter_len(), whole.k].map(|len| random.vec(len));
    let run = |threads: usize, n: usize, grouped: bool, pool: bool| {
        let shape = ConvShape { n, ..whole };
        let from = Blocked::new([n, 10, 6, 70], grouped, 1);
        let edge = |edge: usize| if pool { edge / 2 } else { edge };
        let to = from.resized([edge(10), edge(6), 100]);
        let inside = blocked(&from, &x[..shape.input_len()]);
        let mut y = blocked(&to, &unwritten(n * edge(10) * edge(6) * 100));
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        threads.install(|| {
            let (finish, target) = (Finish { relu: false, pool }, Target::Blocked(to.clone()));
            Bf16Conv::new(&shape, &w, &bias, finish, &from, target).run(&inside, None, &mut y);
        });
        back(&to, n * edge(10) * edge(6) * 100, &y)
    };
    for pool in [false, true] {
        let all = run(1, 40, true, pool);
        for (threads, n) in [(2, 40), (7, 40), (3, 33), (5, 16), (2, 17), (1, 1)] {
            for grouped in [true, false].into_iter().filter(|grouped| *grouped || !pool) {
                let y = run(threads, n, grouped, pool);
                assert!(y == all[..y.len()], "{threads} threads, {n} images, {grouped}, {pool}");
            }
        }
    }
}

#[test]
fn conversions_pooling_and_mean_are_those_of_images() {
    let mut random = Random::new();
    for [n, h, w, c] in [[1, 4, 4, 3], [16, 2, 6, 32], [35, 5, 4, 40], [3, 3, 3, 70]] {
        let x = rounded(&random.vec(n * h * w * c));
        let (p, q) = (h / 2, w / 2);
        let pairs = layouts([n, h, w, c], 2).into_iter().zip(layouts([n, p, q, c], 2));
        for (layout, to) in pairs {
            let inside = blocked(&layout, &x);
            assert_eq!(back(&layout, x.len(), &inside), x);

            let mut pooled = vec![0.0; to.len()];
            bf16::max_pool(&layout, &inside, &to, &mut pooled);
            let largest = |i: usize| {
                let (image, y, column) = (i / c / q / p, i / c / q % p, i / c % q);
                let at = |dy, dx| ((image * h + 2 * y + dy) * w + 2 * column + dx) * c + i % c;
                [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
                    .map(|at| x[at])
                    .into_iter()
                    .fold(f32::MIN, f32::max)
            };
            let want: Vec<f32> = (0..n * p * q * c).map(largest).collect();
            assert_eq!(back(&to, want.len(), &pooled), want);

            let mut means = unwritten(n * c);
            bf16::mean(&layout, &inside, &mut means);
            let mean = |i: usize| {
                let values = (0..h * w).map(|at| f64::from(x[(i / c * h * w + at) * c + i % c]));
                values.sum::<f64>() / (h * w) as f64
            };
            check("mean", &means, &(0..n * c).map(mean).collect::<Vec<_>>(), 1e-6);
        }
    }
}

#[test]
fn a_convolution_is_a_product_with_its_patches() {
    let mut random = Random::new();
    for &values in SHAPES.iter().chain(MORE) {
        let shape = shape(values);
        let ConvShape { n, c, k, r, s, .. } = shape;
        let (p, q, depth) = (shape.p(), shape.q(), r * s * c);
        let x = rounded(&random.vec(shape.input_len()));
        let w = random.vec(shape.filter_len());
        let mut want = vec![0.0; shape.output_len()];
        products(&shape, |ix, iw, iy| want[iy] += f64::from(x[ix]) * f64::from(w[iw]));
        for layout in layouts([n, p, q, depth], 0) {
            let mut inside = vec![0.0; layout.len()];
            bf16::patches(&shape, &layout, &x, &mut inside);
            let rows = back(&layout, n * p * q * depth, &inside);
            let product = |i: usize| -> f64 {
                let pair =
                    |j: usize| f64::from(rows[i / k * depth + j]) * f64::from(w[i % k * depth + j]);
                (0..depth).map(pair).sum()
            };
            let got: Vec<f32> = (0..want.len()).map(|i| product(i) as f32).collect();
            check(&format!("{values:?}"), &got, &want, 1e-6);
        }
    }
}
