// Number formats, tensor-core products and loads that all kernels share. Elements are handled in registers as pairs of
// 16-bit numbers in a uint32_t, the form that mma.sync takes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <stdint.h>

namespace tt_edge {

using half = __half;
using bfloat16 = __nv_bfloat16;
struct float8 { uint8_t bits; };  // e4m3
struct int8 { int8_t value; };

constexpr float kLog2e = 1.4426950408889634f;

__device__ __forceinline__ float to_float(half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ half from_float<half>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Two floats to a pair of 16-bit numbers, the first in the low half.
template <typename T> __device__ __forceinline__ uint32_t pack(float low, float high);
template <> __device__ __forceinline__ uint32_t pack<half>(float low, float high) {
    half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}
template <> __device__ __forceinline__ uint32_t pack<bfloat16>(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

template <typename T> __device__ __forceinline__ float2 unpack(uint32_t pair);
template <> __device__ __forceinline__ float2 unpack<half>(uint32_t pair) {
    return __half22float2(*reinterpret_cast<half2 *>(&pair));
}
template <> __device__ __forceinline__ float2 unpack<bfloat16>(uint32_t pair) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&pair));
}

// ---- 8-bit caches -------------------------------------------------------------------------------------------------

// Four stored bytes to two pairs. FP8 goes through its bits, which needs no instruction newer than sm_80: shifted into
// fp16 the exponent's bias is 8 too large, in bf16 120. A product with a power of two, which is exact, sets that right.
template <typename T, typename KV> __device__ __forceinline__ uint2 widen(uint32_t bytes);
template <> __device__ __forceinline__ uint2 widen<half, float8>(uint32_t bytes) {
    uint32_t pair[2] = {__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424)};
    const half2 bias = __float2half2_rn(256.f);
#pragma unroll
    for (uint32_t &p : pair) {
        p = (p & 0x80008000u) | ((p & 0x7f007f00u) >> 1);
        half2 value = __hmul2(*reinterpret_cast<half2 *>(&p), bias);
        p = *reinterpret_cast<uint32_t *>(&value);
    }
    return make_uint2(pair[0], pair[1]);
}
template <> __device__ __forceinline__ uint2 widen<bfloat16, float8>(uint32_t bytes) {
    uint2 pairs = widen<half, float8>(bytes);
    float2 low = unpack<half>(pairs.x), high = unpack<half>(pairs.y);
    return make_uint2(pack<bfloat16>(low.x, low.y), pack<bfloat16>(high.x, high.y));
}
// INT8: the byte plus 128 in the mantissa of 1024 is 1152 more than the number.
template <> __device__ __forceinline__ uint2 widen<half, int8>(uint32_t bytes) {
    bytes ^= 0x80808080u;
    uint32_t pair[2] = {__byte_perm(bytes, 0x64646464u, 0x4140), __byte_perm(bytes, 0x64646464u, 0x4342)};
    const half2 bias = __float2half2_rn(1152.f);
#pragma unroll
    for (uint32_t &p : pair) {
        half2 value = __hsub2(*reinterpret_cast<half2 *>(&p), bias);
        p = *reinterpret_cast<uint32_t *>(&value);
    }
    return make_uint2(pair[0], pair[1]);
}
template <> __device__ __forceinline__ uint2 widen<bfloat16, int8>(uint32_t bytes) {
    uint2 pairs = widen<half, int8>(bytes);
    float2 low = unpack<half>(pairs.x), high = unpack<half>(pairs.y);
    return make_uint2(pack<bfloat16>(low.x, low.y), pack<bfloat16>(high.x, high.y));
}

// `N` stored elements in 32-bit words to N/2 pairs.
template <typename T, typename KV, int N> __device__ __forceinline__ void widen_all(uint32_t (&pairs)[N / 2],
                                                                                   const uint32_t *words) {
    if constexpr (sizeof(KV) == 2) {
#pragma unroll
        for (int i = 0; i < N / 2; ++i) pairs[i] = words[i];
    } else {
#pragma unroll
        for (int i = 0; i < N / 4; ++i) {
            uint2 two = widen<T, KV>(words[i]);
            pairs[2 * i] = two.x;
            pairs[2 * i + 1] = two.y;
        }
        if constexpr (N == 2) pairs[0] = widen<T, KV>(words[0]).x;
    }
}

// A float as the cache stores it; 8-bit numbers saturate.
template <typename KV> __device__ __forceinline__ uint32_t narrow(float x);
template <> __device__ __forceinline__ uint32_t narrow<float8>(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
template <> __device__ __forceinline__ uint32_t narrow<int8>(float x) {
    return static_cast<uint8_t>(static_cast<int8_t>(fminf(fmaxf(rintf(x), -127.f), 127.f)));
}

// Eight numbers (four pairs) as the cache stores them, in `words`: four words of 16-bit numbers, or two of bytes.
template <typename T, typename KV>
__device__ __forceinline__ void store_form(uint32_t *words, const uint32_t (&pairs)[4], float inverse_scale) {
    if constexpr (sizeof(KV) == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = pairs[i];
    } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float2 a = unpack<T>(pairs[2 * i]), b = unpack<T>(pairs[2 * i + 1]);
            words[i] = narrow<KV>(a.x * inverse_scale) | narrow<KV>(a.y * inverse_scale) << 8 |
                       narrow<KV>(b.x * inverse_scale) << 16 | narrow<KV>(b.y * inverse_scale) << 24;
        }
    }
}

// ---- loads and products -------------------------------------------------------------------------------------------

// BYTES of global memory that is read once, to 32-bit words; zeros where not `valid`.
template <int BYTES> __device__ __forceinline__ void load_stream(uint32_t *words, const void *from, bool valid) {
    if constexpr (BYTES == 16) {
        uint32_t a = 0, b = 0, c = 0, d = 0;
        if (valid)
            asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                         : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "l"(from));
        words[0] = a, words[1] = b, words[2] = c, words[3] = d;
    } else if constexpr (BYTES == 8) {
        uint32_t a = 0, b = 0;
        if (valid) asm volatile("ld.global.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(a), "=r"(b) : "l"(from));
        words[0] = a, words[1] = b;
    } else if constexpr (BYTES == 4) {
        words[0] = valid ? *static_cast<const uint32_t *>(from) : 0u;
    } else {
        static_assert(BYTES == 2);
        uint16_t a = 0;
        if (valid) asm volatile("ld.global.u16 %0, [%1];" : "=h"(a) : "l"(from));
        words[0] = a;
    }
}

// c[16x8] += a[16x16] * b[16x8]. Fragments as in the PTX manual, mma.m16n8k16.
template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1);
template <>
__device__ __forceinline__ void mma<half>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                          uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<bfloat16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same where rows 8 to 15 of `a` are zero: only rows 0 to 7 of the result take registers.
template <typename T>
__device__ __forceinline__ void mma(float (&c)[2], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
    float full[4] = {c[0], c[1], 0.f, 0.f};
    mma<T>(full, a0, 0u, a2, 0u, b0, b1);
    c[0] = full[0], c[1] = full[1];
}

// 2^x as one instruction; results under 2^-126 are 0.
__device__ __forceinline__ float exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// tanh to about 1e-6, from one exponential.
__device__ __forceinline__ float fast_tanh(float x) { return 1.f - 2.f / (__expf(2.f * x) + 1.f); }

// ---- RoPE ---------------------------------------------------------------------------------------------------------

// 16 elements of a head's row that RoPE handles together: eight from `low` on, and the eight that they pair with.
struct RopePair {
    uint32_t low[4], high[4];
    int low_at, high_at;  // where they stand in the row
};

// The same with its angles, before it is rotated: loads that others may follow while these are on their way.
struct RopeLoad {
    RopePair pair;
    float cosine[8], sine[8];
    bool rotated;
};

// Pair `index` (of head_size / 16) of the row at `row`, to be rotated by the table's row `table` (NULL: not rotated). The first
// rotary_dim / 16 pairs are element i and element i + rotary_dim / 2; the rest of the row is passed through.
template <typename T>
__device__ __forceinline__ RopeLoad fetch_pair(const T *row, int index, const float *table, int rotary_dim) {
    RopeLoad load;
    load.rotated = table != nullptr && index < rotary_dim / 16;
    load.pair.low_at = load.rotated ? index * 8 : index * 16;
    load.pair.high_at = load.rotated ? index * 8 + rotary_dim / 2 : index * 16 + 8;
    load_stream<16>(load.pair.low, row + load.pair.low_at, true);
    load_stream<16>(load.pair.high, row + load.pair.high_at, true);
    const float *const angles = table + index * 8;
    load_stream<16>(reinterpret_cast<uint32_t *>(load.cosine), angles, load.rotated);
    load_stream<16>(reinterpret_cast<uint32_t *>(load.cosine) + 4, angles + 4, load.rotated);
    load_stream<16>(reinterpret_cast<uint32_t *>(load.sine), angles + rotary_dim / 2, load.rotated);
    load_stream<16>(reinterpret_cast<uint32_t *>(load.sine) + 4, angles + rotary_dim / 2 + 4, load.rotated);
    return load;
}

template <typename T> __device__ __forceinline__ RopePair rotate(const RopeLoad &load) {
    RopePair pair = load.pair;
    if (!load.rotated) return pair;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 a = unpack<T>(pair.low[i]), b = unpack<T>(pair.high[i]);
        const float *const c = load.cosine + 2 * i, *const s = load.sine + 2 * i;
        pair.low[i] = pack<T>(a.x * c[0] - b.x * s[0], a.y * c[1] - b.y * s[1]);
        pair.high[i] = pack<T>(b.x * c[0] + a.x * s[0], b.y * c[1] + a.y * s[1]);
    }
    return pair;
}

template <typename T>
__device__ __forceinline__ RopePair load_pair(const T *row, int index, const float *table, int rotary_dim) {
    return rotate<T>(fetch_pair<T>(row, index, table, rotary_dim));
}

}  // namespace tt_edge
