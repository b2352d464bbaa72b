use super::conv::{SHAPES, products, shape};
use super::{Random, check, unwritten};
use crate::cpu::aligned::Aligned;
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::isa::Isa;
use crate::cpu::lanes;
use crate::cpu::planes::{self, Layout, SparseLayer};

/// Memory for an activation.
fn zeros(layout: &Layout) -> Aligned {
    Aligned::zeros(layout.len())
}

/// Filled, half filled and left over blocks of images; slices of channels; planes that are one tile; planes of many; every stride; n, h, w, c, k, r, s,
/// stride, pad.
const LAYERS: &[[usize; 9]] = &[
    [1, 8, 8, 20, 9, 3, 3, 1, 1],
    [3, 32, 32, 3, 18, 3, 3, 1, 1],
    [1, 11, 13, 7, 10, 3, 3, 1, 1],
    [1, 4, 4, 40, 20, 3, 3, 1, 1],
    [3, 2, 2, 70, 9, 3, 3, 1, 1],
    [2, 9, 7, 5, 6, 5, 5, 1, 2],
    [1, 16, 16, 6, 9, 3, 3, 2, 1],
    [3, 15, 15, 3, 9, 7, 7, 2, 3],
    [1, 6, 6, 9, 5, 4, 2, 3, 1],
    [1, 4, 4, 5, 6, 5, 5, 1, 2],
    [2, 2, 2, 5, 6, 7, 7, 1, 3],
    [1, 1, 1, 5, 6, 3, 3, 1, 1],
    [7, 8, 8, 8, 12, 3, 3, 1, 1],
    [16, 16, 16, 8, 12, 3, 3, 1, 1],
    [17, 4, 4, 33, 70, 3, 3, 1, 1],
    [40, 4, 4, 9, 8, 3, 3, 2, 1],
    [40, 2, 2, 17, 66, 3, 3, 1, 1],
    [16, 2, 2, 17, 6, 3, 3, 1, 1],
    [17, 2, 2, 9, 8, 3, 3, 2, 1],
    [40, 2, 2, 9, 8, 1, 1, 1, 0],
    [70, 1, 1, 30, 20, 1, 1, 1, 0],
    [17, 7, 9, 6, 11, 3, 3, 1, 1],
    [40, 8, 8, 5, 6, 1, 1, 2, 0],
    [16, 15, 15, 3, 9, 7, 7, 2, 3],
    [17, 9, 7, 5, 6, 5, 5, 1, 2],
    [16, 4, 4, 5, 6, 5, 5, 1, 2],
    [16, 2, 2, 5, 6, 5, 5, 1, 2],
    [16, 3, 3, 5, 6, 2, 2, 1, 1],
    [16, 4, 4, 5, 6, 3, 3, 1, 0],
    [17, 2, 2, 5, 6, 3, 3, 1, 2],
    [17, 3, 1, 2, 70, 4, 2, 1, 2],
    [40, 2, 2, 300, 20, 1, 1, 1, 0],
    [9, 5, 6, 400, 67, 3, 3, 1, 1],
    [1, 8, 8, 250, 20, 3, 3, 1, 1],
    [2, 16, 16, 400, 9, 3, 3, 1, 1],
    [1, 2, 2, 2600, 19, 3, 3, 1, 1],
];

/// Share of kept weights, in percent.
const DENSITIES: [u64; 3] = [0, 5, 100];

/// `y = w ∗ x + bias (+ residual)`, then ReLU and maximum, in float64.
fn reference(
    shape: &ConvShape,
    x: &[f64],
    w: &[f32],
    bias: &[f32],
    residual: Option<&[f32]>,
    finish: Finish,
) -> Vec<f64> {
    let mut y: Vec<f64> = (0..shape.output_len()).map(|i| bias[i % shape.k].into()).collect();
    products(shape, |ix, iw, iy| y[iy] += x[ix] * f64::from(w[iw]));
    if let Some(residual) = residual {
        y.iter_mut().zip(residual).for_each(|(y, &r)| *y += f64::from(r));
    }
    if finish.relu {
        y.iter_mut().for_each(|y| *y = y.max(0.0));
    }
    if finish.pool { pooled([shape.n, shape.p(), shape.q(), shape.k], &y) } else { y }
}

/// Maxima of 2×2.
pub(super) fn pooled([n, h, w, c]: [usize; 4], x: &[f64]) -> Vec<f64> {
    let (p, q) = (h / 2, w / 2);
    let at = |image: usize, y: usize, column: usize, channel: usize| {
        x[((image * h + y) * w + column) * c + channel]
    };
    let one = |i: usize| {
        let (channel, column, y, image) = (i % c, i / c % q, i / c / q % p, i / c / q / p);
        let window = [(0, 0), (0, 1), (1, 0), (1, 1)];
        let values = window.map(|(i, j)| at(image, 2 * y + i, 2 * column + j, channel));
        values.into_iter().fold(f64::NEG_INFINITY, f64::max)
    };
    (0..n * p * q * c).map(one).collect()
}

fn weights(random: &mut Random, shape: &ConvShape, density: u64) -> Vec<f32> {
    let mut w = random.vec(shape.filter_len());
    w.iter_mut().for_each(|w| *w *= f32::from(random.next() % 100 < density));
    w
}

fn floats(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

#[test]
fn layers_equal_float64() {
    let mut random = Random::new();
    for &values in SHAPES.iter().chain(LAYERS) {
        let shape = shape(values);
        for density in DENSITIES {
            let w = weights(&mut random, &shape, density);
            for (relu, pool, added) in
                [(false, false, true), (true, false, false), (true, true, false)]
            {
                layer(
                    &mut random,
                    &shape,
                    &w,
                    Finish { relu, pool },
                    added,
                    &format!("{values:?} {density} %"),
                );
            }
        }
    }
}

fn layer(
    random: &mut Random,
    shape: &ConvShape,
    w: &[f32],
    finish: Finish,
    added: bool,
    what: &str,
) {
    let &ConvShape { n, h, w: width, c, k, .. } = shape;
    let edge = |edge: usize| if finish.pool { edge / 2 } else { edge };
    let (p, q) = (edge(shape.p()), edge(shape.q()));
    let x = random.vec(shape.input_len());
    let bias = random.vec(k);
    let residual = added.then(|| random.vec(n * p * q * k));
    let want = reference(shape, &floats(&x), w, &bias, residual.as_deref(), finish);
    for isa in Isa::available() {
        // More zeros than the layer asks for, as another reader of its input may.
        for more in 0..2 {
            let input = Layout::new(isa, [n, h, width, c], SparseLayer::halo(isa, shape) + more);
            let output = Layout::new(isa, [n, p, q, k], more);
            let layer = SparseLayer::new(isa, shape, w, &bias, finish, input, output);
            let (mut from, mut to) = (zeros(layer.input()), zeros(layer.output()));
            planes::pack(isa, layer.input(), &x, &mut from);
            planes::pack(isa, layer.output(), &unwritten(want.len()), &mut to);
            let residual = residual.as_ref().map(|residual| {
                let mut packed = zeros(layer.output());
                planes::pack(isa, layer.output(), residual, &mut packed);
                packed
            });
            layer.run(&from, residual.as_deref(), &mut to);
            let mut y = unwritten(want.len());
            planes::unpack(layer.output(), &to, &mut y);
            let what = format!("{what} {finish:?} {more}, {} lanes", isa.lanes());
            check(&what, &y, &want, 1e-5);
        }
    }
}

/// What a layer writes is what the next reads, zeros around it included.
#[test]
fn layers_follow_each_other() {
    let mut random = Random::new();
    for (n, edge) in [1, 3, 16, 17, 40].into_iter().flat_map(|n| [2, 4, 5, 8, 32].map(|e| (n, e))) {
        for pool in [false, true] {
            let first = shape([n, edge, edge, 3, 10, 3, 3, 1, 1]);
            let half = if pool { edge / 2 } else { edge };
            let second = shape([n, half, half, 10, 9, 3, 3, 1, 1]);
            let ws = [first, second].map(|shape| weights(&mut random, &shape, 40));
            let biases = [random.vec(10), random.vec(9)];
            let x = random.vec(first.input_len());
            let finishes = [Finish { relu: true, pool }, Finish::default()];
            let middle = reference(&first, &floats(&x), &ws[0], &biases[0], None, finishes[0]);
            let want = reference(&second, &middle, &ws[1], &biases[1], None, finishes[1]);
            for isa in Isa::available() {
                let at = |[h, c]: [usize; 2], halo: usize| Layout::new(isa, [n, h, h, c], halo);
                let between = at([half, 10], SparseLayer::halo(isa, &second));
                let one = SparseLayer::new(
                    isa,
                    &first,
                    &ws[0],
                    &biases[0],
                    finishes[0],
                    at([edge, 3], SparseLayer::halo(isa, &first)),
                    between.clone(),
                );
                let two = SparseLayer::new(
                    isa,
                    &second,
                    &ws[1],
                    &biases[1],
                    finishes[1],
                    between.clone(),
                    at([half, 9], 0),
                );
                let mut buffers: [Aligned; 3] = [one.input(), &between, two.output()].map(zeros);
                planes::pack(isa, one.input(), &x, &mut buffers[0]);
                let [a, b, c] = &mut buffers;
                one.run(a, None, b);
                two.run(b, None, c);
                let mut y = unwritten(want.len());
                planes::unpack(two.output(), c, &mut y);
                check(&format!("{n} x {edge} {pool}, {} lanes", isa.lanes()), &y, &want, 1e-5);
            }
        }
    }
}

#[test]
fn moves_equal_float64() {
    let mut random = Random::new();
    for [n, h, w, c] in [[1, 7, 5, 3], [3, 4, 4, 9], [17, 2, 2, 5], [40, 5, 6, 20], [16, 8, 8, 2]] {
        let x = random.vec(n * h * w * c);
        let (p, q) = (h / 2, w / 2);
        let want = pooled([n, h, w, c], &floats(&x));
        let mut mean = vec![0.0; n * c];
        for (i, &x) in x.iter().enumerate() {
            mean[i / (h * w * c) * c + i % c] += f64::from(x) / (h * w) as f64;
        }
        for isa in Isa::available() {
            for halo in 0..3 {
                let what = format!("{:?} {halo}, {} lanes", [n, h, w, c], isa.lanes());
                let layout = Layout::new(isa, [n, h, w, c], halo);
                let mut packed = zeros(&layout);
                planes::pack(isa, &layout, &x, &mut packed);
                let mut back = unwritten(x.len());
                planes::unpack(&layout, &packed, &mut back);
                assert_eq!(back, x, "{what}");
                let small = Layout::new(isa, [n, p, q, c], halo);
                let mut most = zeros(&small);
                planes::max_pool(isa, &layout, &packed, &small, &mut most);
                let mut y = unwritten(want.len());
                planes::unpack(&small, &most, &mut y);
                check(&format!("maximum {what}"), &y, &want, 0.0);
                let mut y = unwritten(n * c);
                planes::global_avg_pool(&layout, &packed, &mut y);
                check(&format!("mean {what}"), &y, &mean, 1e-5);
                // From a convolution with one image a lane to one on planes, and back.
                if layout.is_batched() && isa.lanes() == lanes::lanes() {
                    let mut inside = unwritten(lanes::len(n, [h, w, c]));
                    lanes::from_nhwc([n, h * w, c], &x, &mut inside);
                    let mut planes = zeros(&layout);
                    planes::from_lanes(&layout, &inside, &mut planes);
                    assert_eq!(planes[..], packed[..], "{what}");
                    let mut again = unwritten(inside.len());
                    planes::to_lanes(&layout, &planes, &mut again);
                    assert_eq!(again, inside, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_nan_is_a_maximum() {
    for n in [1, 16] {
        for isa in Isa::available() {
            let shape = shape([n, 8, 8, 1, 1, 1, 1, 1, 0]);
            let mut x = vec![0.0; n * 64];
            [0, 3, 20, 29].into_iter().for_each(|i| x[i] = f32::NAN);
            let input = Layout::new(isa, [n, 8, 8, 1], 0);
            let output = Layout::new(isa, [n, 4, 4, 1], 0);
            let finish = Finish { relu: true, pool: true };
            let layer = SparseLayer::new(isa, &shape, &[1.0], &[0.0], finish, input, output);
            let (mut from, mut to) = (zeros(layer.input()), zeros(layer.output()));
            planes::pack(isa, layer.input(), &x, &mut from);
            layer.run(&from, None, &mut to);
            let mut y = unwritten(n * 16);
            planes::unpack(layer.output(), &to, &mut y);
            let found: Vec<usize> = (0..16).filter(|&i| y[i].is_nan()).collect();
            assert_eq!(found, [0, 1, 6], "{n} images, {} lanes", isa.lanes());
        }
    }
}

/// Of the first images, whatever others go with them and whoever made the layer ready.
#[test]
fn bits_do_not_depend_on_threads_and_other_images() {
    let mut random = Random::new();
    // Images, of which the first are compared, and h, w, c, k, r, s, stride, pad.
    let cases: [(&[usize], [usize; 8]); 8] = [
        (&[16, 40], [8, 8, 20, 70, 3, 3, 1, 1]),
        (&[16, 40], [4, 4, 20, 70, 3, 3, 1, 1]),
        (&[16, 32, 40], [8, 8, 130, 70, 3, 3, 1, 1]),
        (&[16, 32, 40], [2, 2, 130, 70, 3, 3, 1, 1]),
        (&[16, 32, 40], [2, 2, 150, 10, 1, 1, 1, 0]),
        (&[16, 32, 64], [1, 1, 512, 64, 3, 3, 1, 1]),
        (&[1, 2], [9, 9, 20, 70, 3, 3, 1, 1]),
        (&[1, 2], [16, 16, 200, 70, 3, 3, 1, 1]),
    ];
    for (counts, [h, w, c, k, r, s, stride, pad]) in cases {
        let of = |n: usize| shape([n, h, w, c, k, r, s, stride, pad]);
        let (first, most) = (of(counts[0]), of(counts[counts.len() - 1]));
        let weight = weights(&mut random, &first, 11);
        let (bias, x) = (random.vec(k), random.vec(most.input_len()));
        for isa in Isa::available() {
            let run = |n: usize, threads: usize| {
                let shape = of(n);
                let halo = SparseLayer::halo(isa, &shape);
                let input = Layout::new(isa, [n, h, w, c], halo);
                let output = Layout::new(isa, [n, shape.p(), shape.q(), k], 1);
                let mut from = zeros(&input);
                planes::pack(isa, &input, &x[..shape.input_len()], &mut from);
                let mut to = zeros(&output);
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let finish = Finish::default();
                pool.install(|| {
                    let to = &mut to;
                    SparseLayer::new(isa, &shape, &weight, &bias, finish, input, output.clone())
                        .run(&from, None, to);
                });
                let mut y = unwritten(shape.output_len());
                planes::unpack(&output, &to, &mut y);
                y.truncate(first.output_len());
                y
            };
            let one = run(counts[0], 1);
            for (&n, threads) in counts.iter().flat_map(|n| [1, 2, 5].map(|threads| (n, threads))) {
                let what = format!("{n} images of {first:?}, {threads} threads");
                assert!(run(n, threads) == one, "{what}, {} lanes", isa.lanes());
            }
        }
    }
}
