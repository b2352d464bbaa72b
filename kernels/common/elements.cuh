// Walks over the elements of tensors, four at a time where they last.
//
// A tensor starts where an allocation does, at a multiple of 256 bytes, so only its length can leave a tail.
#pragma once
#include "common/math.cuh"

// V neighbouring elements that move in one access.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
    T at[V];
};

template <int V, class T>
__device__ inline Pack<T, V> load(const T* p) {
    return load_whole(reinterpret_cast<const Pack<T, V>*>(p));
}

template <int V, class T>
__device__ inline void store(T* p, Pack<T, V> pack) {
    store_whole(reinterpret_cast<Pack<T, V>*>(p), pack);
}

// body(i) for each i of 0..count, over the threads of a 1-D grid.
template <class Body>
__device__ inline void each(i64 count, Body body) {
    const i64 stride = i64(gridDim.x) * blockDim.x;
    for (i64 i = i64(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) body(i);
}

// body.at<4>(first) for each full four of 0..len, body.at<1>(i) for each of the rest.
template <class Body>
__device__ inline void each_pack(i64 len, const Body& body) {
    const i64 packs = len / 4;
    each(packs, [&](i64 i) { body.template at<4>(4 * i); });
    each(len - 4 * packs, [&](i64 i) { body.template at<1>(4 * packs + i); });
}
