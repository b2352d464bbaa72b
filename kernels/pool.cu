// pool.cu -- largest of 2x2 windows, mean over pixels, largest and mean of any windows; with gradients.
//
//   max_pool2_forward          y[n,p,q,c] <- max x[n, 2p+{0,1}, 2q+{0,1}, c]; position <- its place 0..3, the first of equals
//   max_pool2_backward         dx[n,h,w,c] <- dy of the window where position says (h,w), else 0
//   global_avg_pool_forward    y[n,c] <- sum_hw x[n,hw,c] / hw
//   global_avg_pool_backward   dx[n,hw,c] <- dy[n,c] / hw
//   max_pool_forward           y[n,p,q,c] <- max over the window of x[n, p*stride-pad+r, q*stride-pad+s, c]; position <- r*size+s of the first maximum
//   max_pool_backward          dx[n,h,w,c] <- sum of dy over the windows whose position says (h,w)
//   avg_pool_forward           y[n,p,q,c] <- sum over the window / size^2: what lies outside counts as 0
//   avg_pool_backward          dx[n,h,w,c] <- sum of dy over the windows that hold (h,w) / size^2
//
// Shapes   x, dx: [n, h, w, c]; y, dy: [n, h/2, w/2, c], [n, c] or [n, p, q, c]; f32; position like y, u8, null = not kept.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element, sums over pixels in order (f32). The maximum has the CPU's bits, NaNs aside.
// Cost     each operand once, of overlapping windows size^2/stride^2 times, from the cache: memory-bound; 16 B accesses where c is a multiple of 4.
// Source   PyTorch's MaxPool2d and AvgPool2d (an odd last row or column is dropped, a NaN is a maximum), AdaptiveAvgPool2d(1).
// Host     src/ops/pool.rs     Cases  tests/cases/pool.toml, tests/cases/window_pool.toml
#include "common/elements.cuh"

// body.at<V>(n, row, column, channel) for the channels of [n, rows, columns, c], V at a time.
template <int V, class Body>
__device__ inline void each_group(i64 n, i32 rows, i32 columns, i32 c, const Body& body) {
    const i32 groups = c / V;
    each(n * rows * columns * groups, [&](i64 i) {
        const i64 pixel = i / groups;
        const i64 line = pixel / columns;
        body.template at<V>(line / rows, i32(line % rows), i32(pixel % columns), i32(i % groups) * V);
    });
}

template <class Body>
__device__ inline void each_pixel(i64 n, i32 rows, i32 columns, i32 c, const Body& body) {
    if (c % 4 == 0) each_group<4>(n, rows, columns, c, body);
    else each_group<1>(n, rows, columns, c, body);
}

struct MaxForward {
    const float* x;
    float* y;
    u8* position;
    i32 h, w, c;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        const float* corner = x + ((n * h + 2 * row) * w + 2 * column) * c + channel;
        Pack<float, V> best = load<V>(corner);
        Pack<u8, V> place = {};
        for (u8 k = 1; k < 4; ++k) {
            const Pack<float, V> v = load<V>(corner + (i64(k / 2) * w + k % 2) * c);
            for (int j = 0; j < V; ++j) {
                const bool better = v.at[j] > best.at[j] || (isnan(v.at[j]) && !isnan(best.at[j]));
                best.at[j] = better ? v.at[j] : best.at[j];
                place.at[j] = better ? k : place.at[j];
            }
        }
        const i64 out = ((n * (h / 2) + row) * (w / 2) + column) * c + channel;
        store(y + out, best);
        if (position != nullptr) store(position + out, place);
    }
};

extern "C" __global__ void __launch_bounds__(256) max_pool2_forward_f32(const float* x, float* y, u8* position, i32 n, i32 h, i32 w, i32 c) {
    each_pixel(n, h / 2, w / 2, c, MaxForward{x, y, position, h, w, c});
}

struct MaxBackward {
    const float* dy;
    const u8* position;
    float* dx;
    i32 h, w, c;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        Pack<float, V> out = {};
        if (row / 2 < h / 2 && column / 2 < w / 2) {
            const i64 window = ((n * (h / 2) + row / 2) * (w / 2) + column / 2) * c + channel;
            const Pack<float, V> gradient = load<V>(dy + window);
            const Pack<u8, V> place = load<V>(position + window);
            const u8 here = u8(row % 2 * 2 + column % 2);
            for (int j = 0; j < V; ++j) out.at[j] = place.at[j] == here ? gradient.at[j] : 0.0f;
        }
        store(dx + ((n * h + row) * w + column) * c + channel, out);
    }
};

extern "C" __global__ void __launch_bounds__(256) max_pool2_backward_f32(const float* dy, const u8* position, float* dx, i32 n, i32 h, i32 w, i32 c) {
    each_pixel(n, h, w, c, MaxBackward{dy, position, dx, h, w, c});
}

extern "C" __global__ void __launch_bounds__(256) global_avg_pool_forward_f32(const float* x, float* y, i32 n, i32 pixels, i32 c) {
    each(i64(n) * c, [=](i64 i) {
        const float* channel = x + i / c * pixels * c + i % c;
        float sum = 0.0f;
        for (i64 pixel = 0; pixel < pixels; ++pixel) sum += channel[pixel * c];
        y[i] = sum / float(pixels);
    });
}

struct MeanBackward {
    const float* dy;
    float* dx;
    i32 pixels, c;

    template <int V>
    __device__ void at(i64 n, i32 pixel, i32, i32 channel) const {
        Pack<float, V> out = load<V>(dy + n * c + channel);
        for (int j = 0; j < V; ++j) out.at[j] /= float(pixels);
        store(dx + (n * pixels + pixel) * c + channel, out);
    }
};

extern "C" __global__ void __launch_bounds__(256) global_avg_pool_backward_f32(const float* dy, float* dx, i32 n, i32 pixels, i32 c) {
    each_pixel(n, pixels, 1, c, MeanBackward{dy, dx, pixels, c});
}

struct Window {
    i32 h, w, c, p, q, size, stride, pad;

    // body(r * size + s, offset of the pixel) for each pixel of the window at (row, column) that lies in image n.
    template <class Body>
    __device__ void each_tap(i64 n, i32 row, i32 column, const Body& body) const {
        const i32 top = row * stride - pad, left = column * stride - pad;
        for (i32 r = max(0, -top); r < min(size, h - top); ++r)
            for (i32 s = max(0, -left); s < min(size, w - left); ++s) body(r * size + s, ((n * h + top + r) * w + left + s) * c);
    }

    // body(r * size + s, offset of the window) for each window of image n that holds the pixel (row, column), there at (r, s).
    template <class Body>
    __device__ void each_window(i64 n, i32 row, i32 column, const Body& body) const {
        const i32 y = row + pad, x = column + pad;
        for (i32 i = first(y); i < min(p, y / stride + 1); ++i)
            for (i32 j = first(x); j < min(q, x / stride + 1); ++j)
                body((y - i * stride) * size + x - j * stride, ((n * p + i) * q + j) * c);
    }

    // The first window that reaches the padded coordinate.
    __device__ i32 first(i32 at) const { return at < size ? 0 : (at - size) / stride + 1; }
};

struct WindowMaxForward {
    const float* x;
    float* y;
    u8* position;
    Window window;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        Pack<float, V> best = {};
        Pack<u8, V> place = {};
        bool any = false;
        window.each_tap(n, row, column, [&](i32 tap, i64 pixel) {
            const Pack<float, V> v = load<V>(x + pixel + channel);
            for (int j = 0; j < V; ++j) {
                const bool better = !any || v.at[j] > best.at[j] || (isnan(v.at[j]) && !isnan(best.at[j]));
                best.at[j] = better ? v.at[j] : best.at[j];
                place.at[j] = better ? u8(tap) : place.at[j];
            }
            any = true;
        });
        const i64 out = ((n * window.p + row) * window.q + column) * window.c + channel;
        store(y + out, best);
        if (position != nullptr) store(position + out, place);
    }
};

extern "C" __global__ void __launch_bounds__(256) max_pool_forward_f32(const float* x, float* y, u8* position, i32 n, i32 h, i32 w, i32 c, i32 p, i32 q, i32 size, i32 stride, i32 pad) {
    each_pixel(n, p, q, c, WindowMaxForward{x, y, position, {h, w, c, p, q, size, stride, pad}});
}

struct WindowMaxBackward {
    const float* dy;
    const u8* position;
    float* dx;
    Window window;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        Pack<float, V> out = {};
        window.each_window(n, row, column, [&](i32 tap, i64 at) {
            const Pack<float, V> gradient = load<V>(dy + at + channel);
            const Pack<u8, V> place = load<V>(position + at + channel);
            for (int j = 0; j < V; ++j) out.at[j] += place.at[j] == u8(tap) ? gradient.at[j] : 0.0f;
        });
        store(dx + ((n * window.h + row) * window.w + column) * window.c + channel, out);
    }
};

extern "C" __global__ void __launch_bounds__(256) max_pool_backward_f32(const float* dy, const u8* position, float* dx, i32 n, i32 h, i32 w, i32 c, i32 p, i32 q, i32 size, i32 stride, i32 pad) {
    each_pixel(n, h, w, c, WindowMaxBackward{dy, position, dx, {h, w, c, p, q, size, stride, pad}});
}

struct WindowMeanForward {
    const float* x;
    float* y;
    Window window;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        Pack<float, V> sum = {};
        window.each_tap(n, row, column, [&](i32, i64 pixel) {
            const Pack<float, V> v = load<V>(x + pixel + channel);
            for (int j = 0; j < V; ++j) sum.at[j] += v.at[j];
        });
        for (int j = 0; j < V; ++j) sum.at[j] /= float(window.size * window.size);
        store(y + ((n * window.p + row) * window.q + column) * window.c + channel, sum);
    }
};

extern "C" __global__ void __launch_bounds__(256) avg_pool_forward_f32(const float* x, float* y, i32 n, i32 h, i32 w, i32 c, i32 p, i32 q, i32 size, i32 stride, i32 pad) {
    each_pixel(n, p, q, c, WindowMeanForward{x, y, {h, w, c, p, q, size, stride, pad}});
}

struct WindowMeanBackward {
    const float* dy;
    float* dx;
    Window window;

    template <int V>
    __device__ void at(i64 n, i32 row, i32 column, i32 channel) const {
        Pack<float, V> sum = {};
        window.each_window(n, row, column, [&](i32, i64 at) {
            const Pack<float, V> v = load<V>(dy + at + channel);
            for (int j = 0; j < V; ++j) sum.at[j] += v.at[j];
        });
        for (int j = 0; j < V; ++j) sum.at[j] /= float(window.size * window.size);
        store(dx + ((n * window.h + row) * window.w + column) * window.c + channel, sum);
    }
};

extern "C" __global__ void __launch_bounds__(256) avg_pool_backward_f32(const float* dy, float* dx, i32 n, i32 h, i32 w, i32 c, i32 p, i32 q, i32 size, i32 stride, i32 pad) {
    each_pixel(n, h, w, c, WindowMeanBackward{dy, dx, {h, w, c, p, q, size, stride, pad}});
}
