// batch_norm.cu -- batch normalisation over rows of c channels, with gradients.
//
//   statistics        mean, var (biased) of each channel; running <- (1 - momentum) * running + momentum * batch,
//                     there with the unbiased variance
//   forward           y  <- (x - mean) * s + bias,   r = 1 / sqrt(var + eps),  s = r * weight
//   backward_weight   dweight <- sum dy * xhat,  dbias <- sum dy,   xhat = (x - mean) * r
//   backward_input    dx <- s * dy                                  (frozen statistics: x null)
//                     dx <- s * (dy - dbias/rows - xhat * dweight/rows)
//
// Shapes   x, y, dy, dx: [rows, c] f32; mean, var, weight, bias and their gradients: [c];
//          partial: [2, slices, c], slices = gridDim.y of the first stage.
// Launch   block (lanes, 256/lanes), lanes a power of two, channels along x; grid (ceil(c/lanes), slices): a slice is
//          ceil(rows/slices) neighbouring rows. The *_finish kernels: a thread a channel, 1-D.
// Result   deterministic: two stages in a fixed order, no atomics; Welford's update in f32 within a thread, merged
//          by Chan's rule, over the slices in f64: no cancellation of E[x^2] - E[x]^2.
// Cost     statistics read 4 B an element; forward reads 4 and writes 4; backward_weight reads 8, backward_input
//          reads 8 and writes 4: memory-bound, a warp reads neighbouring channels.
// Source   Ioffe & Szegedy 2015; Welford 1962; Chan, Golub & LeVeque 1983.
// Host     src/ops/batch_norm.rs     Cases  tests/cases/batch_norm.toml
#include "common/math.cuh"

// The channel and the rows of this thread.
struct Rows {
    i32 channel, first, end, step;

    __device__ inline Rows(i32 rows) {
        const i32 each = (rows + i32(gridDim.y) - 1) / i32(gridDim.y);
        channel = i32(blockIdx.x * blockDim.x + threadIdx.x);
        first = i32(blockIdx.y) * each + i32(threadIdx.y);
        end = min(rows, i32(blockIdx.y + 1) * each);
        step = i32(blockDim.y);
    }
};

// Mean and sum of squared deviations of `count` values.
struct Moments {
    float count, mean, squares;

    __device__ inline void merge(const Moments& other) {
        if (other.count == 0.0f) return;
        const float total = count + other.count;
        const float apart = other.mean - mean;
        mean += apart * (other.count / total);
        squares += other.squares + apart * apart * (count * (other.count / total));
        count = total;
    }
};

// The merge of the block's threads of each channel, in the threads of the first row. The block is 2-D, its height a
// power of two; T has merge().
template <class T>
__device__ inline T merge_rows(T value) {
    SHARED(values, T[256]);
    const u32 at = threadIdx.y * blockDim.x + threadIdx.x;
    store_whole(values + at, value);
    __syncthreads();
    for (u32 half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) {
            value.merge(load_whole(values + at + half * blockDim.x));
            store_whole(values + at, value);
        }
        __syncthreads();
    }
    return value;
}

extern "C" __global__ void __launch_bounds__(256) batch_norm_statistics_f32(const float* x, float* partial, i32 rows, i32 c) {
    const Rows own(rows);
    Moments moments = {};
    if (own.channel < c) {
        for (i32 row = own.first; row < own.end; row += own.step) {
            const float value = x[i64(row) * c + own.channel];
            const float off = value - moments.mean;
            moments.count += 1.0f;
            moments.mean += off / moments.count;
            moments.squares += off * (value - moments.mean);
        }
    }
    moments = merge_rows(moments);
    if (threadIdx.y == 0 && own.channel < c) {
        partial[i64(blockIdx.y) * c + own.channel] = moments.mean;
        partial[i64(gridDim.y + blockIdx.y) * c + own.channel] = moments.squares;
    }
}

extern "C" __global__ void __launch_bounds__(128) batch_norm_statistics_finish_f32(const float* partial, float* mean, float* var, float* running_mean, float* running_var, float momentum, i32 rows, i32 c, i32 slices) {
    const i32 channel = i32(blockIdx.x * blockDim.x + threadIdx.x);
    if (channel >= c) return;
    const i32 each = (rows + slices - 1) / slices;
    double count = 0.0, center = 0.0, squares = 0.0;
    for (i32 slice = 0; slice < slices && slice * each < rows; ++slice) {
        const double more = double(min(rows - slice * each, each));
        const double total = count + more;
        const double apart = double(partial[i64(slice) * c + channel]) - center;
        center += apart * (more / total);
        squares += double(partial[i64(slices + slice) * c + channel]) + apart * apart * (count * (more / total));
        count = total;
    }
    mean[channel] = float(center);
    var[channel] = float(squares / rows);
    running_mean[channel] = (1.0f - momentum) * running_mean[channel] + momentum * float(center);
    running_var[channel] = (1.0f - momentum) * running_var[channel] + momentum * float(squares / (rows - 1));
}

extern "C" __global__ void __launch_bounds__(256) batch_norm_forward_f32(const float* x, const float* mean, const float* var, const float* weight, const float* bias, float* y, float eps, i32 rows, i32 c) {
    const Rows own(rows);
    if (own.channel >= c) return;
    const float center = mean[own.channel], shift = bias[own.channel];
    const float scale = 1.0f / sqrtf(var[own.channel] + eps) * weight[own.channel];
    for (i32 row = own.first; row < own.end; row += own.step) {
        const i64 i = i64(row) * c + own.channel;
        y[i] = (x[i] - center) * scale + shift;
    }
}

// 8 bytes in one access: two accesses with a stride of two words would meet in a bank.
struct alignas(8) Sums {
    float product, sum;

    __device__ inline void merge(const Sums& other) {
        product += other.product;
        sum += other.sum;
    }
};

extern "C" __global__ void __launch_bounds__(256) batch_norm_backward_weight_f32(const float* dy, const float* x, const float* mean, const float* var, float* partial, float eps, i32 rows, i32 c) {
    const Rows own(rows);
    Sums sums = {};
    if (own.channel < c) {
        const float center = mean[own.channel], inv_std = 1.0f / sqrtf(var[own.channel] + eps);
        for (i32 row = own.first; row < own.end; row += own.step) {
            const i64 i = i64(row) * c + own.channel;
            sums.product += dy[i] * ((x[i] - center) * inv_std);
            sums.sum += dy[i];
        }
    }
    sums = merge_rows(sums);
    if (threadIdx.y == 0 && own.channel < c) {
        partial[i64(blockIdx.y) * c + own.channel] = sums.product;
        partial[i64(gridDim.y + blockIdx.y) * c + own.channel] = sums.sum;
    }
}

extern "C" __global__ void __launch_bounds__(128) batch_norm_backward_weight_finish_f32(const float* partial, float* dweight, float* dbias, i32 c, i32 slices) {
    const i32 channel = i32(blockIdx.x * blockDim.x + threadIdx.x);
    if (channel >= c) return;
    double product = 0.0, sum = 0.0;
    for (i32 slice = 0; slice < slices; ++slice) {
        product += double(partial[i64(slice) * c + channel]);
        sum += double(partial[i64(slices + slice) * c + channel]);
    }
    dweight[channel] = float(product);
    dbias[channel] = float(sum);
}

extern "C" __global__ void __launch_bounds__(256) batch_norm_backward_input_f32(const float* dy, const float* x, const float* mean, const float* var, const float* weight, const float* dweight, const float* dbias, float* dx, float eps, i32 rows, i32 c) {
    const Rows own(rows);
    if (own.channel >= c) return;
    const float inv_std = 1.0f / sqrtf(var[own.channel] + eps);
    const float scale = inv_std * weight[own.channel];
    if (x == nullptr) {
        for (i32 row = own.first; row < own.end; row += own.step) {
            const i64 i = i64(row) * c + own.channel;
            dx[i] = dy[i] * scale;
        }
        return;
    }
    const float center = mean[own.channel];
    const float slope = dweight[own.channel] / float(rows), shift = dbias[own.channel] / float(rows);
    for (i32 row = own.first; row < own.end; row += own.step) {
        const i64 i = i64(row) * c + own.channel;
        dx[i] = scale * (dy[i] - shift - (x[i] - center) * inv_std * slope);
    }
}
