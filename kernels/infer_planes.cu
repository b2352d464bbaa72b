// infer_planes.cu -- activations of inference from rows of channels to planes of images, and back.
//
//   from_rows   planes[n / L, c, pixel, n % L] <- rows[n, pixel, c], zeros behind the last image
//   to_rows     rows[n, pixel, c] <- planes[n / L, c, pixel, n % L], zeros behind the last channel
//
// L elements are 16 bytes: 4 f32, 8 bf16. A block turns 8 pixels of 32 channels of L images in shared memory: 256 chunks
// of 16 bytes either way, one for each thread. A chunk of images lies at its pixel xor the number of its chunk of channels,
// so that the elements of a chunk of channels go to different banks.
//
// Shapes   rows: [n, pixels, stride], stride the whole chunks of c channels; planes: [blocks, c, pixels, L], below 2^31
//          elements.
// Launch   256 threads, grid (ceil(pixels / 8), ceil(stride / 32), blocks); shared memory is static.
// Result   deterministic: one writer per element, values as they are.
// Cost     each side once: memory-bound, 16 B accesses, 128 B together in planes and 64 (bf16) or 128 B in rows.
// Source   -
// Host     src/ops/infer_planes.rs     Cases  tests/cases/infer_layers.toml
#include "common/elements.cuh"

namespace {

constexpr i32 PIXELS = 8;
constexpr i32 CHANNELS = 32;

struct Shape {
    i32 n, pixels, c, stride;
};

template <class T>
struct Turn {
    static constexpr i32 L = 16 / i32(sizeof(T)), CHUNKS = CHANNELS / L;
    using Chunk = Pack<T, L>;
    using Tile = T[CHANNELS][PIXELS][L];

    // This thread's chunk of images in planes, and its chunk of channels in rows.
    i32 plane_channel, plane_pixel, image, row_pixel, chunk;
    i32 first_pixel = i32(blockIdx.x) * PIXELS, first_channel = i32(blockIdx.y) * CHANNELS, block = i32(blockIdx.z);

    __device__ Turn() {
        const i32 thread = i32(threadIdx.x);
        plane_pixel = thread % PIXELS;
        plane_channel = thread / PIXELS;
        chunk = thread % CHUNKS;
        image = thread / CHUNKS % L;
        row_pixel = thread / CHUNKS / L;
    }

    __device__ bool in_planes(const Shape& s) const {
        return first_pixel + plane_pixel < s.pixels && first_channel + plane_channel < s.c;
    }
    __device__ i64 plane(const Shape& s) const {
        return ((i64(block) * s.c + first_channel + plane_channel) * s.pixels + first_pixel + plane_pixel) * L;
    }
    __device__ bool in_rows(const Shape& s) const {
        return block * L + image < s.n && first_pixel + row_pixel < s.pixels && first_channel + chunk * L < s.stride;
    }
    __device__ i64 row(const Shape& s) const {
        return (i64(block * L + image) * s.pixels + first_pixel + row_pixel) * s.stride + first_channel + chunk * L;
    }
    __device__ static i32 place(i32 channel, i32 pixel) { return pixel ^ (channel / L % PIXELS); }

    __device__ void from_rows(Tile& tile, const T* rows, T* planes, const Shape& s) const {
        Chunk values = {};
        if (in_rows(s)) values = load<L>(rows + row(s));
#pragma unroll
        for (i32 j = 0; j < L; ++j) tile[chunk * L + j][place(chunk * L, row_pixel)][image] = values.at[j];
        __syncthreads();
        if (in_planes(s)) store(planes + plane(s), load<L>(tile[plane_channel][place(plane_channel, plane_pixel)]));
    }

    __device__ void to_rows(Tile& tile, const T* planes, T* rows, const Shape& s) const {
        Chunk values = {};
        if (in_planes(s)) values = load<L>(planes + plane(s));
        store(tile[plane_channel][place(plane_channel, plane_pixel)], values);
        __syncthreads();
        if (!in_rows(s)) return;
#pragma unroll
        for (i32 j = 0; j < L; ++j) values.at[j] = tile[chunk * L + j][place(chunk * L, row_pixel)][image];
        store(rows + row(s), values);
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256) infer_planes_from_rows_f32(const float* rows, float* planes, i32 n, i32 pixels, i32 c, i32 stride) {
    SHARED(tile, Turn<float>::Tile);
    Turn<float>().from_rows(tile, rows, planes, {n, pixels, c, stride});
}

extern "C" __global__ void __launch_bounds__(256) infer_planes_from_rows_bf16(const bf16* rows, bf16* planes, i32 n, i32 pixels, i32 c, i32 stride) {
    SHARED(tile, Turn<bf16>::Tile);
    Turn<bf16>().from_rows(tile, rows, planes, {n, pixels, c, stride});
}

extern "C" __global__ void __launch_bounds__(256) infer_planes_to_rows_f32(const float* planes, float* rows, i32 n, i32 pixels, i32 c, i32 stride) {
    SHARED(tile, Turn<float>::Tile);
    Turn<float>().to_rows(tile, planes, rows, {n, pixels, c, stride});
}

extern "C" __global__ void __launch_bounds__(256) infer_planes_to_rows_bf16(const bf16* planes, bf16* rows, i32 n, i32 pixels, i32 c, i32 stride) {
    SHARED(tile, Turn<bf16>::Tile);
    Turn<bf16>().to_rows(tile, planes, rows, {n, pixels, c, stride});
}
