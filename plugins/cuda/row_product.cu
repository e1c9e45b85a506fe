// The product of one row with a 16-bit weight matrix, at the speed of the memory, with what comes before and after it in a decoder
// layer: RMSNorm, bias, gate, residual.
//
// LANES threads share kRows rows of weights, so that a short row is loaded by one instruction of each and a long one by a few that
// are in flight together. The norm costs no barrier: its factor is one number, which multiplies the finished sums.
//
// A kernel of this file may start while the one before it still runs (programmatic dependent launch). It then has its weights
// brought to the L2 cache, which is right whatever the other writes, and reads nothing before the other has finished.
#include "dependent_launch.cuh"
#include "launch.h"
#include "numeric.cuh"

namespace tt_edge {
namespace {

constexpr int kThreads = 256, kRows = 4, kChunk = 8;  // elements of a load

template <typename T, int LANES, int DEPTH, bool NORM>
__global__ void __launch_bounds__(kThreads) row_kernel(const __grid_constant__ tt_row_args args) {
    constexpr int kGroups = kThreads / LANES, kWarps = LANES / 32, kSums = kRows + NORM;
    __shared__ float parts[kGroups][kWarps][kSums];
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES, chunks = args.k / kChunk;
    const int outputs = args.gated ? kRows / 2 : kRows;  // of a group; gated ones have a row of each half
    const int first = (blockIdx.x * kGroups + group) * outputs;
    const T *const x = static_cast<const T *>(args.x), *const w = static_cast<const T *>(args.w), *const norm = static_cast<const T *>(args.norm);
    const T *rows[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const int output = first + r % outputs;
        rows[r] = output < args.n ? w + (static_cast<int64_t>(output) + r / outputs * args.n) * args.k : nullptr;
    }
    start_dependents();
    if (lane % (128 / 16) == 0)
#pragma unroll
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
                if (rows[r] != nullptr && lane + d * LANES < chunks) prefetch(rows[r] + (lane + d * LANES) * kChunk);
    wait_for_previous();

    float sums[kSums] = {};
    for (int start = lane; start < chunks; start += LANES * DEPTH) {
        uint32_t a[DEPTH][kRows][4];
        uint4 columns[DEPTH], weights[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const int chunk = start + d * LANES;
#pragma unroll
            for (int r = 0; r < kRows; ++r) load_stream<16>(a[d][r], rows[r] + chunk * kChunk, chunk < chunks && rows[r] != nullptr);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const int chunk = start + d * LANES;
            columns[d] = chunk < chunks ? *reinterpret_cast<const uint4 *>(x + chunk * kChunk) : make_uint4(0, 0, 0, 0);
            if constexpr (NORM)
                weights[d] = chunk < chunks ? __ldg(reinterpret_cast<const uint4 *>(norm + chunk * kChunk)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; ++d)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float2 b = unpack<T>(reinterpret_cast<const uint32_t *>(&columns[d])[i]);
                if constexpr (NORM) {
                    const float2 factor = unpack<T>(reinterpret_cast<const uint32_t *>(&weights[d])[i]);
                    sums[kRows] = fmaf(b.x, b.x, fmaf(b.y, b.y, sums[kRows]));
                    b.x *= factor.x, b.y *= factor.y;
                }
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    const float2 pair = unpack<T>(a[d][r][i]);
                    sums[r] = fmaf(pair.x, b.x, fmaf(pair.y, b.y, sums[r]));
                }
            }
    }
#pragma unroll
    for (int r = 0; r < kSums; ++r) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) sums[r] += __shfl_xor_sync(~0u, sums[r], offset);
        if (lane % 32 == 0) parts[group][lane / 32][r] = sums[r];
    }
    __syncthreads();
    if (threadIdx.x >= kGroups * outputs) return;
    const int of_group = threadIdx.x / outputs, place = threadIdx.x % outputs;
    const int output = blockIdx.x * kGroups * outputs + threadIdx.x;
    if (output >= args.n) return;
    const auto total = [&](int r) {
        float sum = 0.f;
#pragma unroll
        for (int i = 0; i < kWarps; ++i) sum += parts[of_group][i][r];
        return sum;
    };
    const float factor = NORM ? rsqrtf(total(kSums - 1) / static_cast<float>(args.k) + args.eps) : 1.f;
    const T *const bias = static_cast<const T *>(args.bias), *const residual = static_cast<const T *>(args.residual);
    float sum = total(place) * factor + (bias ? to_float(bias[output]) : 0.f);
    if (args.gated) {
        const float up = total(place + outputs) * factor + (bias ? to_float(bias[output + args.n]) : 0.f);
        sum = sum / (1.f + __expf(-sum)) * up;
    }
    static_cast<T *>(args.y)[output] = from_float<T>(residual ? sum + to_float(residual[output]) : sum);
}

template <typename T, int LANES, int DEPTH> cudaError_t launch(const tt_row_args &args, cudaStream_t stream) {
    const int of_block = kThreads / LANES * (args.gated ? kRows / 2 : kRows);
    DependentLaunch launch((args.n + of_block - 1) / of_block, kThreads, 0, stream);
    if (args.norm) return cudaLaunchKernelEx(&launch.config, row_kernel<T, LANES, DEPTH, true>, args);
    return cudaLaunchKernelEx(&launch.config, row_kernel<T, LANES, DEPTH, false>, args);
}

template <typename T> cudaError_t launch_of(const tt_row_args &args, cudaStream_t stream) {
    const int chunks = args.k / kChunk;
    if (chunks <= 64) return launch<T, 64, 1>(args, stream);
    if (chunks <= 128) return launch<T, 128, 1>(args, stream);
    if (chunks <= 256) return launch<T, 256, 1>(args, stream);
    if (chunks % 768 > 512 || chunks % 768 == 0) return launch<T, 256, 3>(args, stream);
    return launch<T, 256, 2>(args, stream);
}

}  // namespace

cudaError_t launch_row(const tt_row_args &args, cudaStream_t stream) {
    return args.type == TT_FLOAT16 ? launch_of<half>(args, stream) : launch_of<bfloat16>(args, stream);
}

}  // namespace tt_edge
