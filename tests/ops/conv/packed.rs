//! Inference with packed masked filters: `infer_sparse_conv2d`, `infer_sparse_lists`.

use super::super::{Random, assert_close, cases};
use super::planes::{gpus, images, planes, rounded};
use super::pruned::{draw_mask, shuffled};
use super::{Conv, wide};
use rewire::ops::{self, FilterLists, PackedSparseFilter, SparseProduct};
use rewire::{DType, Device, Mode, Tensor};
use serde::Deserialize;

/// What the rounding of a bf16 result leaves, with room; the limit of the mode is 1e-2.
const TOLERANCE: f64 = 4e-3;
const PRODUCTS: [SparseProduct; 2] = [SparseProduct::Dense, SparseProduct::TwoFour];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PackedCase {
    name: String,
    x: [usize; 4],
    w: [usize; 4],
    stride: usize,
    padding: usize,
    density: f64,
    #[serde(default)]
    skewed: bool,
    #[serde(default)]
    residual: bool,
    #[serde(default)]
    relu: bool,
    #[serde(default)]
    pool: bool,
}

/// Round(density · len) weights; skewed: all in half of the filters and, where there is room, in half of the channels.
fn mask(case: &PackedCase, random: &mut Random) -> Vec<u8> {
    let len = case.w.iter().product();
    if !case.skewed {
        return draw_mask(len, case.density, random);
    }
    let [k, r, s, c] = case.w;
    let filters = &shuffled(k, random)[..k.div_ceil(2)];
    let channels = &shuffled(c, random)[..c.div_ceil(2)];
    let mut mask = vec![0; len];
    let mut left = (case.density * len as f64).round() as usize;
    for i in shuffled(len, random) {
        if left > 0 && filters.contains(&(i / (r * s * c))) && channels.contains(&(i % c)) {
            mask[i] = 1;
            left -= 1;
        }
    }
    mask
}

/// Operands of one case, and the result in float64. Those of mode `bf16` are as bf16 holds them.
struct Layer {
    mode: Mode,
    conv: Conv,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    relu: bool,
    pool: bool,
}

impl Layer {
    fn new(case: &PackedCase, mode: Mode, random: &mut Random) -> Self {
        let conv = Conv { x: case.x, w: case.w, stride: case.stride, padding: case.padding };
        let mask = mask(case, random);
        let stored = if mode == Mode::Bf16 { mode } else { Mode::F32 };
        let mut draw = |shape: [usize; 4]| rounded(stored, random.vec(shape.iter().product()));
        let (x, w, residual) = (draw(case.x), draw(case.w), draw(conv.y()));
        let w = w.iter().zip(&mask).map(|(&w, &m)| if m == 0 { 0.0 } else { w }).collect();
        let bias = random.vec(case.w[0]);
        let residual = case.residual.then_some(residual);
        Self { mode, conv, x, w, bias, residual, relu: case.relu, pool: case.pool }
    }

    /// Shape of the result.
    fn y(&self) -> [usize; 4] {
        let [n, p, q, k] = self.conv.y();
        if self.pool { [n, p / 2, q / 2, k] } else { [n, p, q, k] }
    }

    fn reference(&self) -> Vec<f64> {
        let [x, w] = [&self.x, &self.w].map(|v| wide(&rounded(self.mode, v.clone())));
        let mut y = self.conv.forward(&x, &w, &wide(&self.bias));
        if let Some(residual) = &self.residual {
            y.iter_mut().zip(residual).for_each(|(y, &add)| *y += f64::from(add));
        }
        if self.relu {
            y.iter_mut().for_each(|y| *y = y.max(0.0));
        }
        if !self.pool {
            return y;
        }
        let [_, p, q, k] = self.conv.y();
        let ([n, half_p, half_q, _], mut pooled) = (self.y(), Vec::new());
        for (image, row) in (0..n * half_p).map(|i| (i / half_p, i % half_p)) {
            for (column, filter) in (0..half_q * k).map(|i| (i / k, i % k)) {
                let at = |i: usize| {
                    let (row, column) = (2 * row + i / 2, 2 * column + i % 2);
                    y[((image * p + row) * q + column) * k + filter]
                };
                pooled.push((0..4).map(at).fold(f64::NEG_INFINITY, f64::max));
            }
        }
        pooled
    }

    /// The filter and its bias.
    fn weights(&self, device: &Device) -> [Tensor; 2] {
        let shape = self.conv.w;
        let w = Tensor::from_vec(self.w.clone(), &shape, device).unwrap();
        [w, Tensor::from_vec(self.bias.clone(), &[shape[0]], device).unwrap()]
    }

    fn filter(&self, device: &Device, product: SparseProduct) -> PackedSparseFilter {
        let Conv { x: [_, h, width, _], stride, padding, .. } = self.conv;
        let [w, bias] = self.weights(device);
        let filter = PackedSparseFilter::new(&w, Some(&bias), [h, width], stride, padding, product);
        let filter = filter.unwrap();
        assert_eq!(filter.kept(), self.w.iter().filter(|&&w| w != 0.0).count());
        filter
    }

    fn lists(&self, device: &Device) -> FilterLists {
        let Conv { x: [n, h, width, _], stride, padding, .. } = self.conv;
        let [w, bias] = self.weights(device);
        let lists = FilterLists::new(&w, &bias, n, [h, width], [stride, padding], self.mode);
        let lists = lists.unwrap();
        assert_eq!(lists.kept(), self.w.iter().filter(|&&w| w != 0.0).count());
        lists
    }

    /// By tensor cores where a product is given, else by lists.
    fn run(&self, device: &Device, product: Option<SparseProduct>) -> Vec<f32> {
        let dtype = self.mode.storage();
        let x = planes(&self.x, self.conv.x, dtype, device);
        let residual = self.residual.as_ref().map(|r| planes(r, self.conv.y(), dtype, device));
        let empty = |shape: &[usize]| Tensor::empty(shape, dtype, device).unwrap();
        let (residual, relu, pool) = (residual.as_ref(), self.relu, self.pool);
        let y = match product {
            Some(product) => {
                let filter = self.filter(device, product);
                let mut y = empty(&filter.output_shape(&x, pool));
                ops::infer_sparse_conv2d(&x, &filter, residual, relu, pool, &mut y).unwrap();
                y
            }
            None => {
                let lists = self.lists(device);
                let mut y = empty(&lists.output_shape(&x, pool));
                ops::infer_sparse_lists(&x, &lists, residual, relu, pool, &mut y).unwrap();
                y
            }
        };
        images(&y, self.y())
    }
}

/// Each case in each of the modes, by each of the products, on every device with kernels.
fn equals_float64(modes: &[Mode], products: &[Option<SparseProduct>], tolerance: f64) {
    let mut random = Random::new();
    for case in cases::<PackedCase>(include_str!("../../cases/infer_sparse_conv2d.toml")) {
        for &mode in modes {
            let layer = Layer::new(&case, mode, &mut random);
            let want = layer.reference();
            for device in gpus() {
                for &product in products {
                    let what = (&case.name, &device, mode, product);
                    let got = layer.run(&device, product);
                    assert_close(what, &got, &want, tolerance);
                    let again = layer.run(&device, product);
                    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&got), bits(&again), "{}: the same bits again", case.name);
                }
            }
        }
    }
}

#[test]
fn infer_sparse_conv2d_equals_float64_loops() {
    equals_float64(&[Mode::Bf16], &PRODUCTS.map(Some), TOLERANCE);
}

/// The operands of the reference are rounded as the mode says, so that nothing but sums may differ.
#[test]
fn infer_sparse_lists_equals_float64_loops() {
    equals_float64(&[Mode::F32, Mode::Tf32], &[None], Mode::F32.tolerance());
    equals_float64(&[Mode::Bf16], &[None], TOLERANCE);
}

#[test]
fn layers_follow_each_other_in_planes() {
    let mut random = Random::new();
    let case = |w, residual, pool| PackedCase {
        name: "chain".into(),
        x: [10, 6, 6, 12],
        w,
        stride: 1,
        padding: 1,
        density: 0.2,
        skewed: false,
        residual,
        relu: true,
        pool,
    };
    let mode = Mode::Bf16;
    let first = Layer::new(&case([12, 3, 3, 12], false, false), mode, &mut random);
    // A block with a shortcut: its input is added behind the second convolution.
    let mut second = Layer::new(&case([12, 3, 3, 12], false, true), mode, &mut random);
    let between: Vec<f32> = first.reference().iter().map(|&v| v as f32).collect();
    second.x = rounded(mode, between);
    second.residual = Some(first.x.clone());
    let want = second.reference();
    for device in gpus() {
        let x = planes(&first.x, first.conv.x, DType::Bf16, &device);
        let empty = |filter: &PackedSparseFilter, x: &Tensor, pool| {
            Tensor::empty(&filter.output_shape(x, pool), DType::Bf16, &device).unwrap()
        };
        for product in PRODUCTS {
            let filters = [&first, &second].map(|layer| layer.filter(&device, product));
            let mut between = empty(&filters[0], &x, false);
            ops::infer_sparse_conv2d(&x, &filters[0], None, true, false, &mut between).unwrap();
            let mut y = empty(&filters[1], &between, true);
            ops::infer_sparse_conv2d(&between, &filters[1], Some(&x), true, true, &mut y).unwrap();
            assert_close((&device, product), &images(&y, second.y()), &want, TOLERANCE);
        }
    }
}

#[test]
fn operands_of_packed_convolutions_that_do_not_fit_are_errors() {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let w = zeros(&[4, 3, 3, 6], DType::F32);
    let new = |w: &Tensor, size, stride| {
        let filter = PackedSparseFilter::new(w, None, size, stride, 1, SparseProduct::TwoFour);
        filter.map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(new(&w, [4, 4], 1), "device cpu: infer_sparse_conv2d runs on CUDA devices");
    for device in gpus() {
        let w = w.to_device(&device).unwrap();
        assert_eq!(new(&w, [4, 4], 0), "infer_sparse_conv2d: stride = 0: must be at least 1");
        assert_eq!(
            new(&w, [0, 4], 1),
            "infer_sparse_conv2d: w must be filters of 1 to 2 by 1 to 6, got [4, 3, 3, 6]"
        );
        assert_eq!(
            new(&w, [64, 64], 20),
            "infer_sparse_conv2d: w must be of fewer taps or a smaller stride: the inputs of a tile of outputs fit \
             48 KiB, got [4, 3, 3, 6]"
        );
        let filter =
            PackedSparseFilter::new(&w, None, [4, 4], 1, 1, SparseProduct::TwoFour).unwrap();
        let planes = |shape: &[usize]| Tensor::zeros(shape, DType::Bf16, &device).unwrap();
        let (x, mut y) = (planes(&[1, 6, 4, 4, 8]), planes(&[1, 4, 4, 4, 8]));
        let run = |x: &Tensor, residual: Option<&Tensor>, pool: bool, y: &mut Tensor| {
            let error = ops::infer_sparse_conv2d(x, &filter, residual, false, pool, y).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            run(&planes(&[1, 5, 4, 4, 8]), None, false, &mut y),
            "infer_sparse_conv2d: x must be [1, 6, 4, 4, 8], got [1, 5, 4, 4, 8]"
        );
        assert_eq!(
            run(&x, None, true, &mut y),
            "infer_sparse_conv2d: y must be [1, 4, 2, 2, 8], got [1, 4, 4, 4, 8]"
        );
        assert_eq!(
            run(&x, Some(&x), false, &mut y),
            "infer_sparse_conv2d: residual must be [1, 4, 4, 4, 8], got [1, 6, 4, 4, 8]"
        );
        ops::infer_sparse_conv2d(&x, &filter, None, false, false, &mut y).unwrap();
        assert!(images(&y, [3, 4, 4, 4]).iter().all(|&y| y == 0.0));
    }
}

#[test]
fn operands_of_filter_lists_that_do_not_fit_are_errors() {
    let zeros =
        |shape: &[usize], device: &Device| Tensor::zeros(shape, DType::F32, device).unwrap();
    let new = |device: &Device, size, stride, mode| {
        let (w, bias) = (zeros(&[4, 3, 3, 6], device), zeros(&[4], device));
        FilterLists::new(&w, &bias, 3, size, [stride, 1], mode)
    };
    let message = |filter: rewire::Result<FilterLists>| filter.map(|_| ()).unwrap_err().to_string();
    let on_cpu = message(new(&Device::Cpu, [4, 4], 1, Mode::F32));
    assert_eq!(on_cpu, "device cpu: infer_sparse_lists runs on CUDA devices");
    for device in gpus() {
        for (size, stride, mode, want) in [
            ([4, 4], 0, Mode::F32, "infer_sparse_lists: stride = 0: must be at least 1"),
            (
                [0, 4],
                1,
                Mode::F32,
                "infer_sparse_lists: w must be filters of 1 to 2 by 1 to 6, got [4, 3, 3, 6]",
            ),
        ] {
            assert_eq!(message(new(&device, size, stride, mode)), want);
        }
        for mode in Mode::ALL {
            assert_eq!(
                message(new(&device, [64, 64], 20, mode)),
                "infer_sparse_lists: w must be of fewer taps or a smaller stride: the inputs of a tile of outputs \
                 fit 48 KiB, got [4, 3, 3, 6]"
            );
        }
        let filter = new(&device, [4, 4], 1, Mode::F32).unwrap();
        let (x, mut y) = (zeros(&[1, 6, 4, 4, 4], &device), zeros(&[1, 4, 4, 4, 4], &device));
        let run = |x: &Tensor, residual: Option<&Tensor>, pool: bool, y: &mut Tensor| {
            let error = ops::infer_sparse_lists(x, &filter, residual, false, pool, y).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            run(&zeros(&[1, 5, 4, 4, 4], &device), None, false, &mut y),
            "infer_sparse_lists: x must be [1, 6, 4, 4, 4], got [1, 5, 4, 4, 4]"
        );
        assert_eq!(
            run(&x, None, true, &mut y),
            "infer_sparse_lists: y must be [1, 4, 2, 2, 4], got [1, 4, 4, 4, 4]"
        );
        assert_eq!(
            run(&x, Some(&x), false, &mut y),
            "infer_sparse_lists: residual must be [1, 4, 4, 4, 4], got [1, 6, 4, 4, 4]"
        );
        // No images at all.
        let (x, mut y) = (zeros(&[0, 6, 4, 4, 4], &device), zeros(&[0, 4, 4, 4, 4], &device));
        ops::infer_sparse_lists(&x, &filter, None, false, false, &mut y).unwrap();
    }
}
