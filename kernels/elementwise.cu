// elementwise.cu -- rectified linear unit, sum.
//
//   relu_forward    y <- x <= 0 ? 0 : x            relu_backward   dx <- y <= 0 ? 0 : dy
//   add_forward     y <- a + b
//
// Shapes   every tensor: [len], contiguous, f32.
// Launch   1-D grid-stride: any grid, any block, no shared memory, no sync.
// Result   deterministic: one writer per element. Same bits as the CPU path, NaNs aside.
// Cost     4 B read an operand and 4 B written an element: memory-bound.
// Source   Nair & Hinton 2010 (relu).
// Host     src/ops/elementwise.rs     Cases  tests/cases/elementwise.toml
#include "common/elements.cuh"

template <class F>
struct Map {
    const float* x;
    float* y;
    F f;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> v = load<V>(x + i);
        for (int j = 0; j < V; ++j) v.at[j] = f(v.at[j]);
        store(y + i, v);
    }
};

template <class F>
struct Map2 {
    const float* a;
    const float* b;
    float* y;
    F f;

    template <int V>
    __device__ void at(i64 i) const {
        Pack<float, V> v = load<V>(a + i);
        const Pack<float, V> w = load<V>(b + i);
        for (int j = 0; j < V; ++j) v.at[j] = f(v.at[j], w.at[j]);
        store(y + i, v);
    }
};

template <class F>
__device__ inline void map(const float* x, float* y, i64 len, F f) {
    each_pack(len, Map<F>{x, y, f});
}

template <class F>
__device__ inline void map2(const float* a, const float* b, float* y, i64 len, F f) {
    each_pack(len, Map2<F>{a, b, y, f});
}

extern "C" __global__ void __launch_bounds__(256) relu_forward_f32(const float* x, float* y, i64 len) {
    map(x, y, len, [](float x) { return x <= 0.0f ? 0.0f : x; });
}

extern "C" __global__ void __launch_bounds__(256) relu_backward_f32(const float* dy, const float* y, float* dx, i64 len) {
    map2(dy, y, dx, len, [](float dy, float y) { return y <= 0.0f ? 0.0f : dy; });
}

extern "C" __global__ void __launch_bounds__(256) add_forward_f32(const float* a, const float* b, float* y, i64 len) {
    map2(a, b, y, len, [](float a, float b) { return a + b; });
}
