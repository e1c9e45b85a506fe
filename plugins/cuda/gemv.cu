// The product of one row with a 16-bit weight matrix, at the speed of the memory.
//
// LANES threads share a row of weights, so that a short row is loaded by one instruction of each and a long one by a few that are
// in flight together. ROWS rows of each group of lanes hide the latency, and there are enough blocks for matrices of few rows.
#include "launch.h"
#include "numeric.cuh"

namespace tt_edge {
namespace {

constexpr int kThreads = 256, kRows = 4, kChunk = 8;  // elements of a load

template <typename T, int LANES, int DEPTH>
__global__ void __launch_bounds__(kThreads) row_kernel(const T *x, const T *w, T *y, int n, int k) {
    constexpr int kGroups = kThreads / LANES, kWarps = LANES / 32;
    __shared__ float parts[kGroups][kWarps][kRows];
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const int first = (blockIdx.x * kGroups + group) * kRows, chunks = k / kChunk;
    float sums[kRows] = {};
    for (int start = lane; start < chunks; start += LANES * DEPTH) {
        uint32_t a[DEPTH][kRows][4];
        uint4 columns[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const int chunk = start + d * LANES;
#pragma unroll
            for (int r = 0; r < kRows; ++r)
                load_stream<16>(a[d][r], w + static_cast<int64_t>(first + r) * k + chunk * kChunk, chunk < chunks && first + r < n);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const int chunk = start + d * LANES;
            columns[d] = chunk < chunks ? __ldg(reinterpret_cast<const uint4 *>(x + chunk * kChunk)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 b = unpack<T>(reinterpret_cast<const uint32_t *>(&columns[d])[i]);
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const float2 pair = unpack<T>(a[d][r][i]);
                    sums[r] = fmaf(pair.x, b.x, fmaf(pair.y, b.y, sums[r]));
                }
            }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], offset);
        if (lane % 32 == 0) parts[group][lane / 32][r] = sums[r];
    }
    __syncthreads();
    if (threadIdx.x >= kGroups * kRows) return;
    const int row = static_cast<int>(blockIdx.x) * kGroups * kRows + threadIdx.x;
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += parts[threadIdx.x / kRows][i][threadIdx.x % kRows];
    if (row < n) y[row] = from_float<T>(sum);
}

template <typename T, int LANES, int DEPTH> cudaError_t launch(const T *x, const T *w, T *y, int n, int k, cudaStream_t stream) {
    constexpr int kBlock = kThreads / LANES * kRows;
    row_kernel<T, LANES, DEPTH><<<(n + kBlock - 1) / kBlock, kThreads, 0, stream>>>(x, w, y, n, k);
    return cudaGetLastError();
}

template <typename T> cudaError_t launch_of(const void *x, const void *w, void *y, int n, int k, cudaStream_t stream) {
    const T *const from = static_cast<const T *>(x), *const weights = static_cast<const T *>(w);
    T *const to = static_cast<T *>(y);
    const int chunks = k / kChunk;
    if (chunks <= 64) return launch<T, 64, 1>(from, weights, to, n, k, stream);
    if (chunks <= 128) return launch<T, 128, 1>(from, weights, to, n, k, stream);
    if (chunks <= 256) return launch<T, 256, 1>(from, weights, to, n, k, stream);
    if (chunks % 1024 > 512 || chunks % 1024 == 0) return launch<T, 256, 4>(from, weights, to, n, k, stream);
    return launch<T, 256, 2>(from, weights, to, n, k, stream);
}

}  // namespace

cudaError_t launch_row(const void *x, const void *w, void *y, int n, int k, int type, cudaStream_t stream) {
    return type == TT_FLOAT16 ? launch_of<half>(x, w, y, n, k, stream) : launch_of<bfloat16>(x, w, y, n, k, stream);
}

}  // namespace tt_edge
