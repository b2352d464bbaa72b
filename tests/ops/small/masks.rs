//! Masks: counts, norms, pruning and regrowing by rank.

use super::{Fill, Random, assert_same_bits, cases, devices, wide};
use rewire::{Device, Tensor, ops};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    shape: Vec<usize>,
    #[serde(default)]
    fill: Fill,
    density: f32,
    /// What share of the candidates is flipped (topk only).
    #[serde(default)]
    share: f64,
}

impl Case {
    fn draw(&self, random: &mut Random) -> (Vec<f32>, Vec<u8>) {
        let len = self.shape.iter().product();
        (random.fill(self.fill, len), random.mask(len, self.density))
    }

    fn tensor<T: rewire::dtype::Element>(&self, x: &[T], device: &Device) -> Tensor {
        Tensor::from_vec(x.to_vec(), &self.shape, device).unwrap()
    }
}

/// The mask after flipping the first `count` candidates in the order of `rank`, ties by index.
fn sorted(x: &[f32], mask: &[u8], from: u8, count: usize, rank: impl Fn(f32) -> f32) -> Vec<u8> {
    let mut order = (0..x.len()).filter(|&i| mask[i] == from).collect::<Vec<_>>();
    order.sort_by(|&a, &b| rank(x[a]).total_cmp(&rank(x[b])).then(a.cmp(&b)));
    let mut mask = mask.to_vec();
    order.into_iter().take(count).for_each(|i| mask[i] = 1 - from);
    mask
}

#[test]
fn prune_and_regrow() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/topk.toml")) {
        let (x, mask) = case.draw(random);
        for (from, name) in [(1, "prune"), (0, "regrow")] {
            let candidates = mask.iter().filter(|&&m| m == from).count();
            let count = (case.share * candidates as f64).round() as usize;
            let want = match from {
                1 => sorted(&x, &mask, 1, count, |x| x.abs()),
                _ => sorted(&x, &mask, 0, count, |x| -x.abs()),
            };
            for device in devices() {
                let mut got = case.tensor(&mask, &device);
                let (kept, x) = (got.clone(), case.tensor(&x, &device));
                match from {
                    1 => ops::prune_smallest(&mut got, &x, count).unwrap(),
                    _ => ops::regrow_largest(&mut got, &x, count).unwrap(),
                }
                let what = format!("{name}, {} on {device}", case.name);
                assert_eq!(got.to_vec::<u8>().unwrap(), want, "{what}");
                assert_eq!(kept.to_vec::<u8>().unwrap(), mask, "{what}: a clone");
            }
        }
    }
}

#[test]
fn more_than_there_are_means_all() {
    for device in devices() {
        let x = Tensor::from_vec(vec![0.0f32, -3.0, 1.0, f32::NAN], &[4], &device).unwrap();
        let mut mask = Tensor::from_vec(vec![1u8, 1, 0, 1], &[4], &device).unwrap();
        ops::prune_smallest(&mut mask, &x, 9).unwrap();
        assert_eq!(mask.to_vec::<u8>().unwrap(), [0; 4]);
        ops::regrow_largest(&mut mask, &x, 2).unwrap();
        assert_eq!(mask.to_vec::<u8>().unwrap(), [0, 1, 0, 1], "a NaN ranks above all");
        ops::regrow_largest(&mut mask, &x, usize::MAX).unwrap();
        assert_eq!(mask.to_vec::<u8>().unwrap(), [1; 4]);
    }
}

#[test]
fn counts_sums_and_norms() {
    let random = &mut Random::new();
    for case in cases::<Case>(include_str!("../../cases/mask.toml")) {
        let (x, mask) = case.draw(random);
        let z = random.normals(x.len());
        let masked =
            x.iter().zip(&mask).map(|(x, &m)| if m == 0 { 0.0 } else { *x }).collect::<Vec<_>>();
        let ones = mask.iter().filter(|&&m| m == 1).count();
        let wide_x = wide(&x);
        let sum = wide(&masked).iter().map(|x| x.abs()).sum::<f64>();
        let distance =
            wide(&masked).iter().zip(wide(&z)).map(|(w, z)| (w - z).powi(2)).sum::<f64>();
        let (k, c) = (case.shape[0], *case.shape.last().unwrap());
        let by = |groups: usize, group: &dyn Fn(usize) -> usize| {
            let mut norms = vec![0.0; groups];
            wide_x.iter().enumerate().for_each(|(i, x)| norms[group(i)] += x * x);
            norms
        };
        let each = (x.len() / k.max(1)).max(1);
        for device in devices() {
            let what = format!("{} on {device}", case.name);
            let (mut w, m) = (case.tensor(&x, &device), case.tensor(&mask, &device));
            let z = case.tensor(&z, &device);
            assert_eq!(ops::mask_count(&m).unwrap(), ones, "{what}");
            let close = |got: f64, want: f64| {
                assert!((got - want).abs() <= 1e-12 * want.abs(), "{what}: {got} for {want}");
            };
            close(ops::masked_abs_mean(&w, &m).unwrap(), sum / ones.max(1) as f64);
            close(ops::squared_distance(&w, &m, &z).unwrap(), distance);
            for (got, want) in [
                (ops::channel_norms(&w).unwrap(), by(c, &|i| i % c)),
                (ops::filter_norms(&w).unwrap(), by(k, &|i| i / each)),
            ] {
                assert_eq!(got.len(), want.len(), "{what}");
                got.into_iter().zip(want).for_each(|(got, want)| close(got, want));
            }
            let again = ops::squared_distance(&w, &m, &z).unwrap();
            assert_eq!(again.to_bits(), ops::squared_distance(&w, &m, &z).unwrap().to_bits());
            let kept = w.clone();
            ops::apply_mask(&mut w, &m).unwrap();
            assert_same_bits(&what, &w.to_vec().unwrap(), &masked);
            assert_same_bits(&what, &kept.to_vec().unwrap(), &x);
        }
    }
}
