//! The planes that sparse convolutions of inference read: `rows_to_planes`, `planes_to_rows`.

use super::super::{Random, devices};
use half::bf16;
use rewire::ops;
use rewire::{DType, Device, Mode, Tensor};

/// Devices that have kernels.
pub fn gpus() -> impl Iterator<Item = Device> {
    devices().into_iter().filter(|device| *device != Device::Cpu)
}

/// As the mode's products take them.
pub fn rounded(mode: Mode, values: Vec<f32>) -> Vec<f32> {
    let round = |v: f32| match mode {
        Mode::F32 => v,
        Mode::Tf32 => f32::from_bits((v.to_bits() + 0x1000) & !0x1fff),
        Mode::Bf16 => bf16::from_f32(v).to_f32(),
    };
    values.into_iter().map(round).collect()
}

pub fn planes(images: &[f32], shape: [usize; 4], dtype: DType, device: &Device) -> Tensor {
    let [n, h, w, c] = shape;
    let images = Tensor::from_vec(images.to_vec(), &shape, device).unwrap();
    let mut rows = Tensor::empty(&[n, h, w, dtype.padded(c)], dtype, device).unwrap();
    ops::infer_input(&images, None, &mut rows).unwrap();
    let mut planes = Tensor::empty(&ops::planes_shape(shape, dtype), dtype, device).unwrap();
    ops::rows_to_planes(&rows, &mut planes).unwrap();
    planes
}

pub fn images(planes: &Tensor, shape: [usize; 4]) -> Vec<f32> {
    let ([n, h, w, c], dtype) = (shape, planes.dtype());
    let mut rows = planes.empty_like(&[n, h, w, dtype.padded(c)], dtype).unwrap();
    ops::planes_to_rows(planes, &mut rows).unwrap();
    let mut images = Tensor::empty(&shape, DType::F32, &planes.device()).unwrap();
    ops::infer_image(&rows, &mut images).unwrap();
    images.to_vec().unwrap()
}

#[test]
fn planes_hold_the_images_and_zeros_behind_them() {
    let mut random = Random::new();
    for shape in [[1, 1, 1, 1], [3, 5, 3, 7], [8, 4, 4, 32], [13, 3, 3, 70]] {
        let [n, h, w, c] = shape;
        for (device, mode) in gpus().flat_map(|d| [(d.clone(), Mode::F32), (d, Mode::Bf16)]) {
            let x = rounded(mode, random.vec(shape.iter().product()));
            let planes = planes(&x, shape, mode.storage(), &device);
            assert_eq!(images(&planes, shape), x);
            let side = planes.shape()[4];
            let values: Vec<f32> = match mode {
                Mode::Bf16 => planes.to_vec().unwrap().into_iter().map(bf16::to_f32).collect(),
                _ => planes.to_vec().unwrap(),
            };
            for (i, value) in values.into_iter().enumerate() {
                let (image, pixel) = (i / (side * h * w * c) * side + i % side, i / side % (h * w));
                let channel = i / side / (h * w) % c;
                let want = if image < n { x[(image * h * w + pixel) * c + channel] } else { 0.0 };
                assert_eq!(value.to_bits(), want.to_bits(), "{shape:?}, {mode}, {i}");
            }
        }
    }
}

#[test]
fn rows_and_planes_that_do_not_fit_are_errors() {
    let zeros =
        |shape: &[usize], dtype, device: &Device| Tensor::zeros(shape, dtype, device).unwrap();
    for device in gpus() {
        let rows = zeros(&[3, 2, 2, 8], DType::F32, &device);
        for (shape, dtype, message) in [
            ([1, 7, 2, 2, 4], DType::Bf16, "rows_to_planes: dtype"),
            (
                [1, 9, 2, 2, 4],
                DType::F32,
                "rows_to_planes: rows must be [3, 2, 2, 12], got [3, 2, 2, 8]",
            ),
            ([1, 7, 2, 3, 4], DType::F32, "rows_to_planes: planes must be [1, 7, 2, 2, 4]"),
        ] {
            let error = ops::rows_to_planes(&rows, &mut zeros(&shape, dtype, &device)).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
    let (rows, planes) = ([1, 1, 1, 4], [1, 4, 1, 1, 4]);
    let [rows, mut planes] = [&rows[..], &planes].map(|s| zeros(s, DType::F32, &Device::Cpu));
    let error = ops::rows_to_planes(&rows, &mut planes).unwrap_err();
    assert!(error.to_string().contains("runs on CUDA devices"), "{error}");
}
