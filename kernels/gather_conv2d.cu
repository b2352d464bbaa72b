// gather_conv2d.cu -- convolution over some of the input's channels: the dense remainder of channel pruning.
//
//   y[n,p,q,k] = bias[k] + sum_{r,s,i} x[n, p*stride - pad + r, q*stride - pad + s, channels[i]] * w[k,r,s,i]
//
// The tiles of conv2d.cu. The gather happens in the load stage: f32 and tf32 copy single elements to shared memory,
// bf16 passes through registers, where it is rounded; no gathered copy of x is made. The gradients need no kernel of
// their own: conv2d_backward_input scatters its columns, conv2d_pack_rows gathers for the weight gradient.
//
// Shapes   x: [n,h,width,all], channels: [count] below `all`, w: [k,r,s,c] in whole 16-byte chunks with c = count
//          rounded up to one, bias: [k] or null, y: [n,p,q,k]; x, bias, y f32.
// Launch   128 threads, grid (ceil(n*p*q / 128), ceil(k / 64)). Shared memory is static, below 48 KiB.
// Result   deterministic: one writer per element, sums in a fixed order; no atomics.
// Cost     as conv2d_forward with `count` channels, plus single-element loads of x, r*s times, from L1 and L2.
// Source   He et al. 2017 (channel pruning); implicit GEMM: Chetlur et al. 2014.
// Host     src/ops/gather_conv2d.rs, src/ops/implicit_gemm.rs     Cases  tests/cases/gather_conv2d.toml
// mma: gather_conv2d_forward_tf32 gather_conv2d_forward_bf16
#include "common/pixel_rows.cuh"

namespace {

// Copies a chunk's channels of a pixel, each from where the list says; zeros behind the list.
template <class Mode>
struct GatheredChannels {
    const float* x;
    const i32* channels;
    i32 all, count;
    i32 index[CHUNK<Mode>] = {};

    // Element j of this thread's chunks is copied as number `j ^ turn()`: a copy of 4 bytes puts the four rows of a
    // warp that share a bank group (common/warp_tile.cuh) into its four banks.
    __device__ static int turn() { return Mode::BF16 ? 0 : int(threadIdx.x) / 8 % 4; }

    __device__ void select(i32 chunk) {
#pragma unroll
        for (int j = 0; j < CHUNK<Mode>; ++j) {
            const i32 at = chunk * CHUNK<Mode> + (j ^ turn());
            index[j] = at < count ? channels[at] : -1;
        }
    }

    __device__ void copy(u8* target, i64 pixel, bool valid) const {
        const float* const source = x + (valid ? pixel * all : 0);
        if constexpr (Mode::BF16) {
            float value[8];
#pragma unroll
            for (int j = 0; j < 8; ++j) value[j] = valid && index[j] >= 0 ? source[index[j]] : 0.0f;
            *reinterpret_cast<uint4*>(target) =
                make_uint4(pack_bf16x2(value[0], value[1]), pack_bf16x2(value[2], value[3]),
                           pack_bf16x2(value[4], value[5]), pack_bf16x2(value[6], value[7]));
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const bool there = valid && index[j] >= 0;
                // The same place as `target + 4 * (j ^ turn())`, in fewer registers.
                u8* const word = reinterpret_cast<u8*>(reinterpret_cast<u64>(target) ^ u64(4 * turn()) ^ u64(4 * j));
                cp_async4(word, source + (there ? index[j] : 0), there);
            }
        }
    }
};

template <class Mode>
__device__ inline void gather_forward(Stages& stages, const float* x, const i32* channels, i32 all, i32 count,
                                      const typename Mode::T* w, const float* bias, float* y, i32 rows, i32 k,
                                      Convolution conv) {
    conv.chunks /= CHUNK<Mode>;
    const i32 depth = conv.r * conv.s * conv.chunks;
    const PixelRows<GatheredChannels<Mode>, 1> a({x, channels, all, count}, conv);
    const Columns<Mode, WholeRow> b{w, depth, depth, WholeRow(depth)};
    multiply_tile(stages, a, b, Output<EveryRow>{y, bias, nullptr, rows, k, k, {}});
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) gather_conv2d_forward_f32(const float* x, const i32* channels, i32 all, i32 count, const float* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    gather_forward<F32>(stages, x, channels, all, count, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}

extern "C" __global__ void __launch_bounds__(128) gather_conv2d_forward_tf32(const float* x, const i32* channels, i32 all, i32 count, const float* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    gather_forward<Tf32>(stages, x, channels, all, count, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}

extern "C" __global__ void __launch_bounds__(128) gather_conv2d_forward_bf16(const float* x, const i32* channels, i32 all, i32 count, const bf16* w, const float* bias, float* y, i32 rows, i32 n, i32 h, i32 width, i32 c, i32 p, i32 q, i32 k, i32 r, i32 s, i32 stride, i32 pad) {
    SHARED(stages, Stages);
    gather_forward<Bf16>(stages, x, channels, all, count, w, bias, y, rows, k, {n, h, width, c, p, q, r, s, stride, -pad, -pad});
}
