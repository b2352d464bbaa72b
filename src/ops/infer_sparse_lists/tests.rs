//! The format: what is packed comes out again, every output has its lane, and lanes read without bank conflicts; kernels
//! pack it as loops do.

mod packing;

use super::pack::{self, FILTERS, Split};
use crate::cpu::conv_shape::ConvShape;
use crate::dtype::DType;
use crate::ops::plane_tile::{PlaneTile, ROW_BYTES};
use crate::rng::Philox;
use crate::{Device, Mode, Tensor};
use packing::Packed;

const STORAGES: [DType; 2] = [DType::F32, DType::Bf16];

/// A 3 × 3 layer with padding 1.
fn layer(extent: usize, k: usize, c: usize) -> ConvShape {
    ConvShape { n: 1, h: extent, w: extent, c, k, r: 3, s: 3, stride: 1, pad: 1 }
}

fn shapes() -> Vec<ConvShape> {
    let mut shapes: Vec<ConvShape> =
        [(32, 1, 1), (16, 5, 3), (8, 33, 40), (4, 64, 96), (2, 70, 200), (1, 9, 7)]
            .map(|(extent, k, c)| layer(extent, k, c))
            .to_vec();
    shapes.push(ConvShape { r: 1, s: 1, pad: 0, ..layer(9, 40, 50) });
    shapes.push(ConvShape { r: 1, s: 1, pad: 0, stride: 2, ..layer(9, 40, 50) });
    shapes.push(ConvShape { h: 9, w: 7, stride: 2, ..layer(1, 32, 64) });
    shapes.push(ConvShape { r: 7, s: 7, ..layer(12, 17, 3) });
    shapes
}

/// The filters that the lists hold.
fn unpack(packed: &Packed, shape: &ConvShape, tile: &PlaneTile, split: Split) -> Vec<f32> {
    let mut w = vec![0.0; shape.filter_len()];
    assert_eq!(packed.rows.len(), split.warps * FILTERS);
    assert_eq!(packed.counts.len(), split.warps * tile.chunks * FILTERS / 2);
    let mut at = 0;
    for (warp, rows) in packed.rows.chunks(FILTERS).enumerate() {
        assert!(rows.iter().filter(|&&row| row >= 0).count() <= split.each);
        for (chunk, slot) in (0..tile.chunks * FILTERS).map(|i| (i / FILTERS, i % FILTERS)) {
            if slot == 0 {
                assert_eq!(packed.starts[warp * tile.chunks + chunk] as usize * 4, at);
            }
            let pair = packed.counts[((warp * tile.chunks + chunk) * FILTERS + slot) / 2] as u32;
            let count = (pair >> (16 * (slot % 2)) & 0xffff) as usize;
            for entry in packed.entries[at..at + 2 * count].chunks(2) {
                let row = entry[1] as usize / ROW_BYTES;
                let (channel, inside) = (row / tile.plane, row % tile.plane);
                let (r, s) = (inside / tile.width, inside % tile.width);
                assert!(channel < tile.chunk && r < shape.r && s < shape.s && rows[slot] >= 0);
                let tap = (rows[slot] as usize * shape.r + r) * shape.s + s;
                let value = &mut w[tap * shape.c + chunk * tile.chunk + channel];
                assert_eq!(*value, 0.0, "a weight in two places");
                *value = f32::from_bits(entry[0] as u32);
            }
            at = (at + 2 * count).next_multiple_of(4);
        }
    }
    assert_eq!(packed.entries.len(), at + 4);
    w
}

fn fresh() -> Philox {
    Philox { key: [crate::rng::seed::fresh_seed() as u32, 5], step: 0, layer: 0 }
}

#[test]
fn every_mask_comes_out_as_it_was_packed() {
    let mut philox = fresh();
    for shape in shapes() {
        for (image_blocks, density) in
            [1, 2, 5, 32, 256].map(|b| [0.0, 0.05, 1.0].map(|d| (b, d))).concat()
        {
            philox.step += 1;
            let draw =
                |i| (philox.uniform(2 * i) < density).then(|| philox.uniform(2 * i + 1) - 0.5);
            let w: Vec<f32> = (0..shape.filter_len()).map(|i| draw(i).unwrap_or(0.0)).collect();
            let storage = STORAGES[philox.step as usize % 2];
            let tile = pack::tile(&shape, image_blocks, storage).unwrap();
            let split = Split::of(shape.k, tile.count(image_blocks, &shape));
            let packed = packing::pack(&w, &shape, &tile, split, Mode::F32);
            let what = format!("{shape:?}, {image_blocks} blocks, {density}: {tile:?} {split:?}");
            assert!(unpack(&packed, &shape, &tile, split) == w, "{what}");
            assert_eq!(packed.kept, w.iter().filter(|&&w| w != 0.0).count(), "{what}");
            assert!(
                tile.shared_bytes() <= 96 << 10 && tile.chunk * tile.chunks >= shape.c,
                "{what}"
            );
            let outputs = if storage == DType::Bf16 { 32 } else { 64 };
            assert!((tile.p * tile.q) << tile.block_bits == outputs, "{what}");
            assert!(split.each <= FILTERS && split.together <= 8, "{what}");
            let mut rows: Vec<i32> = packed.rows.iter().copied().filter(|&row| row >= 0).collect();
            rows.sort_unstable();
            assert!(rows == (0..shape.k as i32).collect::<Vec<_>>(), "{what}");
        }
    }
}

#[test]
fn lanes_meet_in_no_bank() {
    for shape in shapes() {
        let cases = [1, 2, 3, 8, 32, 256].into_iter().flat_map(|b| STORAGES.map(|s| (b, s)));
        for (image_blocks, storage) in cases {
            let tile = pack::tile(&shape, image_blocks, storage).unwrap();
            let cycles = pack::cycles(&tile, shape.stride);
            println!("{shape:?}, {image_blocks} blocks, {storage:?}: {tile:?}, {cycles} cycles");
            // Pixels two apart need lanes of as many blocks of images as there are banks.
            let few = shape.stride > 1 && image_blocks < 8;
            assert!(cycles == 4 || (few && cycles <= 8), "{shape:?} {tile:?}");
        }
    }
}

#[test]
fn tiles_fit_the_outputs() {
    let cases: [(usize, usize, DType, [usize; 2]); 7] = [
        (32, 128, DType::F32, [8, 8]),
        (8, 128, DType::F32, [8, 8]),
        (4, 128, DType::F32, [4, 4]),
        (2, 128, DType::F32, [2, 2]),
        (32, 1, DType::F32, [8, 8]),
        (8, 128, DType::Bf16, [4, 8]),
        (2, 128, DType::Bf16, [2, 2]),
    ];
    for (extent, images, storage, want) in cases {
        let blocks = images.div_ceil(16 / storage.size());
        let tile = pack::tile(&layer(extent, 64, 64), blocks, storage).unwrap();
        assert_eq!([tile.p, tile.q], want, "{extent}, {images}, {storage:?}");
    }
}

#[test]
fn kernels_pack_as_loops_do() {
    let devices: Vec<_> = Device::new("cuda-host").into_iter().chain(Device::new("cuda")).collect();
    assert!(!devices.is_empty());
    let mut philox = fresh();
    for shape in shapes() {
        for (image_blocks, density) in
            [1, 5, 256].into_iter().flat_map(|b| [0.0, 0.03, 0.3, 1.0].map(|d| (b, d)))
        {
            philox.step += 1;
            let mode = Mode::ALL[philox.step as usize % 3];
            // A filter in five keeps everything, one nothing; weights that a mode rounds, to zero even.
            let len = shape.filter_len() / shape.k;
            let value = |i: usize| match (i + philox.step as usize) / len % 5 {
                3 => 0.3 + i as f32,
                4 => -0.0,
                _ if philox.uniform(2 * i) >= density => 0.0,
                0 => (philox.uniform(2 * i + 1) - 0.5) * 1e-42,
                _ => philox.uniform(2 * i + 1) - 0.5,
            };
            let w: Vec<f32> = (0..shape.filter_len()).map(value).collect();
            let tile = pack::tile(&shape, image_blocks, mode.storage()).unwrap();
            let split = Split::of(shape.k, tile.count(image_blocks, &shape));
            let want = packing::pack(&w, &shape, &tile, split, mode);
            for device in &devices {
                let dims = [shape.k, shape.r, shape.s, shape.c];
                let w = Tensor::from_vec(w.clone(), &dims, device).unwrap();
                let pack::Packed { rows, counts, starts, entries, kept } =
                    pack::pack(&w, &shape, &tile, split, mode).unwrap();
                let [rows, counts, starts, entries] =
                    [rows, counts, starts, entries].map(|t| t.to_vec::<i32>().unwrap());
                let got = Packed { rows, counts, starts, entries, kept };
                assert!(
                    got == want,
                    "{shape:?}, {image_blocks} blocks, {density}, {mode} on {device}"
                );
            }
        }
    }
}
