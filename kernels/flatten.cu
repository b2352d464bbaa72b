// flatten.cu -- the two inner dimensions of a tensor, exchanged: an image's pixels and channels.
//
//   y[n, j, i] <- x[n, i, j]
//
// With i the pixel and j the channel, y has the features of a flattened image in PyTorch's order. With i the channel and j the
// pixel, the same kernel computes the gradient.
//
// Shapes   x: [n, rows, columns]; y: [n, columns, rows]; f32.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, a copy.
// Cost     reads and writes 4 B an element; neighbouring threads read a row's length apart. This does not matter: such images are
//          a few pixels wide, and for each element the matrix product behind reads as many weights as it has outputs.
// Source   PyTorch's flatten(x, 1) of an NCHW tensor.
// Host     src/ops/flatten.rs     Cases  tests/cases/flatten.toml
#include "common/elements.cuh"

extern "C" __global__ void __launch_bounds__(256) flatten_f32(const float* x, float* y, i32 n, i32 rows, i32 columns) {
    const i64 plane = i64(rows) * columns;
    each(n * plane, [=](i64 i) {
        const i64 at = i % plane;
        y[i] = x[i - at + at % rows * columns + at / rows];
    });
}
