// Results over parts of a cache, and their sum: each has the highest score that its exponentials are relative to.
#pragma once

#include "numeric.cuh"

namespace tt_edge {

// Four columns of a row's sum over some tokens, with the highest score and the sum of the exponentials less it.
struct Part {
    float4 sum;
    float top, all;
};

__device__ __forceinline__ Part sum(const Part &a, const Part &b) {
    const float top = fmaxf(a.top, b.top), f = exp2(a.top - top), g = exp2(b.top - top);
    return {make_float4(f * a.sum.x + g * b.sum.x, f * a.sum.y + g * b.sum.y, f * a.sum.z + g * b.sum.z, f * a.sum.w + g * b.sum.w), top,
            f * a.all + g * b.all};
}

// The sum of `count` parts: `at(i)` is a part's row of D sums, its highest score and its total. BATCH of them are on their way together.
template <int BATCH, int D, typename At> __device__ __forceinline__ Part merge(int count, At at, int d) {
    Part merged = {make_float4(0.f, 0.f, 0.f, 0.f), -INFINITY, 0.f};
    for (int from = 0; from < count; from += BATCH) {
        float4 sums[BATCH];
        float2 limits[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const float *const row = at(min(from + i, count - 1));
            sums[i] = *reinterpret_cast<const float4 *>(row + d);
            limits[i] = *reinterpret_cast<const float2 *>(row + D);
        }
        const float before = merged.top;
#pragma unroll
        for (int i = 0; i < BATCH; ++i) merged.top = fmaxf(merged.top, limits[i].x);  // one that is there twice changes nothing
        const float change = exp2(before - merged.top);
        merged.all *= change;
        merged.sum.x *= change, merged.sum.y *= change, merged.sum.z *= change, merged.sum.w *= change;
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const float factor = from + i < count ? exp2(limits[i].x - merged.top) : 0.f;
            merged.all += factor * limits[i].y;
            merged.sum.x += factor * sums[i].x, merged.sum.y += factor * sums[i].y;
            merged.sum.z += factor * sums[i].z, merged.sum.w += factor * sums[i].w;
        }
    }
    return merged;
}

// Counts up to `last` and then wraps to 0. Releases what the block wrote before its barrier, and acquires what others released.
__device__ __forceinline__ unsigned count(uint32_t *counter, unsigned last) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
    return before;
}

}  // namespace tt_edge
