//! What stands between the convolutions of inference: against float64, in both storage types.

use super::{Random, assert_close, cases, devices};
use half::bf16;
use rewire::{DType, Device, ErrorKind, Tensor, ops};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    shape: [usize; 4],
}

const STORAGE: [(DType, f64); 2] = [(DType::F32, 1e-5), (DType::Bf16, 1e-2)];

/// An activation: its tensor, and what it holds of the first c channels.
struct Activation {
    tensor: Tensor,
    values: Vec<f64>,
}

impl Activation {
    fn new(random: &mut Random, [n, h, w, c]: [usize; 4], dtype: DType, device: &Device) -> Self {
        let to = dtype.padded(c);
        let mut rows = random.vec(n * h * w * to);
        rows.chunks_exact_mut(to).for_each(|row| row[c..].fill(0.0));
        let rounded: Vec<bf16> = rows.iter().map(|&v| bf16::from_f32(v)).collect();
        let shape = [n, h, w, to];
        let tensor = match dtype {
            DType::Bf16 => Tensor::from_vec(rounded, &shape, device).unwrap(),
            _ => Tensor::from_vec(rows, &shape, device).unwrap(),
        };
        let values = stored(&tensor, c).into_iter().map(f64::from).collect();
        Self { tensor, values }
    }
}

/// The first c channels of each row; what pads them must be +0.
fn stored(tensor: &Tensor, c: usize) -> Vec<f32> {
    let all: Vec<f32> = match tensor.dtype() {
        DType::Bf16 => tensor.to_vec::<bf16>().unwrap().into_iter().map(bf16::to_f32).collect(),
        _ => tensor.to_vec().unwrap(),
    };
    let rows = all.chunks_exact(*tensor.shape().last().unwrap());
    rows.flat_map(|row| {
        assert!(row[c..].iter().all(|v| v.to_bits() == 0), "padding is {:?}", &row[c..]);
        row[..c].to_vec()
    })
    .collect()
}

fn gpus() -> Vec<Device> {
    devices().into_iter().filter(|device| *device != Device::Cpu).collect()
}

/// Calls `f` with each case, storage type, its tolerance and GPU.
fn each(mut f: impl FnMut(&mut Random, &Case, DType, f64, &Device)) {
    let mut random = Random::new();
    for case in cases::<Case>(include_str!("../../cases/infer_layers.toml")) {
        for (dtype, tolerance) in STORAGE {
            gpus().iter().for_each(|device| f(&mut random, &case, dtype, tolerance, device));
        }
    }
}

#[test]
fn infer_input_normalises_and_pads() {
    each(|random, case, dtype, tolerance, device| {
        let [n, h, w, c] = case.shape;
        let [x, mean, std] = [n * h * w * c, c, c].map(|len| random.vec(len));
        let std: Vec<f32> = std.iter().map(|s| 0.5 + s.abs()).collect();
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, device).unwrap()
        };
        let (mean_there, std_there) = (tensor(&mean, &[c]), tensor(&std, &[c]));
        let x_there = tensor(&x, &case.shape);
        for by in [None, Some([&mean_there, &std_there])] {
            let want = x.iter().enumerate().map(|(i, &x)| match by {
                Some(_) => (f64::from(x) - f64::from(mean[i % c])) / f64::from(std[i % c]),
                None => f64::from(x),
            });
            let want: Vec<f64> = want.collect();
            let mut y = Tensor::empty(&[n, h, w, dtype.padded(c)], dtype, device).unwrap();
            ops::infer_input(&x_there, by, &mut y).unwrap();
            assert_close((&case.name, dtype, device), &stored(&y, c), &want, tolerance);
        }
    });
}

#[test]
fn infer_max_pool2_takes_the_largest_of_each_window() {
    each(|random, case, dtype, _, device| {
        let [n, h, w, c] = case.shape;
        let x = Activation::new(random, case.shape, dtype, device);
        let at = |i: usize, row: usize, column: usize, k: usize| {
            x.values[((i * h + row) * w + column) * c + k]
        };
        let mut want = Vec::new();
        for (i, row) in (0..n).flat_map(|i| (0..h / 2).map(move |row| (i, 2 * row))) {
            for (column, k) in (0..w / 2).flat_map(|q| (0..c).map(move |k| (2 * q, k))) {
                let window =
                    [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| at(i, row + a, column + b, k));
                want.push(window.into_iter().fold(f64::NEG_INFINITY, f64::max));
            }
        }
        let mut y = Tensor::empty(&[n, h / 2, w / 2, dtype.padded(c)], dtype, device).unwrap();
        ops::infer_max_pool2(&x.tensor, &mut y).unwrap();
        assert_close((&case.name, dtype, device), &stored(&y, c), &want, 0.0);
    });
}

#[test]
fn infer_global_avg_pool_is_the_mean_of_pixels() {
    each(|random, case, dtype, _, device| {
        let [n, h, w, c] = case.shape;
        let x = Activation::new(random, case.shape, dtype, device);
        let mut want = vec![0.0; n * c];
        for (i, value) in x.values.iter().enumerate() {
            want[i / (h * w * c) * c + i % c] += value / (h * w) as f64;
        }
        let mut y = Tensor::empty(&[n, c], DType::F32, device).unwrap();
        ops::infer_global_avg_pool(&x.tensor, &mut y).unwrap();
        assert_close((&case.name, dtype, device), &y.to_vec().unwrap(), &want, 1e-5);
    });
}

#[test]
fn infer_image_drops_what_pads_the_rows() {
    each(|random, case, dtype, _, device| {
        let x = Activation::new(random, case.shape, dtype, device);
        let mut y = Tensor::empty(&case.shape, DType::F32, device).unwrap();
        ops::infer_image(&x.tensor, &mut y).unwrap();
        assert_close((&case.name, dtype, device), &y.to_vec().unwrap(), &x.values, 0.0);
    });
}

#[test]
fn infer_relu_and_add_keep_the_storage_type() {
    each(|random, case, dtype, tolerance, device| {
        let c = case.shape[3];
        let [a, b] = [(); 2].map(|()| Activation::new(random, case.shape, dtype, device));
        let mut y = Tensor::empty(a.tensor.shape(), dtype, device).unwrap();
        ops::infer_relu(&a.tensor, &mut y).unwrap();
        let want: Vec<f64> = a.values.iter().map(|a| a.max(0.0)).collect();
        assert_close(("relu", &case.name, dtype, device), &stored(&y, c), &want, 0.0);
        ops::infer_add(&a.tensor, &b.tensor, &mut y).unwrap();
        let want: Vec<f64> = a.values.iter().zip(&b.values).map(|(a, b)| a + b).collect();
        assert_close(("add", &case.name, dtype, device), &stored(&y, c), &want, tolerance);
    });
}

#[test]
fn nan_survives_relu_and_maximum() {
    for device in gpus() {
        for place in 0..4 {
            let mut pixels = vec![bf16::from_f32(-1.0); 4 * 8];
            pixels[8 * place] = bf16::NAN;
            let x = Tensor::from_vec(pixels, &[1, 2, 2, 8], &device).unwrap();
            let mut y = Tensor::empty(&[1, 1, 1, 8], DType::Bf16, &device).unwrap();
            ops::infer_max_pool2(&x, &mut y).unwrap();
            let got = y.to_vec::<bf16>().unwrap();
            assert!(got[0].is_nan() && got[1].to_f32() == -1.0, "{device}: {got:?}");
            let mut y = Tensor::empty(x.shape(), DType::Bf16, &device).unwrap();
            ops::infer_relu(&x, &mut y).unwrap();
            let got = y.to_vec::<bf16>().unwrap();
            assert!(got[8 * place].is_nan() && got[1].to_bits() == 0, "{device}: {got:?}");
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_errors() {
    for device in gpus() {
        let tensor = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &device).unwrap();
        let shape = |result: rewire::Result<()>| {
            assert!(matches!(result.unwrap_err().kind(), ErrorKind::Shape { .. }));
        };
        let x = tensor(&[1, 4, 4, 8], DType::Bf16);
        shape(ops::infer_max_pool2(&x, &mut tensor(&[1, 2, 2, 16], DType::Bf16)));
        shape(ops::infer_max_pool2(&x, &mut tensor(&[1, 2, 2, 8], DType::F32)));
        shape(ops::infer_relu(&tensor(&[1, 4, 4, 3], DType::Bf16), &mut x.clone()));
        shape(ops::infer_global_avg_pool(&x, &mut tensor(&[1, 9], DType::F32)));
        shape(ops::infer_input(&x, None, &mut tensor(&[1, 4, 4, 8], DType::Bf16)));
        shape(ops::infer_add(&x, &tensor(&[1, 4, 4, 8], DType::F32), &mut x.clone()));
    }
    let x = Tensor::zeros(&[1, 2, 2, 8], DType::Bf16, &Device::Cpu).unwrap();
    let error = ops::infer_relu(&x, &mut x.clone()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Device { .. }), "{error}");
}
