//! A layer on blocks of images: each lane is an image, a tile is some pixels of one block or of a few.

use super::layout::SMALL;
use super::tile::{Columns, Isa, Slice, Sums, Tile};
use super::{Layout, Offsets, Order, SparseLayer};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::conv2d::split;
use crate::cpu::finish::Finish;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::team;

/// Most filters of a task. Tasks of one tile follow each other, so that its input stays in the second cache.
const FILTERS: usize = 64;
/// Fewest weights of a filter in a slice of the channels, on average. VGG16 on 16 images took 7.3 ms without slices and 6.5 with
/// them at 5 % of its weights, 4.6 and 4.4 at 2.9 %, where slices are as large as this asks for; 2.3 and 2.7 at 1 % with smaller
/// ones, 2.3 with such.
const TERMS: usize = 5;

/// Some output pixels before pooling: the first, and exponents of the extents.
#[derive(Debug, Clone, Copy)]
struct Place {
    y: usize,
    x: usize,
    size: [usize; 2],
}

/// How the tiles of a layer lie.
pub(super) struct Batched {
    /// Blocks that one tile covers, as an exponent, and how many such there are.
    blocks: usize,
    units: usize,
    kind: Kind,
    places: Vec<Place>,
    stride: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// The whole plane of this edge, a list for each tap.
    Exact(usize),
    Tile(Columns),
}

/// The edge of the plane where it is one tile, its taps are those of a 3×3 filter and it needs no zeros around.
pub(super) fn exact(isa: &Isa, shape: &ConvShape, blocks: usize) -> Option<usize> {
    let &ConvShape { h, w, r, s, stride, pad, .. } = shape;
    let edge = [4, 2].into_iter().find(|&edge| (h, w) == (edge, edge))?;
    let fits = (edge * edge) << blocks <= isa.most() && (edge == 2 || blocks == 0);
    ((r, s, stride, pad) == (3, 3, 1, 1) && fits).then_some(edge)
}

impl Batched {
    /// Also where the taps read, and the order of the `kept` weights.
    pub(super) fn new(
        isa: &Isa,
        shape: &ConvShape,
        kept: usize,
        finish: Finish,
        input: &Layout,
        output: &Layout,
    ) -> (Self, Offsets, Order) {
        let &ConvShape { c, k, r, s, stride, pad, .. } = shape;
        let groups = split(k, FILTERS).count();
        // Blocks that lie together on both sides share the tile.
        let shared = input.blocks.filter(|_| input.blocks == output.blocks && stride == 1);
        let blocks = shared.unwrap_or(0);
        let units = if blocks > 0 { input.groups() } else { input.images() };
        let channel = input.channel;
        let alone = input.halo == 0 && input.column == input.lanes << blocks;
        if let Some(edge) = exact(isa, shape, blocks).filter(|_| alone) {
            let place = Place { y: 0, x: 0, size: [edge.ilog2() as usize; 2] };
            let path = Self { blocks, units, kind: Kind::Exact(edge), places: vec![place], stride };
            let order = Order { filters: k, groups, slices: 1, lists: r * s, turns: true };
            return (path, Offsets { taps: vec![0; r * s], channel }, order);
        }
        let near = input.column * stride == input.lanes << blocks;
        let kind = if near { Columns::Blocks(blocks) } else { Columns::Any };
        let tap = |tap: usize| {
            // From the zeros on: nothing lies further up or left.
            let (row, column) = (tap / s + input.halo - pad, tap % s + input.halo - pad);
            row * input.row + column * input.column
        };
        let offsets = Offsets { taps: (0..r * s).map(tap).collect(), channel };
        let places = places(isa, [output.h, output.w], finish, blocks);
        let most = places.iter().map(|place| {
            let [rows, columns] = place.size.map(|size| ((1 << size) - 1) * stride);
            (rows + r) * (columns + s) * (input.lanes << blocks)
        });
        let slices = super::slices(c * most.max().unwrap_or(0), kept, k, TERMS);
        // How many blocks share a tile of a small plane depends on how many there are, and so do its slices.
        let turns = slices == 1 && input.h * input.w > SMALL;
        let order = Order { filters: k, groups, slices, lists: 1, turns };
        (Self { blocks, units, kind: Kind::Tile(kind), places, stride }, offsets, order)
    }

    pub(super) fn run(
        &self,
        layer: &SparseLayer,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let (input, output) = (&layer.input, &layer.output);
        let Order { groups, slices, .. } = layer.order;
        let shared = Shared::new(y);
        let pool = layer.finish.pool;
        let halving = usize::from(pool);
        let lowest = match self.kind {
            Kind::Exact(_) => 0,
            Kind::Tile(_) => input.origin,
        };
        team::for_each(self.units * self.places.len() * groups, |task| {
            let (group, place) = (task % groups, task / groups);
            let (unit, place) = (place / self.places.len(), self.places[place % self.places.len()]);
            let read = input.block(unit << self.blocks) - lowest
                + place.y * self.stride * input.row
                + place.x * self.stride * input.column;
            let write = output.block(unit << self.blocks)
                + (place.y >> halving) * output.row
                + (place.x >> halving) * output.column;
            let filters = layer.order.group(group);
            let vectors = place.size.iter().sum::<usize>() + self.blocks;
            let kept = if slices > 1 { filters.len() * (input.lanes << vectors) } else { 0 };
            scratch::with(kept, |sums| {
                let channel = input.lanes << vectors;
                let start = sums.as_mut_ptr().wrapping_sub(filters.start * channel);
                let sums = Sums { start, channel };
                for slice in 0..slices {
                    let tile = Tile {
                        masks: &[],
                        terms: &layer.terms,
                        starts: layer.starts(group, slice),
                        filters: filters.clone(),
                        bias: &layer.bias,
                        floor: layer.floor(),
                        pool,
                        input: x.as_ptr().wrapping_add(read),
                        row: input.row * self.stride,
                        column: input.column * self.stride,
                        residual: residual.map_or(std::ptr::null(), |residual| {
                            residual.as_ptr().wrapping_add(write)
                        }),
                        out: shared.ptr().wrapping_add(write),
                        out_row: output.row,
                        out_column: output.column,
                        out_channel: output.channel,
                        residual_channel: output.channel,
                        slice: Slice::of(slice, slices, sums),
                    };
                    // SAFETY: the tile's pixels lie in the output, whose blocks are whole vectors, and are this task's
                    // alone, as the sums are, of which there is a tile for each filter of the group; what taps read lies
                    // in the input or in the zeros around it, of which there are enough (`SparseLayer::new`).
                    unsafe {
                        match self.kind {
                            Kind::Exact(edge) => layer.isa.exact(edge, self.blocks, &tile),
                            Kind::Tile(kind) => layer.isa.tile(place.size, kind, &tile),
                        }
                    }
                }
            });
        });
    }
}

/// Covers the pixels before pooling with tiles, square ones where they fit: they share the most of what they read.
fn places(isa: &Isa, [h, w]: [usize; 2], finish: Finish, blocks: usize) -> Vec<Place> {
    let least = usize::from(finish.pool);
    let (h, w) = (h << least, w << least);
    let most = isa.most().ilog2() as usize - blocks;
    let wide = most.div_ceil(2).min(w.checked_ilog2().unwrap_or(0) as usize);
    let tall = (most - wide).min(2);
    let mut places = Vec::new();
    for (y, rows) in powers(h, tall) {
        for (x, columns) in powers(w, wide) {
            places.push(Place { y, x, size: [rows, columns] });
        }
    }
    places
}

/// `0..len` in powers of two up to `2^most`: (start, exponent).
pub(super) fn powers(len: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let exponent = ((len - start).checked_ilog2()? as usize).min(most);
        let found = (start, exponent);
        start += 1 << exponent;
        Some(found)
    })
}
