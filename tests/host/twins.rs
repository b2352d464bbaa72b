//! Each instruction's host twin alone: registers are filled lane by lane from the tables of the PTX ISA.

use super::{Buffer, both};
use half::bf16;
use rewire::device::Launch;
use rewire::device::host::Host;
use rewire::rng::{Philox, Seed};

/// Fresh numbers for each run of the tests, with what to print on failure.
fn fresh() -> (Philox, String) {
    let seed = crate::seed::fresh_seed();
    (Seed(seed).stream("twins", 0, 0), format!("seed {seed}"))
}

/// `rows x columns` numbers in [-1, 1) that bf16 holds exactly.
fn matrix(philox: &Philox, offset: usize, rows: usize, columns: usize) -> Vec<Vec<f32>> {
    let at = |r, c| bf16::from_f32(2.0 * philox.uniform(offset + r * columns + c) - 1.0).to_f32();
    (0..rows).map(|r| (0..columns).map(|c| at(r, c)).collect()).collect()
}

fn pair(lo: f32, hi: f32) -> u32 {
    u32::from(bf16::from_f32(lo).to_bits()) | u32::from(bf16::from_f32(hi).to_bits()) << 16
}

/// Where accumulator `i` of a lane stands: row and column.
fn accumulator(lane: usize, i: usize) -> (usize, usize) {
    let row = if i < 2 { lane / 4 } else { lane / 4 + 8 };
    (row, lane % 4 * 2 + (i & 1))
}

/// Runs an mma and compares with `a b + c` in f64.
fn check_mma(
    run: impl Fn(&Host, &Buffer<'_>, &Buffer<'_>),
    a: &[Vec<f32>],
    b: &[Vec<f32>],
    c: &[Vec<f32>],
    seed: &str,
) {
    let c_lanes: Vec<[f32; 4]> = (0..32)
        .map(|lane| [0, 1, 2, 3].map(|i| accumulator(lane, i)).map(|(row, column)| c[row][column]))
        .collect();
    for gpu in both() {
        let (dc, dd) = (Buffer::of(&gpu, &c_lanes), Buffer::new(&gpu, 512));
        run(&gpu, &dc, &dd);
        let d = dd.get::<[f32; 4]>();
        for lane in 0..32 {
            for i in 0..4 {
                let (m, n) = accumulator(lane, i);
                let products = (0..b.len()).map(|k| f64::from(a[m][k]) * f64::from(b[k][n]));
                let want = f64::from(c[m][n]) + products.sum::<f64>();
                let got = f64::from(d[lane][i]);
                assert!((got - want).abs() < 1e-5, "{seed}, lane {lane}, d{i}: {got} for {want}");
            }
        }
    }
}

#[test]
fn mma_m16n8k16_multiplies() {
    let (philox, seed) = fresh();
    let (a, b) = (matrix(&philox, 0, 16, 16), matrix(&philox, 1000, 16, 8));
    let c = matrix(&philox, 2000, 16, 8);
    // a_i: row g for i in 0, 1, 4, 5, else g + 8; column 2 t + (i & 1), and 8 more from i = 4 on.
    let a_at = |lane: usize, i: usize| {
        let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
        a[row][lane % 4 * 2 + (i & 1) + if i < 4 { 0 } else { 8 }]
    };
    // b_i: row 2 t + (i & 1), and 8 more from i = 2 on; column g.
    let b_at =
        |lane: usize, i: usize| b[lane % 4 * 2 + (i & 1) + if i < 2 { 0 } else { 8 }][lane / 4];
    let left: Vec<[u32; 4]> =
        (0..32).map(|l| [0, 2, 4, 6].map(|i| pair(a_at(l, i), a_at(l, i + 1)))).collect();
    let right: Vec<[u32; 2]> =
        (0..32).map(|l| [0, 2].map(|i| pair(b_at(l, i), b_at(l, i + 1)))).collect();
    let run = |gpu: &Host, c: &Buffer<'_>, d: &Buffer<'_>| {
        let (left, right) = (Buffer::of(gpu, &left), Buffer::of(gpu, &right));
        let launch = Launch::new("twin_mma_m16n8k16_bf16").block(32, 1, 1);
        launch.arg(&left).arg(&right).arg(c).arg(d).run(gpu).unwrap();
    };
    check_mma(run, &a, &b, &c, &seed);
}

#[test]
fn mma_m16n8k8_multiplies() {
    let (philox, seed) = fresh();
    let (a, b) = (matrix(&philox, 0, 16, 8), matrix(&philox, 1000, 8, 8));
    let c = matrix(&philox, 2000, 16, 8);
    // a0 (g, t), a1 (g + 8, t), a2 (g, t + 4), a3 (g + 8, t + 4); b0 (t, g), b1 (t + 4, g). The 13 lowest bits
    // are not part of a tf32: the instruction must ignore them.
    let noise = |l: usize, i: usize| philox.bits(4 * l + i) & 0x1fff;
    let left: Vec<[u32; 4]> = (0..32)
        .map(|l| {
            [0, 1, 2, 3]
                .map(|i| a[l / 4 + 8 * (i & 1)][l % 4 + 4 * (i / 2)].to_bits() | noise(l, i))
        })
        .collect();
    let right: Vec<[u32; 2]> =
        (0..32).map(|l| [0, 1].map(|i| b[l % 4 + 4 * i][l / 4].to_bits() | noise(l, i))).collect();
    let run = |gpu: &Host, c: &Buffer<'_>, d: &Buffer<'_>| {
        let (left, right) = (Buffer::of(gpu, &left), Buffer::of(gpu, &right));
        let launch = Launch::new("twin_mma_m16n8k8_tf32").block(32, 1, 1);
        launch.arg(&left).arg(&right).arg(c).arg(d).run(gpu).unwrap();
    };
    check_mma(run, &a, &b, &c, &seed);
}

#[test]
fn mma_sp_m16n8k32_multiplies() {
    let (philox, seed) = fresh();
    let kept = matrix(&philox, 0, 16, 16);
    let (b, c) = (matrix(&philox, 1000, 32, 8), matrix(&philox, 2000, 16, 8));
    let choices = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]];
    let choice = |row: usize, quad: usize| choices[philox.bits(3000 + 8 * row + quad) as usize % 6];
    let mut a = vec![vec![0f32; 32]; 16];
    for row in 0..16 {
        for quad in 0..8 {
            let [i, j] = choice(row, quad);
            a[row][4 * quad + i] = kept[row][2 * quad];
            a[row][4 * quad + j] = kept[row][2 * quad + 1];
        }
    }
    let a_at = |lane: usize, i: usize| {
        let row = if i < 2 || (4..6).contains(&i) { lane / 4 } else { lane / 4 + 8 };
        kept[row][lane % 4 * 2 + (i & 1) + if i < 4 { 0 } else { 8 }]
    };
    let b_at = |lane: usize, i: usize| b[lane % 4 * 2 + (i & 1) + 8 * (i / 2)][lane / 4];
    let left: Vec<[u32; 4]> =
        (0..32).map(|l| [0, 2, 4, 6].map(|i| pair(a_at(l, i), a_at(l, i + 1)))).collect();
    let right: Vec<[u32; 4]> =
        (0..32).map(|l| [0, 2, 4, 6].map(|i| pair(b_at(l, i), b_at(l, i + 1)))).collect();
    for selector in 0..2 {
        // Other lanes' words must not count.
        let metadata: Vec<u32> = (0..32)
            .map(|lane| {
                if lane % 4 / 2 != selector {
                    return philox.bits(4000 + lane);
                }
                let word = |row: usize| {
                    (0..4).fold(0, |word, q| {
                        let [i, j] = choice(row, 4 * (lane % 2) + q);
                        word | (i + 4 * j) << (4 * q)
                    })
                };
                (word(lane / 4) | word(lane / 4 + 8) << 16) as u32
            })
            .collect();
        let run = |gpu: &Host, c: &Buffer<'_>, d: &Buffer<'_>| {
            let (left, right) = (Buffer::of(gpu, &left), Buffer::of(gpu, &right));
            let metadata = Buffer::of(gpu, &metadata);
            let launch = Launch::new("twin_mma_sp_m16n8k32_bf16").block(32, 1, 1);
            let launch = launch.arg(&left).arg(&right).arg(c).arg(&metadata).arg(d);
            launch.arg(&(selector as i32)).run(gpu).unwrap();
        };
        check_mma(run, &a, &b, &c, &seed);
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_elements() {
    for gpu in both() {
        let element = |m: usize, r: usize, c: usize| (1000 * m + 10 * r + c) as u16;
        let rows: Vec<u16> = (0..256).map(|i| element(i / 64, i / 8 % 8, i % 8)).collect();
        let rows = Buffer::of(&gpu, &rows);
        let [x4, x4_trans, x2, x2_trans] =
            [512, 512, 256, 256].map(|bytes| Buffer::new(&gpu, bytes));
        let launch = Launch::new("twin_ldmatrix").block(32, 1, 1);
        launch.arg(&rows).arg(&x4).arg(&x4_trans).arg(&x2).arg(&x2_trans).run(&gpu).unwrap();
        for (got, matrices, trans) in
            [(x4, 4, false), (x4_trans, 4, true), (x2, 2, false), (x2_trans, 2, true)]
        {
            let got = got.get::<u16>();
            for lane in 0..32 {
                for m in 0..matrices {
                    for half in 0..2 {
                        let (r, c) = (lane / 4, lane % 4 * 2 + half);
                        let want = if trans { element(m, c, r) } else { element(m, r, c) };
                        let at = (lane * matrices + m) * 2 + half;
                        assert_eq!(got[at], want, "lane {lane}, matrix {m}, trans {trans}");
                    }
                }
            }
        }
    }
}

#[test]
fn conversions_round_as_the_instructions_do() {
    let (philox, seed) = fresh();
    let special =
        [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX, f32::MIN_POSITIVE, 1e-45];
    let mut x = special.to_vec();
    // Ties of bf16 and of tf32, both ways.
    x.extend(
        [0x3f80_8000, 0x3f81_8000, 0x3f80_8001, 0x3f80_7fff, 0x3f80_1000, 0x3f80_0fff]
            .map(f32::from_bits),
    );
    // NaNs with low bits.
    x.extend([0x7fff_ffff, 0xffff_ffff, 0x7fc0_1234, 0x7f80_0001].map(f32::from_bits));
    x.extend((x.len()..1024).map(|i| f32::from_bits(philox.bits(i))));
    for gpu in both() {
        let dx = Buffer::of(&gpu, &x);
        let [y, back, pairs, tf32] = [2048, 4096, 4096, 4096].map(|bytes| Buffer::new(&gpu, bytes));
        let launch = Launch::new("twin_convert").grid(4, 1, 1);
        launch.arg(&dx).arg(&y).arg(&back).arg(&pairs).arg(&tf32).run(&gpu).unwrap();
        let (y, back, pairs, tf32) =
            (y.get::<u16>(), back.get::<f32>(), pairs.get::<u32>(), tf32.get::<u32>());
        let nearest = |x: f32| if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() };
        for (i, &value) in x.iter().enumerate() {
            let want = nearest(value);
            assert_eq!(y[i], want, "{seed}: bf16 of {value:e}");
            assert_eq!(back[i].to_bits(), u32::from(want) << 16);
            assert_eq!(pairs[i], u32::from(want) | u32::from(nearest(x[i ^ 1])) << 16);
            if value.is_finite() && value.abs() < 1e38 {
                // The nearest multiple of 2^-10 of the power of two below, ties away from zero.
                let ulp = f64::from(f32::from_bits(value.to_bits() & 0x7f80_0000)) / 1024.0;
                let want = (f64::from(value) / ulp).round() * ulp;
                let normal = value.is_normal();
                assert!(
                    !normal || f64::from(f32::from_bits(tf32[i])) == want,
                    "{seed}: tf32 of {value:e}"
                );
            } else if !value.is_finite() {
                assert_eq!(tf32[i], value.to_bits() & !0x1fff, "{seed}: tf32 of {value:e}");
            }
            assert_eq!(tf32[i] & 0x1fff, 0, "{seed}: tf32 of {value:e}");
        }
    }
}

#[test]
fn extremes_are_those_of_the_instructions() {
    let values = [0.0, -0.0, 1.0, -1.0, f32::INFINITY, f32::NEG_INFINITY, 1e-45];
    let nans = [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001].map(f32::from_bits);
    let all = [&values[..], &nans].concat();
    let pairs = all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b)));
    let (mut a, mut b): (Vec<f32>, Vec<f32>) = pairs.unzip();
    let len = a.len();
    a.resize(256, 0.0);
    b.resize(256, 0.0);
    let nan = f32::from_bits(0x7fff_ffff);
    let number = |a: f32, b: f32, a_wins: bool| match (a.is_nan(), b.is_nan()) {
        (true, true) => nan,
        (true, false) => b,
        (false, true) => a,
        (false, false) if a_wins => a,
        (false, false) => b,
    };
    for gpu in both() {
        let (da, db) = (Buffer::of(&gpu, &a), Buffer::of(&gpu, &b));
        let [least, most, most_or_nan] = [(); 3].map(|()| Buffer::new(&gpu, 1024));
        let launch = Launch::new("twin_extremes").arg(&da).arg(&db);
        launch.arg(&least).arg(&most).arg(&most_or_nan).run(&gpu).unwrap();
        let [least, most, most_or_nan] = [least, most, most_or_nan].map(|y| y.get::<u32>());
        for (i, (&a, &b)) in a.iter().zip(&b).enumerate().take(len) {
            let what = format!("{:08x} and {:08x}", a.to_bits(), b.to_bits());
            let a_is_less = a.total_cmp(&b).is_le(); // -0 lies below +0
            assert_eq!(least[i], number(a, b, a_is_less).to_bits(), "fminf of {what}");
            assert_eq!(most[i], number(a, b, !a_is_less).to_bits(), "fmaxf of {what}");
            let want = if a.is_nan() || b.is_nan() { nan } else { number(a, b, !a_is_less) };
            assert_eq!(most_or_nan[i], want.to_bits(), "max.NaN of {what}");
        }
    }
}

#[test]
fn warps_exchange_and_reduce() {
    let (philox, seed) = fresh();
    let x: Vec<i32> = (0..64).map(|i| (philox.bits(i) % 101) as i32 - 50).collect();
    let by: Vec<u32> = (64..128).map(|i| philox.bits(i) % 32).collect();
    for gpu in both() {
        let (dx, dby, y) =
            (Buffer::of(&gpu, &x), Buffer::of(&gpu, &by), Buffer::new(&gpu, 8 * 640));
        Launch::new("twin_warp").block(64, 1, 1).arg(&dx).arg(&dby).arg(&y).run(&gpu).unwrap();
        let y = y.get::<i64>();
        for t in 0..64 {
            let (lane, warp) = (t % 32, &x[t / 32 * 32..][..32]);
            let from = |l: usize| i64::from(warp[l]);
            let votes = (0..32).filter(|&l| warp[l] > 0).fold(0i64, |votes, l| votes | 1 << l);
            let want = [
                from(by[t] as usize),
                from(if lane < 3 { lane } else { lane - 3 }),
                from(if lane > 26 { lane } else { lane + 5 }),
                from(lane ^ 9),
                from(by[t] as usize) << 32,
                votes,
                i64::from(warp.contains(&40)),
                1,
                warp.iter().map(|&v| i64::from(v)).sum(),
                i64::from(*warp.iter().max().unwrap()),
            ];
            let got: Vec<_> = (0..10).map(|row| y[64 * row + t]).collect();
            assert_eq!(got, want, "{seed}, thread {t}");
        }
    }
}

#[test]
fn blocks_reduce_in_a_fixed_order() {
    let (philox, seed) = fresh();
    for threads in [32, 96, 256, 1024] {
        let x: Vec<f32> = (0..2 * threads).map(|i| philox.uniform(i) - 0.5).collect();
        let results: Vec<_> = both()
            .iter()
            .map(|gpu| {
                let [dx, sums, maxima, minima] = [(); 4].map(|()| Buffer::of(gpu, &x));
                let launch = Launch::new("twin_block").grid(2, 1, 1).block(threads as u32, 1, 1);
                launch.arg(&dx).arg(&sums).arg(&maxima).arg(&minima).run(gpu).unwrap();
                [sums.get::<f32>(), maxima.get::<f32>(), minima.get::<f32>()]
            })
            .collect();
        assert_eq!(results[0], results[1], "{seed}: the schedules differ");
        for i in 0..2 * threads {
            let block = &x[i / threads * threads..][..threads];
            let warp = &x[i / 32 * 32..][..32];
            let sum: f64 = block.iter().map(|&v| f64::from(v)).sum();
            let [sums, maxima, minima] = &results[0];
            assert!((f64::from(sums[i]) - sum).abs() < 1e-4, "{seed}: {} for {sum}", sums[i]);
            assert_eq!(maxima[i], block.iter().copied().fold(f32::MIN, f32::max));
            assert_eq!(minima[i], warp.iter().copied().fold(f32::MAX, f32::min));
        }
    }
}

#[test]
fn cp_async_copies_or_fills_with_zeros() {
    let x: Vec<u8> = (0..32 * 28).map(|i| (i % 255) as u8 + 1).collect();
    for gpu in both() {
        for valid in [0, 13, 32] {
            let (dx, y) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, x.len()));
            let launch = Launch::new("twin_cp_async").block(32, 1, 1);
            launch.arg(&dx).arg(&y).arg(&valid).run(&gpu).unwrap();
            let copied = |i: usize| match i {
                0..512 => i / 16,
                512..768 => (i - 512) / 8,
                _ => (i - 768) / 4,
            };
            let want = |i: usize| if copied(i) < valid as usize { x[i] } else { 0 };
            assert_eq!(y.get::<u8>(), (0..x.len()).map(want).collect::<Vec<_>>());
        }
    }
}

#[test]
fn atomics_combine() {
    for gpu in both() {
        let words = Buffer::of(&gpu, &[0u32, 0, 0, u32::MAX, 0]);
        let (wide, signed) = (Buffer::of(&gpu, &[5u64]), Buffer::of(&gpu, &[7i32]));
        let launch = Launch::new("twin_atomic").grid(8, 1, 1).block(64, 1, 1);
        launch.arg(&words).arg(&wide).arg(&signed).run(&gpu).unwrap();
        let spread = (0..512u32).map(|i| i.wrapping_mul(2_654_435_761));
        let sum = 511 * 512 / 2;
        let want =
            [sum, 512 % 100, spread.clone().max().unwrap(), spread.min().unwrap(), u32::MAX >> 1];
        assert_eq!(words.get::<u32>(), want);
        assert_eq!(wide.get::<u64>(), [5 + (u64::from(sum) << 32)]);
        assert_eq!(signed.get::<i32>(), [7 - sum as i32]);
    }
}

#[test]
fn philox_gives_the_bits_of_the_cpu() {
    let (philox, seed) = fresh();
    let philox = Philox { step: 1 << 40 | 17, layer: 3, ..philox };
    let len = 256 * 256;
    for gpu in both() {
        let [bits, uniform, normal] = [(); 3].map(|()| Buffer::new(&gpu, 4 * len));
        let launch = Launch::new("twin_philox").grid(256, 1, 1);
        let launch =
            launch.arg(&philox.key[0]).arg(&philox.key[1]).arg(&philox.layer).arg(&philox.step);
        launch.arg(&bits).arg(&uniform).arg(&normal).run(&gpu).unwrap();
        let (bits, uniform, normal) =
            (bits.get::<u32>(), uniform.get::<f32>(), normal.get::<f32>());
        for i in 0..len {
            assert_eq!(bits[i], philox.bits(i), "{seed}, {i}");
            assert_eq!(uniform[i].to_bits(), philox.uniform(i).to_bits(), "{seed}, {i}");
            assert_eq!(normal[i].to_bits(), philox.normal(i).to_bits(), "{seed}, {i}");
        }
    }
}

#[test]
fn bit_counts_equal() {
    let (philox, seed) = fresh();
    let x: Vec<u32> =
        (0..256).map(|i| philox.bits(i) >> (i % 33).min(31) & !u32::from(i == 32)).collect();
    let x: Vec<u32> = x.iter().enumerate().map(|(i, &x)| if i == 0 { 0 } else { x }).collect();
    for gpu in both() {
        let (dx, y) = (Buffer::of(&gpu, &x), Buffer::new(&gpu, 1024));
        Launch::new("twin_bits").arg(&dx).arg(&y).run(&gpu).unwrap();
        let first = |x: u32| if x == 0 { 0 } else { x.trailing_zeros() + 1 };
        let want = |&x: &u32| x.count_ones() + 100 * x.leading_zeros() + 10_000 * first(x);
        assert_eq!(y.get::<u32>(), x.iter().map(want).collect::<Vec<_>>(), "{seed}");
    }
}
