//! A layer on blocks of images: each lane is an image, a tile is some pixels of one block or of a few.

use super::compiled::CompiledFilters;
use super::layout::{Layout, SMALL};
use super::lists::{ListOrder, Offsets, slices};
use super::tile::{ChannelSlice, Columns, KeptSums, ListTile};
use super::tiles::{ListTiles, widest};
use crate::cpu::conv_shape::ConvShape;
use crate::cpu::finish::Finish;
use crate::cpu::scratch::{self, Shared};
use crate::cpu::split::{powers, split};
use crate::cpu::team;

/// Most filters of a task. Tasks of one tile follow each other, so that its input stays in the second cache.
const FILTERS: usize = 64;
/// Fewest weights of a filter in a slice of the channels, on average. Times of VGG16 on 16 images: with 5 % of its weights 7.3 ms
/// without slices and 6.5 with them; with 2.9 % 4.6 and 4.4, with slices just as large as this demands; with 1 % 2.3 without slices,
/// 2.7 with smaller slices, 2.3 with slices of this size.
const TERMS: usize = 5;

/// The output pixels of a tile before pooling: the first pixel, and the extents as powers of two.
#[derive(Debug, Clone, Copy)]
struct TilePlace {
    y: usize,
    x: usize,
    size: [usize; 2],
}

/// How the tiles of a layer lie.
pub(super) struct Batched {
    /// One tile covers 2^`blocks` blocks of images; `units` is the number of such sets of blocks.
    blocks: usize,
    units: usize,
    kind: TileKind,
    places: Vec<TilePlace>,
    stride: usize,
}

#[derive(Debug, Clone, Copy)]
enum TileKind {
    /// The whole plane of this edge, a list for each tap.
    Exact(usize),
    Tile(Columns),
}

/// The edge of the plane, if the plane is one tile and the filter is 3×3, so that the plane needs no zeros around it.
pub(super) fn exact(tiles: &ListTiles, shape: &ConvShape, blocks: usize) -> Option<usize> {
    let &ConvShape { h, w, r, s, stride, pad, .. } = shape;
    let edge = [4, 2].into_iter().find(|&edge| (h, w) == (edge, edge))?;
    let fits = (edge * edge) << blocks <= 1 << tiles.most() && (edge == 2 || blocks == 0);
    ((r, s, stride, pad) == (3, 3, 1, 1) && fits).then_some(edge)
}

impl Batched {
    /// Also where the taps read, and the order of the `kept` weights.
    pub(super) fn new(
        tiles: &ListTiles,
        shape: &ConvShape,
        kept: usize,
        finish: Finish,
        input: &Layout,
        output: &Layout,
    ) -> (Self, Offsets, ListOrder) {
        let &ConvShape { c, k, r, s, stride, pad, .. } = shape;
        let groups = split(k, FILTERS).count();
        // Blocks that lie together on both sides share the tile.
        let shared = input.blocks.filter(|_| input.blocks == output.blocks && stride == 1);
        let blocks = shared.unwrap_or(0);
        let units = if blocks > 0 { input.groups() } else { input.images() };
        let channel = input.channel;
        let alone = input.halo == 0 && input.column == input.lanes << blocks;
        if let Some(edge) = exact(tiles, shape, blocks).filter(|_| alone) {
            let place = TilePlace { y: 0, x: 0, size: [edge.ilog2() as usize; 2] };
            let path =
                Self { blocks, units, kind: TileKind::Exact(edge), places: vec![place], stride };
            let order = ListOrder { filters: k, groups, slices: 1, lists: r * s, turns: true };
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
        let places = places(tiles, [output.h, output.w], finish, blocks);
        let most = places.iter().map(|place| {
            let [rows, columns] = place.size.map(|size| ((1 << size) - 1) * stride);
            (rows + r) * (columns + s) * (input.lanes << blocks)
        });
        let slices = slices(c * most.max().unwrap_or(0), kept, k, TERMS);
        // How many blocks share a tile of a small plane depends on how many there are, and so do its slices.
        let turns = slices == 1 && input.h * input.w > SMALL;
        let order = ListOrder { filters: k, groups, slices, lists: 1, turns };
        (Self { blocks, units, kind: TileKind::Tile(kind), places, stride }, offsets, order)
    }

    pub(super) fn run(
        &self,
        layer: &CompiledFilters,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let &CompiledFilters { tiles, ref input, ref output, ref lists, .. } = layer;
        let ListOrder { groups, slices, .. } = lists.order;
        let shared = Shared::new(y);
        let pool = layer.finish.pool;
        let halving = usize::from(pool);
        let lowest = match self.kind {
            TileKind::Exact(_) => 0,
            TileKind::Tile(_) => input.origin,
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
            let filters = lists.order.group(group);
            let vectors = place.size.iter().sum::<usize>() + self.blocks;
            let kept = if slices > 1 { filters.len() * (input.lanes << vectors) } else { 0 };
            // The first filter's pixel (0, 0) of the tile.
            let first = write + filters.start * output.channel;
            scratch::with(kept, |sums| {
                let sums = KeptSums { sums: Shared::new(sums), channel: input.lanes << vectors };
                for slice in 0..slices {
                    let tile = ListTile {
                        masks: &[],
                        lists: lists.of(group, slice),
                        bias: &layer.bias[filters.clone()],
                        floor: layer.floor(),
                        pool,
                        input: &x[read..],
                        row: input.row * self.stride,
                        column: input.column * self.stride,
                        residual: residual.map(|residual| &residual[first..]),
                        out: shared.rest(first),
                        out_row: output.row,
                        out_column: output.column,
                        out_channel: output.channel,
                        residual_channel: output.channel,
                        slice: ChannelSlice::of(slice, slices, sums),
                    };
                    // SAFETY: no other task has both these pixels and these filters; the sums are this task's.
                    unsafe {
                        match self.kind {
                            TileKind::Exact(edge) => tiles.exact(edge, self.blocks, &tile),
                            TileKind::Tile(kind) => tiles.square(place.size, kind, &tile),
                        }
                    }
                }
            });
        });
    }
}

/// Covers the pixels before pooling with tiles, square ones where they fit: they share the most of what they read.
fn places(tiles: &ListTiles, [h, w]: [usize; 2], finish: Finish, blocks: usize) -> Vec<TilePlace> {
    let least = usize::from(finish.pool);
    let (h, w) = (h << least, w << least);
    let most = tiles.most() - blocks;
    let wide = widest(most).min(w.checked_ilog2().unwrap_or(0) as usize);
    let tall = (most - wide).min(2);
    let mut places = Vec::new();
    for (y, rows) in powers(h, tall) {
        for (x, columns) in powers(w, wide) {
            places.push(TilePlace { y, x, size: [rows, columns] });
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::Isa;
    use crate::cpu::planes::tiles::most_blocks;

    #[test]
    fn there_is_a_tile_for_every_place() {
        for tiles in Isa::available().into_iter().map(ListTiles::of) {
            let planes = (0..=most_blocks(tiles.most()))
                .flat_map(|blocks| (1..100).map(move |plane| (blocks, [plane / 10, plane % 10])));
            for ((blocks, plane), pool) in planes.flat_map(|plane| [(plane, false), (plane, true)])
            {
                for TilePlace { size: [rows, columns], .. } in
                    places(tiles, plane, Finish { relu: false, pool }, blocks)
                {
                    assert!(
                        tiles.has([rows, columns, blocks]),
                        "{plane:?} {rows} {columns} {blocks}"
                    );
                }
            }
        }
    }
}
