// wrong.cu -- kernels that are wrong on purpose. Each has one mistake, which a test names.
//
// What is said to be their machine code: registers, bytes of static shared memory.
// machine code: wrong_many_registers 66 0
// machine code: wrong_unlisted 0 0
// machine code: wrong_static_shared 32 40960
// machine code: wrong_stale_table 32 16
#include "common/async_copy.cuh"
#include "common/atomic.cuh"
#include "common/mma.cuh"
#include "common/warp.cuh"

extern "C" __global__ void __launch_bounds__(256) wrong_missing_barrier(const float* x, float* y) {
    SHARED(tile, float[256]);
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[255 - threadIdx.x];  // no __syncthreads before
}

extern "C" __global__ void __launch_bounds__(256) wrong_missing_second_barrier(const float* x, float* y) {
    SHARED(tile, float[256]);
    float sum = 0.0f;
    for (int i = 0; i < 2; ++i) {
        tile[threadIdx.x] = x[256 * i + threadIdx.x];  // no __syncthreads after the loads of the last turn
        __syncthreads();
        sum += tile[255 - threadIdx.x];
    }
    y[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(64) wrong_missing_syncwarp(const float* x, float* y) {
    SHARED(tile, float[64]);
    tile[threadIdx.x] = 0.0f;
    __syncthreads();
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[threadIdx.x ^ 1];  // no __syncwarp before
}

extern "C" __global__ void __launch_bounds__(32) wrong_missing_wait(const float* x, float* y) {
    SHARED(tile, float[128]);
    cp_async16(&tile[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];  // no cp_async_wait before
}

extern "C" __global__ void __launch_bounds__(32) wrong_wait_for_older_group(const float* x, float* y) {
    SHARED(tile, float[128]);
    cp_async16(&tile[4 * threadIdx.x], x + 4 * threadIdx.x, true);
    cp_async_commit();
    cp_async_wait<1>();  // leaves the only group under way
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) wrong_exit_before_wait(const float* x, float* y) {
    SHARED(tile, float[128]);
    y[threadIdx.x] = 1.0f;
    cp_async16(&tile[4 * threadIdx.x], x, false);  // zeros that nobody waits for
    cp_async_commit();
}

extern "C" __global__ void __launch_bounds__(32) wrong_copy_source(const float* x, float* y, i32 len) {
    SHARED(tile, float[128]);
    cp_async16(&tile[4 * threadIdx.x], x + 4 * threadIdx.x, 4 * i32(threadIdx.x) <= len);  // copies one too many
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) wrong_global_store(float* y, i32 len) {
    if (i32(threadIdx.x) <= len) y[threadIdx.x] = 1.0f;  // stores one too many
}

extern "C" __global__ void __launch_bounds__(256) wrong_shared_store(float* y) {
    SHARED(first, float[100]);
    SHARED(second, float[100]);
    float* const p = first;
    if (threadIdx.x == 0) p[blockDim.x] = 1.0f;
    second[threadIdx.x % 100] = 2.0f;
    y[threadIdx.x] = second[threadIdx.x % 100];
}

extern "C" __global__ void __launch_bounds__(256) wrong_dynamic_shared(float* y) {
    DYN_SHARED(float, tile);
    tile[threadIdx.x] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(256) wrong_local_array(float* y, i32 last) {
    float a[4];
    for (int i = 0; i <= last; ++i) a[i] = float(i);
    y[threadIdx.x] = a[threadIdx.x % 4];
}

extern "C" __global__ void __launch_bounds__(256) wrong_partial_warp(float* y) {
    y[threadIdx.x] = warp_sum(1.0f);  // a block of 48 threads has a warp of 16 lanes
}

extern "C" __global__ void __launch_bounds__(32) wrong_exited_lane(float* y) {
    if (threadIdx.x == 7) return;
    y[threadIdx.x] = shfl_xor(1.0f, 1);
}

extern "C" __global__ void __launch_bounds__(32) wrong_shuffle_source(float* y) {
    if (threadIdx.x < 16) y[threadIdx.x] = shfl_idx(1.0f, threadIdx.x + 1, 0x0000FFFFu);  // lane 15 asks lane 16
}

extern "C" __global__ void __launch_bounds__(32) wrong_divergent_mask(float* y) {
    const u32 mask = threadIdx.x < 16 ? 0x0000FFFFu : 0xFFFFFFFFu;
    y[threadIdx.x] = shfl_xor(1.0f, 1, mask);
}

extern "C" __global__ void __launch_bounds__(32) wrong_own_lane(float* y) {
    y[threadIdx.x] = shfl_xor(1.0f, 1, 0x7FFFFFFFu);
}

extern "C" __global__ void __launch_bounds__(128) wrong_unwritten_shared(float* y) {
    SHARED(tile, float[128]);
    if (threadIdx.x < 96) tile[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(128) wrong_early_exit(float* y) {
    if (threadIdx.x >= 100) return;
    __syncthreads();
    y[threadIdx.x] = 1.0f;
}

extern "C" __global__ void __launch_bounds__(128) wrong_divergent_barrier(float* y) {
    if (threadIdx.x < 64) {
        __syncthreads();
        y[threadIdx.x] = 1.0f;
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(32) wrong_blocks_store_one_word(float* y) {
    if (threadIdx.x == 0) y[0] = float(blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(32) wrong_blocks_load_after_store(float* y) {
    y[32 * blockIdx.x + threadIdx.x] = 1.0f;
    if (blockIdx.x % 2 == 1) y[32 * blockIdx.x + threadIdx.x] = y[32 * (blockIdx.x - 1) + threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(64) wrong_threads_store_one_word(float* y) {
    y[threadIdx.x / 2] = 1.0f;
}

extern "C" __global__ void __launch_bounds__(64) wrong_last_block_without_fence(float* partial, u32* count, float* y) {
    SHARED(last, bool[1]);
    partial[blockIdx.x * 64 + threadIdx.x] = 1.0f;
    __syncthreads();  // no thread_fence before
    if (threadIdx.x == 0) last[0] = atomic_inc(count, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    thread_fence();
    float sum = 0.0f;
    for (u32 b = 0; b < gridDim.x; ++b) sum += partial[b * 64 + threadIdx.x];
    y[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(64) wrong_last_block_without_second_fence(float* partial, u32* count, float* y) {
    SHARED(last, bool[1]);
    partial[blockIdx.x * 64 + threadIdx.x] = 1.0f;
    thread_fence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomic_inc(count, gridDim.x - 1) == gridDim.x - 1;
    __syncthreads();
    if (!last[0]) return;
    float sum = 0.0f;  // no thread_fence before the loads
    for (u32 b = 0; b < gridDim.x; ++b) sum += partial[b * 64 + threadIdx.x];
    y[threadIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(32) wrong_plain_and_atomic(u32* count) {
    if (blockIdx.x == 0) count[0] = 1;
    else atomic_add_u32(count, 1);
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_vector(const float* x, float* y) {
    const float4 v = *reinterpret_cast<const float4*>(x + 1);
    y[threadIdx.x] = v.x;
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_copy(const float* x, float* y) {
    SHARED(tile, float[160]);
    cp_async16(&tile[5 * threadIdx.x], x, true);
    cp_async_commit();
    cp_async_wait<0>();
    y[threadIdx.x] = tile[5 * threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_matrix(u32* y) {
    SHARED(tile, bf16[8 * 12]);
    for (int i = threadIdx.x; i < 8 * 12; i += 32) tile[i] = f32_to_bf16(1.0f);
    __syncthreads();
    y[threadIdx.x] = ldmatrix_x2(&tile[12 * (threadIdx.x % 8)]).x;
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_load_whole(const float* x, float* y) {
    y[threadIdx.x] = load_float4(x + 2).x;
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_shared(float* y) {
    SHARED(tile, u32[64]);
    tile[threadIdx.x] = tile[32 + threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = float(reinterpret_cast<const u64*>(tile + 1)[threadIdx.x % 8]);
}

extern "C" __global__ void __launch_bounds__(32) wrong_misaligned_local(float* y, i32 at) {
    alignas(16) float frame[8] = {};
    frame[threadIdx.x % 8] = 1.0f;
    y[threadIdx.x] = reinterpret_cast<const float4*>(frame + at)->x;
}

// The launch is wrong, not the kernel.
extern "C" __global__ void wrong_many_registers(float* y) { y[threadIdx.x] = 1.0f; }
extern "C" __global__ void __launch_bounds__(32) wrong_unlisted(float* y) { y[threadIdx.x] = 1.0f; }

extern "C" __global__ void __launch_bounds__(32) wrong_static_shared(float* y) {
    SHARED(tile, float[10240]);
    tile[threadIdx.x] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(32) wrong_stale_table(float* y) {
    SHARED(tile, float[32]);
    tile[threadIdx.x] = 1.0f;
    y[threadIdx.x] = tile[threadIdx.x];
}

#define WORDS8 u64, u64, u64, u64, u64, u64, u64, u64
#define WORDS64 WORDS8, WORDS8, WORDS8, WORDS8, WORDS8, WORDS8, WORDS8, WORDS8
#define WORDS512 WORDS64, WORDS64, WORDS64, WORDS64, WORDS64, WORDS64, WORDS64, WORDS64
extern "C" __global__ void __launch_bounds__(32) wrong_many_parameters(WORDS512, i32) {}

extern "C" __global__ void __launch_bounds__(32) wrong_endless_loop(u32* flag) {
    volatile u32* const p = flag;
    while (*p == 0) {
    }
}

extern "C" __global__ void __launch_bounds__(32) wrong_null_pointer(float* y) { y[threadIdx.x] = 1.0f; }

extern "C" __global__ void __launch_bounds__(32) wrong_division(i32* y, i32 by) { y[threadIdx.x] = 7 / by; }

extern "C" __global__ void __launch_bounds__(32) wrong_shift(i32* y, i32 by) { y[threadIdx.x] = 1 << by; }

extern "C" __global__ void __launch_bounds__(32) wrong_stack_overflow(float* y, i32 at) {
    float frame[20000];
    for (int i = 0; i < 20000; ++i) frame[i] = float(i);
    y[threadIdx.x] = frame[at];
}
