// Exchange and reductions within a warp and within a block.
//
// Every lane named by `mask` must call, at the same place. Sums are in a fixed order: the same bits every time.
#pragma once
#include "common/math.cuh"

constexpr u32 FULL_MASK = 0xFFFFFFFFu;

// This thread's number in its block, its lane in its warp, and its warp in the block.
__device__ inline u32 thread_rank() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
__device__ inline u32 lane_id() { return thread_rank() % 32; }
__device__ inline u32 warp_id() { return thread_rank() / 32; }
__device__ inline u32 block_threads() { return blockDim.x * blockDim.y * blockDim.z; }

#ifdef HOST_SHIM

namespace host {

struct VoteLane {
    bool vote;
    u32 out;
};

HOST_TWIN inline void ballot(void* const* lanes, u32 mask) {
    u32 votes = 0;
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= u32(static_cast<VoteLane*>(lanes[lane])->vote) << lane;
    for (u32 lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) static_cast<VoteLane*>(lanes[lane])->out = votes;
}

template <class T>
HOST_TWIN inline T shuffle_from(T value, u32 source, u32 mask, const char* what, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    ShuffleLane lane{0, 0, source};
    __builtin_memcpy(&lane.value, &value, sizeof(T));
    meet(shuffle, &lane, mask, what, site);
    __builtin_memcpy(&value, &lane.out, sizeof(T));
    return value;
}

}  // namespace host

template <class T>
T shfl_idx(T value, u32 lane, u32 mask = FULL_MASK, host::Site site = host::here()) {
    return host::shuffle_from(value, lane % 32, mask, "shfl_idx", site);
}

template <class T>
T shfl_up(T value, u32 delta, u32 mask = FULL_MASK, host::Site site = host::here()) {
    const u32 lane = lane_id();
    return host::shuffle_from(value, delta > lane ? lane : lane - delta, mask, "shfl_up", site);
}

template <class T>
T shfl_down(T value, u32 delta, u32 mask = FULL_MASK, host::Site site = host::here()) {
    const u32 lane = lane_id();
    return host::shuffle_from(value, lane + delta > 31 ? lane : lane + delta, mask, "shfl_down", site);
}

template <class T>
T shfl_xor(T value, u32 bits, u32 mask = FULL_MASK, host::Site site = host::here()) {
    return host::shuffle_from(value, (lane_id() ^ bits) % 32, mask, "shfl_xor", site);
}

HOST_TWIN inline u32 ballot(bool vote, u32 mask, host::Site site = host::here()) {
    host::VoteLane lane{vote, 0};
    host::meet(host::ballot, &lane, mask, "ballot", site);
    return lane.out;
}

inline bool any(bool vote, u32 mask, host::Site site = host::here()) {
    return ballot(vote, mask, site) != 0;
}

inline bool all(bool vote, u32 mask, host::Site site = host::here()) {
    return ballot(vote, mask, site) == mask;
}

#else

// The value of lane `lane`; of the lane `delta` below or above (the own value where there is none); of lane
// `own ^ bits`. T has 4 or 8 bytes.
template <class T>
__device__ inline T shfl_idx(T value, u32 lane, u32 mask = FULL_MASK) {
    return __shfl_sync(mask, value, int(lane));
}

template <class T>
__device__ inline T shfl_up(T value, u32 delta, u32 mask = FULL_MASK) {
    return __shfl_up_sync(mask, value, delta);
}

template <class T>
__device__ inline T shfl_down(T value, u32 delta, u32 mask = FULL_MASK) {
    return __shfl_down_sync(mask, value, delta);
}

template <class T>
__device__ inline T shfl_xor(T value, u32 bits, u32 mask = FULL_MASK) {
    return __shfl_xor_sync(mask, value, int(bits));
}

// Bit l = the vote of lane l, 0 for lanes outside the mask. The mask has no default: NVRTC has old functions of these
// names with one parameter.
__device__ inline u32 ballot(bool vote, u32 mask) { return __ballot_sync(mask, vote); }
__device__ inline bool any(bool vote, u32 mask) { return __any_sync(mask, vote); }
__device__ inline bool all(bool vote, u32 mask) { return __all_sync(mask, vote); }

#endif

// Over all 32 lanes, the result in each of them.
template <class T>
__device__ inline T warp_sum(T value) {
    for (u32 bits = 16; bits > 0; bits /= 2) value += shfl_xor(value, bits);
    return value;
}

template <class T>
__device__ inline T warp_max(T value) {
    for (u32 bits = 16; bits > 0; bits /= 2) value = max(value, shfl_xor(value, bits));
    return value;
}

template <class T>
__device__ inline T warp_min(T value) {
    for (u32 bits = 16; bits > 0; bits /= 2) value = min(value, shfl_xor(value, bits));
    return value;
}

// Over the block, whose size is a multiple of 32; the result in every thread. All threads call; two barriers.
template <class T>
__device__ inline T block_sum(T value) {
    SHARED(warps, T[32]);
    value = warp_sum(value);
    if (lane_id() == 0) warps[warp_id()] = value;
    __syncthreads();
    value = lane_id() < block_threads() / 32 ? warps[lane_id()] : T(0);
    __syncthreads();
    return warp_sum(value);
}

template <class T>
__device__ inline T block_max(T value) {
    SHARED(warps, T[32]);
    value = warp_max(value);
    if (lane_id() == 0) warps[warp_id()] = value;
    __syncthreads();
    value = warps[lane_id() < block_threads() / 32 ? lane_id() : 0];
    __syncthreads();
    return warp_max(value);
}
