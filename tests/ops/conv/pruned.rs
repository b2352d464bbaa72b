//! Convolutions of pruned layers: masked filters, gathered channels.

use super::super::{Random, assert_close, devices, devices_and_modes};
use super::{Case, Operands, RESULTS, cases, differences, run, wide};
use rewire::ops::SparseFilter;
use rewire::{Device, Mode, Tensor, ops};

/// A mask over `len` weights of which round(density · len) are kept.
pub fn draw_mask(len: usize, density: f64, random: &mut Random) -> Vec<u8> {
    let mut mask = vec![0; len];
    let order = shuffled(len, random);
    order[..(density * len as f64).round() as usize].iter().for_each(|&i| mask[i] = 1);
    mask
}

pub fn shuffled(len: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    (1..len).for_each(|i| order.swap(i, random.bits() as usize % (i + 1)));
    order
}

fn masked(mask: &[u8], values: &[f64]) -> Vec<f64> {
    values.iter().zip(mask).map(|(&v, &m)| if m == 0 { 0.0 } else { v }).collect()
}

fn sparse_conv2d(device: &Device, mode: Mode, o: &Operands, mask: &[u8]) -> [Vec<f32>; 4] {
    let (stride, padding) = (o.conv.stride, o.conv.padding);
    run(device, mode, o, |tape, x, w, bias| {
        let mask = Tensor::from_vec(mask.to_vec(), w.shape(), device)?;
        let filter = SparseFilter::build(w, &mask)?;
        assert_eq!(filter.kept(), mask.to_vec::<u8>()?.iter().filter(|&&m| m == 1).count());
        ops::sparse_conv2d(tape, x, &filter, w, bias, stride, padding)
    })
}

/// y, dx, dw, dbias of the masked convolution in float64.
fn masked_reference(o: &Operands, mask: &[u8]) -> [Vec<f64>; 4] {
    let (x, w, dy) = (wide(&o.x), masked(mask, &wide(&o.w)), wide(&o.dy));
    let bias = wide(o.bias.as_deref().unwrap_or(&[]));
    [
        o.conv.forward(&x, &w, &bias),
        o.conv.backward_input(&dy, &w),
        masked(mask, &o.conv.backward_weight(&x, &dy)),
        if bias.is_empty() { bias } else { o.conv.backward_bias(&dy) },
    ]
}

#[test]
fn sparse_conv2d_and_its_gradients_equal_float64_loops() {
    let mut random = Random::new();
    for case in cases::<Case>(include_str!("../../cases/sparse_conv2d.toml")) {
        let o = Operands::new(&case, &mut random);
        let mask = draw_mask(o.w.len(), case.density, &mut random);
        let want = masked_reference(&o, &mask);
        for (device, mode) in devices_and_modes() {
            let got = sparse_conv2d(&device, mode, &o, &mask);
            for (i, result) in RESULTS.iter().enumerate() {
                let what = (result, &case.name, &device, mode);
                assert_close(what, &got[i], &want[i], mode.tolerance());
            }
            let outside = got[2].iter().zip(&mask).filter(|(_, m)| **m == 0);
            assert!(outside.into_iter().all(|(dw, _)| *dw == 0.0), "dw outside the mask");
            assert_eq!(got, sparse_conv2d(&device, mode, &o, &mask), "the same bits again");
        }
    }
}

#[test]
fn gradients_of_sparse_conv2d_equal_finite_differences() {
    let case = Case::small([2, 5, 4, 3], [4, 3, 2, 3]);
    let mut random = Random::new();
    let o = Operands::new(&case, &mut random);
    let mask = draw_mask(o.w.len(), 0.3, &mut random);
    let (x, w, bias) = (wide(&o.x), wide(&o.w), wide(o.bias.as_ref().unwrap()));
    let loss = |x: &[f64], w: &[f64]| o.loss(&o.conv.forward(x, &masked(&mask, w), &bias));
    let want = [differences(&x, |x| loss(x, &w)), differences(&w, |w| loss(&x, w))];
    for device in devices() {
        let got = sparse_conv2d(&device, Mode::F32, &o, &mask);
        for i in 0..2 {
            assert_close((RESULTS[i + 1], &device), &got[i + 1], &want[i], 1e-5);
        }
    }
}

#[test]
fn one_sparse_filter_serves_every_stride() {
    let mut random = Random::new();
    for device in devices() {
        let base = Case::small([1, 6, 6, 4], [5, 3, 3, 4]);
        let mask = draw_mask(base.w.iter().product(), 0.4, &mut random);
        let o = Operands::new(&base, &mut random);
        let tensor = |data: &[f32], shape: &[usize]| {
            Tensor::from_vec(data.to_vec(), shape, &device).unwrap()
        };
        let (x, w) = (tensor(&o.x, &base.x), tensor(&o.w, &base.w));
        let mask_tensor = Tensor::from_vec(mask.clone(), &base.w, &device).unwrap();
        let filter = SparseFilter::build(&w, &mask_tensor).unwrap();
        for stride in [1, 2, 1] {
            let conv = super::Conv { stride, ..o.conv };
            let want = conv.forward(&wide(&o.x), &masked(&mask, &wide(&o.w)), &[]);
            let mut tape = rewire::Tape::new(Mode::F32);
            let y = ops::sparse_conv2d(&mut tape, &x, &filter, &w, None, stride, 1).unwrap();
            assert_close(stride, &y.to_vec::<f32>().unwrap(), &want, 1e-5);
        }
    }
}

fn gather_conv2d(device: &Device, mode: Mode, o: &Operands, channels: &[i32]) -> [Vec<f32>; 4] {
    let (stride, padding) = (o.conv.stride, o.conv.padding);
    run(device, mode, o, |tape, x, w, bias| {
        let channels = Tensor::from_vec(channels.to_vec(), &[channels.len()], device)?;
        ops::gather_conv2d(tape, x, w, &channels, bias, stride, padding)
    })
}

/// The filter over all channels: zeros where a channel is not read.
fn widened(o: &Operands, w: &[f64], channels: &[i32]) -> (super::Conv, Vec<f64>) {
    let ([k, r, s, kept], all) = (o.conv.w, o.conv.x[3]);
    let mut wide = vec![0.0; k * r * s * all];
    for (i, &value) in w.iter().enumerate() {
        wide[i / kept * all + channels[i % kept] as usize] = value;
    }
    (super::Conv { w: [k, r, s, all], ..o.conv }, wide)
}

/// Of the gradient of the widened filter, what belongs to the filter.
fn narrowed(dw: &[f64], all: usize, channels: &[i32]) -> Vec<f64> {
    dw.chunks(all).flat_map(|dw| channels.iter().map(|&c| dw[c as usize])).collect()
}

#[test]
fn gather_conv2d_and_its_gradients_equal_float64_loops() {
    let mut random = Random::new();
    for case in cases::<Case>(include_str!("../../cases/gather_conv2d.toml")) {
        let o = Operands::new(&case, &mut random);
        let all = case.x[3];
        let channels: Vec<i32> =
            shuffled(all, &mut random)[..case.w[3]].iter().map(|&c| c as i32).collect();
        let (conv, w) = widened(&o, &wide(&o.w), &channels);
        let (x, dy) = (wide(&o.x), wide(&o.dy));
        let bias = wide(o.bias.as_deref().unwrap_or(&[]));
        let want = [
            conv.forward(&x, &w, &bias),
            conv.backward_input(&dy, &w),
            narrowed(&conv.backward_weight(&x, &dy), all, &channels),
            if bias.is_empty() { bias } else { conv.backward_bias(&dy) },
        ];
        for (device, mode) in devices_and_modes() {
            let got = gather_conv2d(&device, mode, &o, &channels);
            for (i, result) in RESULTS.iter().enumerate() {
                let what = (result, &case.name, &device, mode);
                assert_close(what, &got[i], &want[i], mode.tolerance());
            }
            assert_eq!(got, gather_conv2d(&device, mode, &o, &channels), "the same bits again");
        }
    }
}

#[test]
fn gradients_of_gather_conv2d_equal_finite_differences() {
    let case = Case::small([2, 5, 4, 7], [4, 3, 2, 3]);
    let o = Operands::new(&case, &mut Random::new());
    let channels = [5, 0, 3];
    let (x, w, bias) = (wide(&o.x), wide(&o.w), wide(o.bias.as_ref().unwrap()));
    let loss = |x: &[f64], w: &[f64]| {
        let (conv, w) = widened(&o, w, &channels);
        o.loss(&conv.forward(x, &w, &bias))
    };
    let want = [differences(&x, |x| loss(x, &w)), differences(&w, |w| loss(&x, w))];
    for device in devices() {
        let got = gather_conv2d(&device, Mode::F32, &o, &channels);
        for i in 0..2 {
            assert_close((RESULTS[i + 1], &device), &got[i + 1], &want[i], 1e-5);
        }
    }
}

#[test]
fn operands_of_pruned_convolutions_that_do_not_fit_are_errors() {
    let zeros = |shape: &[usize]| Tensor::zeros(shape, rewire::DType::F32, &Device::Cpu).unwrap();
    let (x, w) = (zeros(&[1, 4, 4, 6]), zeros(&[2, 3, 3, 2]));
    let channels = Tensor::from_vec(vec![1, 6], &[2], &Device::Cpu).unwrap();
    let mut tape = rewire::Tape::new(Mode::F32);
    let error = ops::gather_conv2d(&mut tape, &x, &w, &channels, None, 1, 1).unwrap_err();
    assert_eq!(error.to_string(), "gather_conv2d: channels = 6: must be from 0 to 5");
    let mask = Tensor::zeros(&[2, 3, 3, 3], rewire::DType::U8, &Device::Cpu).unwrap();
    let error = SparseFilter::build(&w, &mask).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "sparse filter: mask must be [2, 3, 3, 2], got [2, 3, 3, 3]");
}
