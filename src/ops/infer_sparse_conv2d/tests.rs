//! The format: what is packed comes out again, in places that the instructions allow, without waste; kernels pack it
//! as loops do.

mod packing;

use super::pack;
use super::{BankCount, SparseProduct};
use crate::cpu::conv_shape::ConvShape;
use crate::ops::plane_tile::PlaneTile;
use crate::rng::Philox;
use crate::{Device, Tensor};
use packing::Packed;

const PRODUCTS: [SparseProduct; 2] = [SparseProduct::Dense, SparseProduct::TwoFour];

/// A 3 × 3 layer of 4 × 4 outputs with padding 1.
fn layer(k: usize, c: usize) -> ConvShape {
    ConvShape { n: 1, h: 4, w: 4, c, k, r: 3, s: 3, stride: 1, pad: 1 }
}

/// Who is kept.
#[derive(Debug, Clone, Copy)]
enum Mask {
    /// Every weight with this chance.
    Uniform(f64),
    /// About this share, but the chances of channels and filters differ by up to nine times, and a fifth of the
    /// filters and of the channels keep nothing.
    Skewed(f64),
}

/// Weights that bf16 holds exactly, so that what comes out can be compared bit by bit.
fn draw(shape: &ConvShape, mask: Mask, philox: &Philox) -> Vec<f32> {
    let chance = |from: usize, i: usize| match philox.uniform(from + i) {
        u if u < 0.2 => 0.0,
        u => f64::from(u - 0.2) * 1.5 + 0.1,
    };
    let channel: Vec<f64> = (0..shape.c).map(|c| chance(1 << 28, c)).collect();
    let filter: Vec<f64> = (0..shape.k).map(|k| chance(1 << 29, k)).collect();
    let mean = |of: &[f64]| (of.iter().sum::<f64>() / of.len() as f64).max(1e-3);
    let scale = 1.0 / (mean(&channel) * mean(&filter));
    (0..shape.filter_len())
        .map(|i| {
            let (c, k) = (i % shape.c, i / (shape.filter_len() / shape.k));
            let chance = match mask {
                Mask::Uniform(chance) => chance,
                Mask::Skewed(share) => share * scale * channel[c] * filter[k],
            };
            let kept = f64::from(philox.uniform(2 * i)) < chance;
            let value = half::bf16::from_f32(philox.uniform(2 * i + 1) - 0.5).to_f32();
            if kept { value + f32::from(value == 0.0) } else { 0.0 }
        })
        .collect()
}

fn packed(w: &[f32], shape: &ConvShape, product: SparseProduct) -> (PlaneTile, Packed) {
    let tile = pack::tile(shape).unwrap();
    let packed = packing::pack(w, shape, &tile, product);
    (tile, packed)
}

fn halves(word: u32) -> [f32; 2] {
    [word << 16, word & 0xffff_0000].map(f32::from_bits)
}

/// The left operand of a block as 32 rows of 16 or 32 columns, by the tables of the PTX ISA, and the row of 16 bytes of
/// each column.
fn unpack_record(record: &[u32], product: SparseProduct) -> (Vec<Vec<f32>>, Vec<usize>) {
    let columns = product.columns();
    let mut a = vec![vec![0.0; columns]; 32];
    for (i, &word) in record[..256].iter().enumerate() {
        let (half, lane, register) = (i / 128, i / 4 % 32, i % 4);
        let (g, t) = (lane / 4, lane % 4);
        let row = &mut a[16 * half + g + 8 * (register % 2)];
        let places = match product {
            SparseProduct::Dense => [0, 1].map(|i| 2 * t + 8 * (register / 2) + i),
            SparseProduct::TwoFour => {
                let quad = t + 4 * (register / 2);
                let word = record[256 + 2 * (4 * g + 2 * half + quad / 4) + 1];
                let nibble = (word >> (16 * (register % 2) + 4 * (quad % 4))) as usize & 15;
                assert!(nibble & 3 < nibble >> 2, "metadata out of order");
                [nibble & 3, nibble >> 2].map(|place| 4 * quad + place)
            }
        };
        for (place, value) in places.into_iter().zip(halves(word)) {
            row[place] = value;
        }
    }
    let step = if product == SparseProduct::TwoFour { 2 } else { 1 };
    (a, record[256..].iter().step_by(step).map(|&offset| offset as usize / 16).collect())
}

/// The filter that was packed, and the accesses counted from the offsets.
fn unpack(
    shape: &ConvShape,
    tile: &PlaneTile,
    packed: &Packed,
    product: SparseProduct,
) -> (Vec<f32>, BankCount) {
    let words = if product == SparseProduct::TwoFour { 320 } else { 272 };
    assert_eq!(packed.records.len(), packed.blocks * words);
    let mut w = vec![0.0; shape.filter_len()];
    let mut banks = BankCount::default();
    for (group, filters) in packed.rows.chunks(32).enumerate() {
        for chunk in 0..tile.chunks {
            let at = group * (tile.chunks + 1) + chunk;
            for block in packed.starts[at] as usize..packed.starts[at + 1] as usize {
                let (a, rows) = unpack_record(&packed.records[block * words..][..words], product);
                for octet in rows.chunks(8) {
                    let mut distinct = octet.to_vec();
                    distinct.sort_unstable();
                    distinct.dedup();
                    let load = |bank: usize| distinct.iter().filter(|&&r| r % 8 == bank).count();
                    banks.accesses += 1;
                    banks.conflicts += (0..8).map(load).max().unwrap() - 1;
                }
                for (values, &filter) in a.iter().zip(filters) {
                    for (&value, &row) in
                        values.iter().zip(&rows).filter(|(value, _)| **value != 0.0)
                    {
                        let (channel, inside) = (row / tile.plane, row % tile.plane);
                        let (r, s) = (inside / tile.width, inside % tile.width);
                        assert!(r < shape.r && s < shape.s && filter >= 0);
                        let tap = (filter as usize * shape.r + r) * shape.s + s;
                        let at = tap * shape.c + chunk * tile.chunk + channel;
                        assert_eq!(w[at], 0.0, "a weight in two places");
                        w[at] = value;
                    }
                }
            }
        }
    }
    (w, banks)
}

/// Layers of each kind: one column, several groups, several chunks of channels, pixels and strides, large filters.
fn layers() -> Vec<ConvShape> {
    let mut shapes: Vec<ConvShape> =
        [(1, 1), (5, 3), (33, 40), (64, 96), (70, 200)].map(|(k, c)| layer(k, c)).to_vec();
    shapes.push(ConvShape { r: 1, s: 1, pad: 0, ..layer(40, 50) });
    shapes.push(ConvShape { h: 2, w: 2, ..layer(33, 100) });
    shapes.push(ConvShape { h: 9, w: 7, stride: 2, ..layer(32, 64) });
    shapes.push(ConvShape { h: 12, w: 12, r: 7, s: 7, ..layer(17, 3) });
    shapes
}

fn fresh() -> Philox {
    Philox { key: [crate::rng::seed::fresh_seed() as u32, 7], step: 0, layer: 0 }
}

#[test]
fn every_mask_comes_out_as_it_was_packed() {
    let mut philox = fresh();
    for shape in &layers() {
        for zeros in [0.0, 0.5, 0.9, 0.95, 0.99, 1.0] {
            for mask in [Mask::Uniform(1.0 - zeros), Mask::Skewed(1.0 - zeros)] {
                philox.step += 1;
                let w = draw(shape, mask, &philox);
                for product in PRODUCTS {
                    let (tile, packed) = packed(&w, shape, product);
                    assert!(tile.shared_bytes() <= 96 << 10);
                    let (got, banks) = unpack(shape, &tile, &packed, product);
                    assert!(got == w, "{shape:?} {mask:?} {product:?}");
                    assert_eq!(banks, packed.banks, "{shape:?} {mask:?} {product:?}");
                    assert_eq!(packed.kept, w.iter().filter(|&&v| v != 0.0).count());
                    let filters: Vec<i32> =
                        packed.rows.iter().copied().filter(|&f| f >= 0).collect();
                    let mut sorted = filters.clone();
                    sorted.sort_unstable();
                    assert!(sorted == (0..shape.k as i32).collect::<Vec<_>>());
                }
            }
        }
    }
}

/// Share of places without a column; blocks more than their columns fill; bank conflicts an access.
fn waste(shape: &ConvShape, mask: Mask) -> [f64; 3] {
    let w = draw(shape, mask, &Philox { key: [11, 13], step: 0, layer: 0 });
    let [(tile, dense), (_, sparse)] = PRODUCTS.map(|product| packed(&w, shape, product));
    // Blocks of 32 columns of each chunk, without the rule of 2:4.
    let groups = dense.starts.chunks(tile.chunks + 1);
    let full = groups.flat_map(|starts| starts.windows(2)).map(|s| (s[1] - s[0] + 1) / 2);
    let kept = sparse.kept as f64 / w.len() as f64;
    let empty = 1.0 - sparse.columns as f64 / (32 * sparse.blocks) as f64;
    let more = sparse.blocks as f64 / f64::from(full.sum::<i32>()) - 1.0;
    let conflicts = sparse.banks.conflicts as f64 / sparse.banks.accesses as f64;
    println!(
        "{} -> {} at {} x {}, {mask:?}: kept {kept:.3}, {} of {} columns, places without one {empty:.4}, \
         blocks more than full {more:.4}, conflicts an access {conflicts:.4}",
        shape.c,
        shape.k,
        shape.h,
        shape.w,
        sparse.columns,
        shape.k.div_ceil(32) * shape.c * shape.r * shape.s,
    );
    [empty, more, conflicts]
}

#[test]
fn sparse_masks_waste_little() {
    let size =
        |extent: usize, k: usize, c: usize| ConvShape { h: extent, w: extent, ..layer(k, c) };
    for shape in [
        size(32, 64, 64),
        size(16, 128, 128),
        size(8, 256, 256),
        size(4, 512, 512),
        size(2, 512, 512),
    ] {
        for kept in [0.1, 0.05, 0.03] {
            for mask in [Mask::Uniform(kept), Mask::Skewed(kept)] {
                let [empty, more, conflicts] = waste(&shape, mask);
                // In the order of the filter an access takes 2.5 cycles: 8 balls in 8 bins.
                assert!(empty <= 0.12 && more <= 0.005 && conflicts <= 0.16);
            }
        }
    }
    // What a mask must not be: a full one takes two columns of each four.
    let [empty, more, _] = waste(&size(8, 64, 64), Mask::Uniform(1.0));
    assert!(empty < 0.51 && more < 1.01);
}

/// What the kernels leave on the device.
fn packed_there(w: &[f32], shape: &ConvShape, product: SparseProduct, device: &Device) -> Packed {
    let dims = [shape.k, shape.r, shape.s, shape.c];
    let w = Tensor::from_vec(w.to_vec(), &dims, device).unwrap();
    let tile = pack::tile(shape).unwrap();
    let pack::Packed { rows, starts, records, kept, columns, blocks, banks } =
        pack::pack(&w, shape, &tile, product).unwrap();
    let [rows, starts, records] = [rows, starts, records].map(|t| t.to_vec::<i32>().unwrap());
    let records = bytemuck::allocation::cast_vec(records);
    Packed { rows, starts, records, kept, columns, blocks, banks }
}

#[test]
fn kernels_pack_as_loops_do() {
    let devices: Vec<_> = Device::new("cuda-host").into_iter().chain(Device::new("cuda")).collect();
    assert!(!devices.is_empty());
    let mut philox = fresh();
    let mut shapes = layers();
    // 33 filters of which the last has a group to itself; no two channels in one chunk; wide.
    shapes.push(ConvShape { h: 40, w: 40, r: 11, s: 11, stride: 4, pad: 2, ..layer(33, 20) });
    shapes.push(ConvShape { h: 6, w: 1, r: 3, s: 1, pad: 0, ..layer(96, 130) });
    for shape in &shapes {
        for mask in [0.0, 0.029, 0.05, 0.1, 0.4, 1.0].map(Mask::Uniform) {
            check(shape, mask, &mut philox, &devices);
        }
        for mask in [0.029, 0.1, 0.5].map(Mask::Skewed) {
            check(shape, mask, &mut philox, &devices);
        }
    }
}

/// Full, empty and thinned rows in one filter too; weights that bf16 rounds, to zero even.
fn check(shape: &ConvShape, mask: Mask, philox: &mut Philox, devices: &[Device]) {
    philox.step += 1;
    let len = shape.filter_len() / shape.k;
    let mut w = draw(shape, mask, philox);
    for (i, v) in w.iter_mut().enumerate() {
        *v = match i / len % 7 {
            3 => 0.3 + i as f32,
            5 => -0.0,
            6 => *v * 1e-42,
            _ => *v * 1.003,
        };
    }
    for product in PRODUCTS {
        let (_, want) = packed(&w, shape, product);
        for device in devices {
            let got = packed_there(&w, shape, product, device);
            assert!(got == want, "{shape:?} {mask:?} {product:?} on {device}");
        }
    }
}
