// Products of a few rows with a weight matrix, at the speed of the memory: 4-bit groupwise weights, and 16-bit ones.
//
// The weights are the `a` of mma.sync, 16 rows of them, and the up to eight rows of x its `b`: a product with one row of x
// costs the tensor cores as much as one with eight, and the CUDA cores only unpack. As in decode.cuh, each lane loads 16
// consecutive bytes of a row and both sides take the inner dimension in that order. The warps of a block share the inner
// dimension.
#include "dependent_launch.cuh"
#include "launch.h"
#include "numeric.cuh"

namespace tt_edge {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kRows = 16, kGroup = kInt4Group;

// Eight nibbles, less 8, to four pairs. The nibble in the mantissa of 1024 (bf16: 128) is that much more than itself.
template <typename T> __device__ __forceinline__ void unpack_int4(uint32_t (&pairs)[4], uint32_t word);
template <> __device__ __forceinline__ void unpack_int4<half>(uint32_t (&pairs)[4], uint32_t word) {
    const half2 bias = __float2half2_rn(-1032.f), sixteenth = __float2half2_rn(0.0625f), high_bias = __float2half2_rn(-72.f);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        uint32_t low = (word & 0x000f000fu) | 0x64006400u, high = (word & 0x00f000f0u) | 0x64006400u;
        const half2 a = __hadd2(*reinterpret_cast<half2 *>(&low), bias);
        const half2 b = __hfma2(*reinterpret_cast<half2 *>(&high), sixteenth, high_bias);
        pairs[2 * i] = *reinterpret_cast<const uint32_t *>(&a);
        pairs[2 * i + 1] = *reinterpret_cast<const uint32_t *>(&b);
        word >>= 8;
    }
}
template <> __device__ __forceinline__ void unpack_int4<bfloat16>(uint32_t (&pairs)[4], uint32_t word) {
    const __nv_bfloat162 bias = __float2bfloat162_rn(-136.f);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        uint32_t low = (word & 0x000f000fu) | 0x43004300u;
        const __nv_bfloat162 a = __hadd2(*reinterpret_cast<__nv_bfloat162 *>(&low), bias);
        pairs[i] = *reinterpret_cast<const uint32_t *>(&a);
        word >>= 4;
    }
}

// Where the 16 bytes with columns 32 * block .. + 31 of a row stand: stripes of 64 columns of four rows are consecutive.
__device__ __forceinline__ const uint8_t *packed_at(const void *weights, int row, int block, int k) {
    return static_cast<const uint8_t *>(weights) + static_cast<int64_t>(row / 4) * 2 * k + block / 2 * 128 + row % 4 * 32 +
           block % 2 * 16;
}

// The warps' sums, added in shared memory, to y.
template <typename T, int TILES>
__device__ __forceinline__ void write_sums(const float (&sums)[TILES][4], T *y, int first_row, int m, int n) {
    __shared__ float parts[kWarps][TILES * 8][kRows + 1];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
        parts[warp][8 * i + 2 * t][g] = sums[i][0];
        parts[warp][8 * i + 2 * t + 1][g] = sums[i][1];
        parts[warp][8 * i + 2 * t][g + 8] = sums[i][2];
        parts[warp][8 * i + 2 * t + 1][g + 8] = sums[i][3];
    }
    __syncthreads();
    for (int item = threadIdx.x; item < m * kRows; item += kThreads) {
        const int column = item / kRows, row = item % kRows;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += parts[w][column][row];
        if (first_row + row < n) {
            const uint32_t pair = pack<T>(sum, 0.f);
            *reinterpret_cast<uint16_t *>(y + static_cast<int64_t>(column) * n + first_row + row) = static_cast<uint16_t>(pair);
        }
    }
}

// TILES: of eight rows of x each. DEPTH: groups of a warp whose weights are in flight together, of which each is followed by the next as
// soon as it is used. BLOCKS: of a multiprocessor. The first weights are on their way before the kernel before has ended: weights do not change.
template <typename T, int TILES, int DEPTH, int BLOCKS>
__global__ void __launch_bounds__(kThreads, BLOCKS) int4_kernel(const __grid_constant__ tt_int4_args args) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first_row = blockIdx.x * kRows;
    const int groups = args.k / kGroup;
    // This lane's part of the first group; all others are at distances from it. Rows beyond the last are taken for one that is there.
    const int row = first_row + g < args.n ? first_row + g : first_row, other = row + 8 < args.n ? 8 : 0;
    const uint8_t *const weights = packed_at(args.weights, row, t, args.k);
    const T *const scales = static_cast<const T *>(args.scales) + row;
    const T *const x = static_cast<const T *>(args.x) + static_cast<int64_t>(g) * args.k + 32 * t;
    uint32_t w[DEPTH][2][4], scale[DEPTH][2];
    const auto load = [&](int d, int group) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            load_stream<16>(w[d][h], weights + static_cast<int64_t>(group) * (2 * kGroup) + h * other / 2 * args.k, group < groups);
            load_stream<2>(&scale[d][h], scales + static_cast<int64_t>(group) * args.n + h * other, group < groups);
        }
    };
    start_dependents();
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) load(d, warp + d * kWarps);
    wait_for_previous();

    float sums[TILES][4] = {};
    for (int start = warp; start < groups; start += kWarps * DEPTH) {
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            const int group = start + d * kWarps;
            if (group >= groups) break;
            uint4 columns[TILES][4];  // of x: 32, in four parts
#pragma unroll
            for (int i = 0; i < TILES; ++i)
#pragma unroll
                for (int part = 0; part < 4; ++part) {
                    const T *from = x + static_cast<int64_t>(8 * i) * args.k + group * kGroup + part * 8;
                    columns[i][part] = 8 * i + g < args.m ? *reinterpret_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
                }
            float part[TILES][4] = {};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32_t low[4], high[4];
                unpack_int4<T>(low, w[d][0][j]);
                unpack_int4<T>(high, w[d][1][j]);
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    const auto column = [&](int quarter) { return reinterpret_cast<const uint32_t *>(&columns[i][quarter])[j]; };
                    mma<T>(part[i], low[0], high[0], low[1], high[1], column(0), column(1));
                    mma<T>(part[i], low[2], high[2], low[3], high[3], column(2), column(3));
                }
            }
            const float s0 = unpack<T>(scale[d][0]).x, s1 = unpack<T>(scale[d][1]).x;
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                sums[i][0] += s0 * part[i][0], sums[i][1] += s0 * part[i][1];
                sums[i][2] += s1 * part[i][2], sums[i][3] += s1 * part[i][3];
            }
            if (group + kWarps * DEPTH < groups) load(d, group + kWarps * DEPTH);
        }
    }
    write_sums<T, TILES>(sums, static_cast<T *>(args.y), first_row, args.m, args.n);
}

// One thread for 32 columns of a row.
template <typename T> __global__ void dequantize_kernel(const __grid_constant__ tt_int4_args args) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int blocks = args.k / 32, block = static_cast<int>(item % blocks), row = static_cast<int>(item / blocks);
    if (row >= args.n) return;
    const float scale = to_float(static_cast<const T *>(args.scales)[static_cast<int64_t>(block / 4) * args.n + row]);
    uint32_t words[4], pairs[4][4];
    load_stream<16>(words, packed_at(args.weights, row, block, args.k), true);
#pragma unroll
    for (int j = 0; j < 4; ++j) unpack_int4<T>(pairs[j], words[j]);
    T *const to = static_cast<T *>(args.y) + static_cast<int64_t>(row) * args.k + block * 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        uint32_t four[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float2 pair = unpack<T>(pairs[j][i]);
            four[j] = pack<T>(pair.x * scale, pair.y * scale);
        }
        *reinterpret_cast<uint4 *>(to + 8 * i) = make_uint4(four[0], four[1], four[2], four[3]);
    }
}

template <typename T> __global__ void __launch_bounds__(kThreads, 1) gemv_kernel(const T *x, const T *w, T *y, int m, int n, int k) {
    constexpr int kDepth = 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first_row = blockIdx.x * kRows;
    float sums[1][4] = {};
    for (int start = warp * 32; start < k; start += kWarps * 32 * kDepth) {
        uint32_t a[kDepth][2][4];
        uint4 column[kDepth];
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
            const int at = start + d * kWarps * 32 + 8 * t;
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int row = first_row + g + 8 * h;
                load_stream<16>(a[d][h], w + static_cast<int64_t>(row) * k + at, at < k && row < n);
            }
            column[d] = at < k && g < m ? __ldg(reinterpret_cast<const uint4 *>(x + static_cast<int64_t>(g) * k + at))
                                        : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
            mma<T>(sums[0], a[d][0][0], a[d][1][0], a[d][0][1], a[d][1][1], column[d].x, column[d].y);
            mma<T>(sums[0], a[d][0][2], a[d][1][2], a[d][0][3], a[d][1][3], column[d].z, column[d].w);
        }
    }
    write_sums<T, 1>(sums, y, first_row, m, n);
}

template <typename T, int TILES, int DEPTH, int BLOCKS> cudaError_t launch(const tt_int4_args &args, cudaStream_t stream) {
    DependentLaunch launch((args.n + kRows - 1) / kRows, kThreads, 0, stream);
    return cudaLaunchKernelEx(&launch.config, int4_kernel<T, TILES, DEPTH, BLOCKS>, args);
}

template <typename T> cudaError_t launch_int4_of(const tt_int4_args &args, cudaStream_t stream) {
    if (args.m > 32) return launch<T, 8, 1, 1>(args, stream);
    if (args.m > 16) return launch<T, 4, 2, 1>(args, stream);
    if (args.m > 8) return launch<T, 2, 2, 1>(args, stream);
    int device = 0, processors = 1;
    if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    // Few blocks with all their weights in flight at once, or many that hide one another's waiting.
    const bool few = args.n <= 2 * processors * kRows && args.k > kWarps * kGroup;
    return few ? launch<T, 1, 4, 2>(args, stream) : launch<T, 1, 1, 4>(args, stream);
}

}  // namespace

cudaError_t launch_int4(const tt_int4_args &args, cudaStream_t stream) {
    return args.type == TT_FLOAT16 ? launch_int4_of<half>(args, stream) : launch_int4_of<bfloat16>(args, stream);
}

cudaError_t launch_dequantize(const tt_int4_args &args, cudaStream_t stream) {
    const int threads = 256;
    const int64_t items = static_cast<int64_t>(args.n) * (args.k / 32);
    const unsigned blocks = static_cast<unsigned>((items + threads - 1) / threads);
    if (args.type == TT_FLOAT16) dequantize_kernel<half><<<blocks, threads, 0, stream>>>(args);
    else dequantize_kernel<bfloat16><<<blocks, threads, 0, stream>>>(args);
    return cudaGetLastError();
}

cudaError_t launch_gemv(const void *x, const void *w, void *y, int m, int n, int k, int type, cudaStream_t stream) {
    const int blocks = (n + kRows - 1) / kRows;
    if (type == TT_FLOAT16)
        gemv_kernel<half><<<blocks, kThreads, 0, stream>>>(static_cast<const half *>(x), static_cast<const half *>(w), static_cast<half *>(y), m, n, k);
    else
        gemv_kernel<bfloat16><<<blocks, kThreads, 0, stream>>>(static_cast<const bfloat16 *>(x), static_cast<const bfloat16 *>(w), static_cast<bfloat16 *>(y), m, n, k);
    return cudaGetLastError();
}

}  // namespace tt_edge
