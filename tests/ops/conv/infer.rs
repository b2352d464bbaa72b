//! The convolution of inference: every way of cutting it, against float64 loops over what storage holds.

use super::super::{Random, assert_close, cases, devices};
use super::reference::Conv;
use super::wide;
use half::bf16;
use rewire::ops::{Channels, InferConv2d, Order, PackedFilter, Tile, TileConfig};
use rewire::{DType, Device, ErrorKind, Mode, Tensor};
use serde::Deserialize;

/// A row of `infer_conv2d.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    x: [usize; 4],
    w: [usize; 4],
    stride: usize,
    padding: usize,
    #[serde(default)]
    relu: bool,
    #[serde(default)]
    pool: bool,
    #[serde(default)]
    residual: bool,
    #[serde(default)]
    channels: Option<usize>,
}

const CASES: &str = include_str!("../../cases/infer_conv2d.toml");

/// Random operands of one case, and what it gives in float64.
struct Operands {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    residual: Option<Vec<f32>>,
    channels: Option<Vec<i32>>,
    y: Vec<f64>,
    y_shape: [usize; 4],
}

impl Operands {
    fn new(case: &Case, mode: Mode, random: &mut Random) -> Self {
        let conv = Conv { x: case.x, w: case.w, stride: case.stride, padding: case.padding };
        // A handful of sums can all come out near 0 by chance; where there are so few, nothing is negative.
        let few = conv.y().iter().product::<usize>() < 64;
        let mut draw = |len: usize| -> Vec<f32> {
            random.vec(len).into_iter().map(|v| if few { v.abs() } else { v }).collect()
        };
        let stored = |values: Vec<f32>| -> Vec<f32> {
            let round = |v: f32| if mode == Mode::Bf16 { bf16::from_f32(v).to_f32() } else { v };
            values.into_iter().map(round).collect()
        };
        let x = stored(draw(case.x.iter().product()));
        let w = draw(case.w.iter().product());
        let bias = draw(case.w[0]);
        let residual = case.residual.then(|| stored(draw(conv.y().iter().product())));
        let channels = case.channels.map(|count| some_of(case.x[3], count, random));
        let all = case.x[3];
        let (read, conv) = match &channels {
            Some(list) => {
                let pixels = x.chunks_exact(all);
                let read = pixels.flat_map(|p| list.iter().map(|&c| p[c as usize])).collect();
                let [n, h, width, _] = case.x;
                (read, Conv { x: [n, h, width, list.len()], ..conv })
            }
            None => (x.clone(), conv),
        };
        let mut y = conv.forward(&wide(&read), &wide(&w), &wide(&bias));
        for (y, residual) in y.iter_mut().zip(residual.iter().flatten()) {
            *y += f64::from(*residual);
        }
        if case.relu {
            y.iter_mut().for_each(|y| *y = y.max(0.0));
        }
        let mut y_shape = conv.y();
        if case.pool {
            (y, y_shape) = pooled(&y, y_shape);
        }
        Self { x, w, bias, residual, channels, y, y_shape }
    }

    fn layer(&self, case: &Case, mode: Mode, device: &Device) -> InferConv2d {
        let weight = Tensor::from_vec(self.w.clone(), &case.w, device).unwrap();
        let bias = Tensor::from_vec(self.bias.clone(), &[self.bias.len()], device).unwrap();
        let channels = self.channels.as_deref().map(|index| Channels { index, of: case.x[3] });
        let filter = PackedFilter::new(&weight, &bias, mode, channels).unwrap();
        let Case { stride, padding, relu, pool, .. } = *case;
        InferConv2d { filter, stride, padding, relu, pool }
    }
}

/// `count` of `all` numbers in random order.
fn some_of(all: usize, count: usize, random: &mut Random) -> Vec<i32> {
    let mut order: Vec<(u64, i32)> = (0..all).map(|i| (random.bits(), i as i32)).collect();
    order.sort_unstable();
    order.truncate(count);
    order.into_iter().map(|(_, i)| i).collect()
}

/// The largest of 2 × 2 windows.
fn pooled(y: &[f64], [n, p, q, k]: [usize; 4]) -> (Vec<f64>, [usize; 4]) {
    let shape = [n, p / 2, q / 2, k];
    let mut out = vec![f64::NEG_INFINITY; shape.iter().product()];
    for (i, &value) in y.iter().enumerate() {
        let (image, row, column, channel) = (i / (p * q * k), i / (q * k) % p, i / k % q, i % k);
        if row / 2 < p / 2 && column / 2 < q / 2 {
            let at = ((image * (p / 2) + row / 2) * (q / 2) + column / 2) * k + channel;
            out[at] = out[at].max(value);
        }
    }
    (out, shape)
}

/// `[.., c]` as an activation in storage: rows of whole chunks, zeros behind c.
fn activation(values: &[f32], [n, h, w, c]: [usize; 4], mode: Mode, device: &Device) -> Tensor {
    let to = mode.storage().padded(c);
    let mut rows = vec![0.0f32; n * h * w * to];
    for (to, from) in rows.chunks_exact_mut(to).zip(values.chunks_exact(c)) {
        to[..c].copy_from_slice(from);
    }
    let shape = [n, h, w, to];
    match mode.storage() {
        DType::Bf16 => {
            let rows = rows.into_iter().map(bf16::from_f32).collect();
            Tensor::from_vec::<bf16>(rows, &shape, device).unwrap()
        }
        _ => Tensor::from_vec(rows, &shape, device).unwrap(),
    }
}

/// The elements as f32.
fn elements(y: &Tensor) -> Vec<f32> {
    match y.dtype() {
        DType::Bf16 => y.to_vec::<bf16>().unwrap().into_iter().map(bf16::to_f32).collect(),
        _ => y.to_vec().unwrap(),
    }
}

/// The first c of each row; what is behind them must be +0.
fn channels_of(rows: &[f32], c: usize, padded: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for row in rows.chunks_exact(padded) {
        out.extend(&row[..c]);
        assert!(row[c..].iter().all(|v| v.to_bits() == 0), "padding is {:?}", &row[c..]);
    }
    out
}

fn gpus() -> Vec<Device> {
    devices().into_iter().filter(|device| *device != Device::Cpu).collect()
}

/// Every configuration that the mode has, whole and in three parts.
fn every_config(mode: Mode) -> Vec<TileConfig> {
    let tiles = Tile::ALL.into_iter().filter(|&tile| {
        mode != Mode::F32 || !matches!(tile, Tile::M128N128 | Tile::M128N128Warps8)
    });
    let with_order = tiles.flat_map(|t| [Order::Images, Order::Positions].map(|order| (t, order)));
    with_order
        .flat_map(|(tile, order)| [1, 3].map(|splits| TileConfig { tile, order, splits }))
        .collect()
}

#[test]
fn infer_conv2d_equals_float64_loops_however_it_is_cut() {
    let mut random = Random::new();
    for case in cases::<Case>(CASES) {
        for mode in Mode::ALL {
            let o = Operands::new(&case, mode, &mut random);
            for device in gpus() {
                let layer = o.layer(&case, mode, &device);
                let x = activation(&o.x, case.x, mode, &device);
                let [n, _, _, k] = o.y_shape;
                let unpooled =
                    Conv { x: case.x, w: case.w, stride: case.stride, padding: case.padding };
                let residual =
                    o.residual.as_ref().map(|r| activation(r, unpooled.y(), mode, &device));
                let shape = layer.output_shape(x.shape()).unwrap();
                assert_eq!(shape[..3], o.y_shape[..3]);
                let mut configs = every_config(mode);
                let candidates = layer.configs(x.shape()).unwrap();
                assert!(n == 0 || !candidates.is_empty());
                configs.extend(candidates.into_iter().filter(|c| c.splits != 1 && c.splits != 3));
                for config in configs {
                    let mut y = Tensor::empty(&shape, mode.storage(), &device).unwrap();
                    layer.run(&x, residual.as_ref(), config, &mut y).unwrap();
                    let got = channels_of(&elements(&y), k, shape[3]);
                    let what = (&case.name, &device, mode, config.to_string());
                    assert_close(what, &got, &o.y, mode.tolerance());
                }
            }
        }
    }
}

#[test]
fn infer_conv2d_gives_the_same_bits_again() {
    let mut random = Random::new();
    let case = &cases::<Case>(CASES)[0];
    for mode in Mode::ALL {
        let o = Operands::new(case, mode, &mut random);
        for device in gpus() {
            let layer = o.layer(case, mode, &device);
            let x = activation(&o.x, case.x, mode, &device);
            let config = TileConfig { tile: Tile::M64N64, order: Order::Images, splits: 5 };
            let bits = || {
                let shape = layer.output_shape(x.shape()).unwrap();
                let mut y = Tensor::empty(&shape, mode.storage(), &device).unwrap();
                layer.run(&x, None, config, &mut y).unwrap();
                elements(&y).iter().map(|v| v.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(bits(), bits(), "{device} {mode}");
        }
    }
}

#[test]
fn a_nan_of_the_input_reaches_its_outputs_and_no_padding() {
    for (device, mode) in gpus().into_iter().flat_map(|d| Mode::ALL.map(|m| (d.clone(), m))) {
        let weight = Tensor::from_vec(vec![1.0f32; 5], &[5, 1, 1, 1], &device).unwrap();
        let bias = Tensor::from_vec(vec![0.0f32; 5], &[5], &device).unwrap();
        let filter = PackedFilter::new(&weight, &bias, mode, None).unwrap();
        let mut pixels = vec![1.0f32; 16];
        pixels[6] = f32::NAN;
        let x = activation(&pixels, [1, 4, 4, 1], mode, &device);
        for pool in [false, true] {
            let layer =
                InferConv2d { filter: filter.clone(), stride: 1, padding: 0, relu: true, pool };
            for config in every_config(mode) {
                let shape = layer.output_shape(x.shape()).unwrap();
                let mut y = Tensor::empty(&shape, mode.storage(), &device).unwrap();
                layer.run(&x, None, config, &mut y).unwrap();
                let got = channels_of(&elements(&y), 5, shape[3]);
                let spoiled = if pool { 1 } else { 6 };
                for (i, value) in got.iter().enumerate() {
                    assert_eq!(value.is_nan(), i / 5 == spoiled, "{device} {mode} {config}: {i}");
                }
            }
        }
    }
}

#[test]
fn candidates_follow_the_shape() {
    for device in gpus() {
        let candidates = |x: [usize; 4], k: usize, pool: bool| {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device).unwrap();
            let filter =
                PackedFilter::new(&zeros(&[k, 3, 3, x[3]]), &zeros(&[k]), Mode::Bf16, None);
            let layer =
                InferConv2d { filter: filter.unwrap(), stride: 1, padding: 1, relu: true, pool };
            layer.configs(&x).unwrap()
        };
        // Many tiles: whole sums.
        assert_eq!(candidates([256, 32, 32, 64], 64, true)[0].splits, 1);
        // One small image: few tiles, cut sums, and no tile of many images.
        let one = candidates([1, 4, 4, 64], 64, false);
        assert!(one[0].splits > 1 && one.iter().all(|c| c.order == Order::Images), "{one:?}");
        // Small planes of many images: padded taps are skipped.
        assert_eq!(candidates([1024, 2, 2, 64], 64, false)[0].order, Order::Positions);
        // Every tile that a wide layer can use is measured.
        let wide = candidates([8, 8, 8, 64], 128, false);
        assert!(Tile::ALL.iter().all(|&tile| wide.iter().any(|c| c.tile == tile)), "{wide:?}");
        // Narrow layers have no wide tiles.
        assert!(candidates([128, 8, 8, 16], 16, false).iter().all(|c| c.tile.columns() == 16));
    }
}

#[test]
fn operands_of_infer_conv2d_that_do_not_fit_are_errors() {
    let zeros =
        |shape: &[usize], device: &Device| Tensor::zeros(shape, DType::F32, device).unwrap();
    let filter = |device: &Device, channels: Option<Channels<'_>>| {
        PackedFilter::new(&zeros(&[5, 3, 3, 3], device), &zeros(&[5], device), Mode::F32, channels)
    };
    let error = filter(&Device::Cpu, None).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Device { .. }), "{error}");
    for device in gpus() {
        let none = PackedFilter::new(
            &zeros(&[0, 3, 3, 3], &device),
            &zeros(&[0], &device),
            Mode::F32,
            None,
        );
        assert!(matches!(none.unwrap_err().kind(), ErrorKind::Shape { .. }));
        for wrong in [[0, 1, 1], [0, 1, 7], [0, -1, 2]] {
            let error = filter(&device, Some(Channels { index: &wrong, of: 7 })).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Param { .. }), "{error}");
        }
        let layer = |stride, pool| InferConv2d {
            filter: filter(&device, None).unwrap(),
            stride,
            padding: 0,
            relu: false,
            pool,
        };
        let config = TileConfig { tile: Tile::M64N64, order: Order::Images, splits: 1 };
        let message =
            |layer: InferConv2d, x: &[usize], y: &[usize], residual: Option<&[usize]>, config| {
                let residual = residual.map(|shape| zeros(shape, &device));
                let mut y = zeros(y, &device);
                layer
                    .run(&zeros(x, &device), residual.as_ref(), config, &mut y)
                    .unwrap_err()
                    .to_string()
            };
        let (x, y) = ([1, 4, 4, 4], [1, 2, 2, 8]);
        assert_eq!(
            message(layer(1, false), &[1, 4, 4, 3], &y, None, config),
            "infer_conv2d: x must be of 4 channels, got [1, 4, 4, 3]"
        );
        assert_eq!(
            message(layer(1, false), &x, &[1, 2, 2, 5], None, config),
            "infer_conv2d: y must be [1, 2, 2, 8], got [1, 2, 2, 5]"
        );
        assert_eq!(
            message(layer(1, true), &x, &[1, 1, 1, 8], Some(&[1, 1, 1, 8]), config),
            "infer_conv2d: residual must be [1, 2, 2, 8], got [1, 1, 1, 8]"
        );
        assert_eq!(
            message(layer(0, false), &x, &y, None, config),
            "infer_conv2d: stride = 0: must be at least 1"
        );
        assert_eq!(
            message(layer(2, true), &x, &y, None, config),
            "infer_conv2d: x must be large enough for 3 x 3 filters and 2 x 2 outputs, got [1, 4, 4, 4]"
        );
        let wide = TileConfig { tile: Tile::M128N128, ..config };
        assert_eq!(
            message(layer(1, false), &x, &y, None, wide),
            "infer_conv2d: config = 128x128, by images, 1 splits: must be one of mode f32"
        );
        let none = TileConfig { splits: 0, ..config };
        assert!(message(layer(1, false), &x, &y, None, none).contains("0 splits"));
    }
}

#[test]
fn taps_that_are_padding_for_a_whole_tile_are_not_multiplied() {
    // A NaN shows which taps take part: 0 · NaN is NaN too.
    const IMAGES: usize = 128;
    for (device, mode) in gpus().into_iter().flat_map(|d| Mode::ALL.map(|m| (d.clone(), m))) {
        let x = activation(&[1.0; IMAGES * 4], [IMAGES, 2, 2, 1], mode, &device);
        for tap in 0..9 {
            let mut weight = vec![1.0f32; 9];
            weight[tap] = f32::NAN;
            let weight = Tensor::from_vec(weight, &[1, 3, 3, 1], &device).unwrap();
            let bias = Tensor::from_vec(vec![0.0f32], &[1], &device).unwrap();
            let filter = PackedFilter::new(&weight, &bias, mode, None).unwrap();
            let layer = InferConv2d { filter, stride: 1, padding: 1, relu: false, pool: false };
            for tile in [Tile::M128N16, Tile::M64N64] {
                let config = TileConfig { tile, order: Order::Positions, splits: 1 };
                let shape = layer.output_shape(x.shape()).unwrap();
                let mut y = Tensor::empty(&shape, mode.storage(), &device).unwrap();
                layer.run(&x, None, config, &mut y).unwrap();
                for (i, value) in channels_of(&elements(&y), 1, shape[3]).iter().enumerate() {
                    let reads = |at: usize, tap: usize| (1..3).contains(&(at + tap));
                    let read = reads(i % 4 / 2, tap / 3) && reads(i % 2, tap % 3);
                    assert_eq!(
                        value.is_nan(),
                        read,
                        "{device} {mode} {config}: pixel {i}, tap {tap}"
                    );
                    assert!(read || *value == 4.0, "{device} {mode} {config}: {value}");
                }
            }
        }
    }
}
