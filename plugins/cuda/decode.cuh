// Attention of one new token a slot: the cache is read once, at the speed of the memory.
//
// The queries that share a key and value head are the rows of one tensor-core tile (8, or 16 for larger ratios). Each warp
// takes tiles of 16 or 32 tokens of the cache and keeps its own softmax, so that nothing waits in the loop. Keys and values go
// from global memory straight to registers: a product is the same when its inner dimension is permuted on both sides, and
// a permutation of the output's columns only says where to store it, so each lane loads 16 consecutive bytes and takes them
// for the elements that mma.sync gives its lane.
//
//   keys    lane (g, t) loads token g, elements 32c + 8t .. + 7         (g = lane / 4, t = lane % 4, c = 0 .. D/32)
//   values  lane (g, t) loads tokens 2t, 2t+1, 2t+8, 2t+9, elements 64e + 8g .. + 7
//
// Blocks share a long cache (`splits`). Their parts go through the workspace, and the last block, told by a counter, merges them.
#pragma once

#include "attention.cuh"
#include "dependent_launch.cuh"
#include "parts.cuh"

namespace tt_edge {

template <typename T, typename KV, int D, int ROWS> struct Decode {
    static constexpr int kWarps = 8;
    static constexpr int kThreads = kWarps * 32;
    static constexpr int kBytes = sizeof(KV);
    static constexpr int kTile = D * kBytes <= 128 ? 32 : 16;  // tokens, as many as registers hold
    static constexpr int kQueryStride = D + 8;
    static constexpr int kLongLoop = 4;   // tiles of a warp from which on bringing the first to the L2 cache early pays
    static constexpr int kFewParts = 32;  // of blocks, which one thread for four columns merges soonest
    // Accumulators of a thread: row g, and row g + 8 where there are 16.
    static constexpr int kHalves = ROWS / 8;
    static constexpr int kKeyWords = D / 4 * kBytes / 4;    // of one token's part in a lane
    static constexpr int kValueWords = D / 8 * kBytes / 4 > 0 ? (D / 8 * kBytes + 3) / 4 : 1;

    using Accumulator = float[2 * kHalves];

    static size_t shared_bytes() {
        return (kWarps * ROWS * (D + 4) + kWarps * ROWS * 2) * sizeof(float);
    }

    // Of one token, a lane's elements of the key: 8 of every 32, 4 of a last 16.
    __device__ static __forceinline__ void load_key(uint32_t (&words)[kKeyWords], const KV *row, int t, bool valid) {
#pragma unroll
        for (int c = 0; c < D / 32; ++c)
            load_stream<8 * kBytes>(words + c * 2 * kBytes, row + 32 * c + 8 * t, valid);
        if constexpr (D % 32 == 16)
            load_stream<4 * kBytes>(words + D / 32 * 2 * kBytes, row + D / 32 * 32 + 4 * t, valid);
    }

    // Of one token, a lane's elements of the value: 8 of every 64, 4 of a last 32, 2 of a last 16.
    __device__ static __forceinline__ void load_value(uint32_t (&words)[kValueWords], const KV *row, int g, bool valid) {
#pragma unroll
        for (int e = 0; e < D / 64; ++e)
            load_stream<8 * kBytes>(words + e * 2 * kBytes, row + 64 * e + 8 * g, valid);
        constexpr int kRest = D % 64 / 8;
        if constexpr (kRest > 0)
            load_stream<kRest * kBytes>(words + D / 64 * 2 * kBytes, row + D / 64 * 64 + kRest * g, valid);
    }

    // sums[.] += scores * values for N consecutive elements of each lane, which are N columns of the result.
    template <int N>
    __device__ static __forceinline__ void add_values(Accumulator *sums, const uint32_t (&p)[4],
                                                      const uint32_t (*v)[kValueWords], int word) {
        uint32_t pairs[4][N / 2];
#pragma unroll
        for (int r = 0; r < 4; ++r) widen_all<T, KV, N>(pairs[r], &v[r][word]);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const uint32_t pick = i % 2 ? 0x7632 : 0x5410;
            const uint32_t b0 = __byte_perm(pairs[0][i / 2], pairs[1][i / 2], pick);
            const uint32_t b1 = __byte_perm(pairs[2][i / 2], pairs[3][i / 2], pick);
            if constexpr (ROWS == 8)
                mma<T>(sums[i], p[0], p[2], b0, b1);
            else
                mma<T>(sums[i], p[0], p[1], p[2], p[3], b0, b1);
        }
    }
};

template <typename T, typename KV, int D, int ROWS>
__global__ void __launch_bounds__(Decode<T, KV, D, ROWS>::kThreads, 1)
    decode_kernel(const __grid_constant__ tt_attention_args args, int splits, int groups) {
    using Shape = Decode<T, KV, D, ROWS>;
    constexpr int kWarps = Shape::kWarps, kThreads = Shape::kThreads, kHalves = Shape::kHalves, kTile = Shape::kTile;
    constexpr int kLongLoop = Shape::kLongLoop, kFewParts = Shape::kFewParts;
    extern __shared__ __align__(16) float shared[];
    __shared__ __align__(16) T queries[ROWS][Shape::kQueryStride];
    __shared__ __align__(16) KV fresh[2][D];  // the new token's key and value, as the cache holds them
    __shared__ bool is_last;

    const int slot = blockIdx.z, kv_head = blockIdx.y / groups, group = blockIdx.y % groups, split = blockIdx.x;
    const int ratio = args.q_heads / args.kv_heads;
    const int first_head = kv_head * ratio + group * ROWS, rows = min(ratio - group * ROWS, ROWS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    KV *const keys = cache_of<KV>(args, slot, kv_head, 0), *const values = cache_of<KV>(args, slot, kv_head, 1);
    T *const out = static_cast<T *>(args.out) + (static_cast<int64_t>(slot) * args.q_heads + first_head) * D;

    // What the lengths say that this block does. Before the kernel before has finished they are a guess, so that the first tiles come to the
    // L2 cache and then to registers without waiting for them, and all is read again should another kernel have changed them.
    struct Share {
        int past, fresh, length, first, first_tile, tiles, used;
    };
    const auto share_of = [&](const Tokens &tokens) {
        Share s = {tokens.past, tokens.fresh, tokens.all()};
        s.first = args.window > 0 ? max(s.length - args.window, 0) : 0;
        s.first_tile = s.first / kTile, s.tiles = (s.length + kTile - 1) / kTile;
        s.used = min(splits, (s.tiles - s.first_tile + kWarps - 1) / kWarps);  // of all splits, those that have a tile for a warp
        return s;
    };
    start_dependents();
    Share own = share_of(Tokens(args, slot));
    if (threadIdx.x == 0 && own.fresh > 0 && split < own.used && own.tiles - own.first_tile >= kLongLoop * own.used * kWarps) {
        const int64_t from = static_cast<int64_t>(own.first_tile + split * kWarps) * kTile, bytes = kWarps * kTile * D * sizeof(KV);
        prefetch(keys + from * D, bytes);
        prefetch(values + from * D, bytes);
    }
    wait_for_previous();

    // Rows of 16 elements: the queries, the new key and the new value. Their loads come before the keys', which would hold them up.
    const auto fetch = [&](int item) {
        const float *const table = rope_row(args, slot, 0, own.past);
        const int row = item / (D / 16), index = item % (D / 16);
        if (row < ROWS) return fetch_pair<T>(query_row<T>(args, slot, 0, first_head + min(row, rows - 1)), index, table, args.rotary_dim);
        if (row == ROWS) return fetch_pair<T>(key_row<T>(args, slot, 0, kv_head), index, table, args.rotary_dim);
        return fetch_pair<T>(value_row<T>(args, slot, 0, kv_head), index, nullptr, 0);
    };
    constexpr int kItems = (ROWS + 2) * (D / 16);
    RopeLoad mine;
    uint32_t k[kTile / 8][Shape::kKeyWords], v[kTile / 4][Shape::kValueWords];
    auto load_keys = [&](int tile) {
#pragma unroll
        for (int j = 0; j < kTile / 8; ++j) {
            const int token = tile * kTile + 8 * j + g;
            Shape::load_key(k[j], keys + static_cast<int64_t>(token) * D, t, token < own.length - 1);
        }
    };
    auto load_values = [&](int tile) {
#pragma unroll
        for (int r = 0; r < kTile / 4; ++r) {
            const int token = tile * kTile + 2 * t + r / 2 * 8 + r % 2;
            Shape::load_value(v[r], values + static_cast<int64_t>(token) * D, g, token < own.length - 1);
        }
    };
    int tile;
    for (;;) {
        const Tokens now(args, slot);  // its loads are on their way together with the others
        tile = own.first_tile + split * kWarps + warp;
        if (own.fresh > 0 && split < own.used) {
            if (threadIdx.x < kItems) mine = fetch(threadIdx.x);
            if (tile < own.tiles) load_keys(tile), load_values(tile);
        }
        if (now.past == own.past && now.fresh == own.fresh) break;
        own = share_of(now);
    }
    if (own.fresh == 0) {  // an empty slot
        if (split == 0)
            for (int i = threadIdx.x; i < rows * D / 2; i += kThreads) reinterpret_cast<uint32_t *>(out)[i] = 0;
        return;
    }
    if (split >= own.used) return;
    const int length = own.length, first = own.first, first_tile = own.first_tile, tiles = own.tiles, used = own.used, step = used * kWarps;

    const bool owner = (tiles - 1 - first_tile) / kWarps % used == split;  // has the tile of the new token
    const auto place = [&](int item, const RopeLoad &load) {
        const int row = item / (D / 16);
        const RopePair pair = rotate<T>(load);
        if (row < ROWS) {
            *reinterpret_cast<uint4 *>(&queries[row][pair.low_at]) = *reinterpret_cast<const uint4 *>(pair.low);
            *reinterpret_cast<uint4 *>(&queries[row][pair.high_at]) = *reinterpret_cast<const uint4 *>(pair.high);
        } else if (owner) {
            const bool is_key = row == ROWS;
            KV *const cache = (is_key ? keys : values) + static_cast<int64_t>(length - 1) * D;
            const auto store = [&](const uint32_t(&pairs)[4], int element) {
                uint32_t words[4];
                store_form<T, KV>(words, pairs, 1.f / (is_key ? args.k_scale : args.v_scale));
#pragma unroll
                for (int i = 0; i < 2 * static_cast<int>(sizeof(KV)); ++i) {
                    reinterpret_cast<uint32_t *>(&fresh[is_key ? 0 : 1][element])[i] = words[i];
                    if (group == 0) reinterpret_cast<uint32_t *>(cache + element)[i] = words[i];
                }
            };
            store(pair.low, pair.low_at);
            store(pair.high, pair.high_at);
        }
    };
    if (threadIdx.x < kItems) place(threadIdx.x, mine);
    for (int item = threadIdx.x + kThreads; item < kItems; item += kThreads) place(item, fetch(item));
    __syncthreads();

    // The queries' fragments, in the order of the keys' elements.
    constexpr int kSteps = D / 16;
    uint32_t q[kSteps][2 * kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
            const bool rest = D % 32 == 16 && s == kSteps - 1;
            const int at = rest ? D / 32 * 32 + 4 * t : s / 2 * 32 + 8 * t + s % 2 * 4;
            const uint2 two = *reinterpret_cast<const uint2 *>(&queries[g + 8 * h][at]);
            q[s][h] = two.x;
            q[s][kHalves + h] = two.y;
        }

    float sums[D / 8][2 * kHalves], highest[kHalves], total[kHalves];
#pragma unroll
    for (int i = 0; i < D / 8; ++i)
#pragma unroll
        for (int j = 0; j < 2 * kHalves; ++j) sums[i][j] = 0.f;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) highest[h] = -INFINITY, total[h] = 0.f;
    const float scale = args.scale * (sizeof(KV) == 1 ? args.k_scale : 1.f);

    for (; tile < tiles; tile += step) {
        if (tile == tiles - 1) {  // the new token is not read from the cache: another block may be writing it
            const int index = (length - 1) % kTile;
#pragma unroll
            for (int j = 0; j < kTile / 8; ++j)
                if (8 * j + g == index) {
#pragma unroll
                    for (int c = 0; c < D / 32; ++c)
#pragma unroll
                        for (int i = 0; i < 2 * Shape::kBytes; ++i)
                            k[j][c * 2 * Shape::kBytes + i] = reinterpret_cast<uint32_t *>(&fresh[0][32 * c + 8 * t])[i];
                    if constexpr (D % 32 == 16)
#pragma unroll
                        for (int i = 0; i < Shape::kBytes; ++i)
                            k[j][D / 32 * 2 * Shape::kBytes + i] = reinterpret_cast<uint32_t *>(&fresh[0][D / 32 * 32 + 4 * t])[i];
                }
#pragma unroll
            for (int r = 0; r < kTile / 4; ++r)
                if (2 * t + r / 2 * 8 + r % 2 == index) {
                    constexpr int kRest = D % 64 / 8;
#pragma unroll
                    for (int e = 0; e < D / 64; ++e)
#pragma unroll
                        for (int i = 0; i < 2 * Shape::kBytes; ++i)
                            v[r][e * 2 * Shape::kBytes + i] = reinterpret_cast<uint32_t *>(&fresh[1][64 * e + 8 * g])[i];
                    const KV *rest = &fresh[1][D / 64 * 64 + kRest * g];
                    if constexpr (kRest * sizeof(KV) == 2)
                        v[r][D / 64 * 2 * Shape::kBytes] = *reinterpret_cast<const uint16_t *>(rest);
                    else if constexpr (kRest > 0)
#pragma unroll
                        for (int i = 0; i < kRest * Shape::kBytes / 4; ++i)
                            v[r][D / 64 * 2 * Shape::kBytes + i] = reinterpret_cast<const uint32_t *>(rest)[i];
                }
        }
        float scores[kTile / 8][2 * kHalves] = {};
#pragma unroll
        for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
            for (int s = 0; s < kSteps; ++s) {
                uint32_t pairs[2];
                widen_all<T, KV, 4>(pairs, &k[j][s * Shape::kBytes]);
                if constexpr (ROWS == 8)
                    mma<T>(scores[j], q[s][0], q[s][1], pairs[0], pairs[1]);
                else
                    mma<T>(scores[j], q[s][0], q[s][1], q[s][2], q[s][3], pairs[0], pairs[1]);
            }
        const int now = tile * kTile;
        if (tile + step < tiles) load_keys(tile + step);

        uint32_t p[kTile / 16][4] = {};
#pragma unroll
        for (int h = 0; h < kHalves; ++h) {
            float top = highest[h];
#pragma unroll
            for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float &score = scores[j][2 * h + i];
                    const int token = now + 8 * j + 2 * t + i;
                    score *= scale;
                    if (args.softcap > 0.f) score = args.softcap * fast_tanh(score / args.softcap);
                    score = token >= first && token < length ? score * kLog2e : -INFINITY;
                    top = fmaxf(top, score);
                }
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
            top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
            if (__any_sync(~0u, top > highest[h])) {
                const float factor = exp2(highest[h] - top);
                total[h] *= factor;
#pragma unroll
                for (int i = 0; i < D / 8; ++i) sums[i][2 * h] *= factor, sums[i][2 * h + 1] *= factor;
                highest[h] = top;
            }
#pragma unroll
            for (int j = 0; j < kTile / 8; ++j) {
                const float a = exp2(scores[j][2 * h] - top), b = exp2(scores[j][2 * h + 1] - top);
                total[h] += a + b;
                p[j / 2][j % 2 * 2 + h] = pack<T>(a, b);
            }
        }
        constexpr int kRest = D % 64 / 8;
#pragma unroll
        for (int s = 0; s < kTile / 16; ++s) {
#pragma unroll
            for (int e = 0; e < D / 64; ++e) Shape::template add_values<8>(&sums[8 * e], p[s], &v[4 * s], e * 2 * Shape::kBytes);
            if constexpr (kRest > 0)
                Shape::template add_values<kRest>(&sums[D / 64 * 8], p[s], &v[4 * s], D / 64 * 2 * Shape::kBytes);
        }
        if (tile + step < tiles) load_values(tile + step);
    }

    // The warps' parts, merged in shared memory: [warp][row][D] sums, then [warp][row] maximum and total.
    constexpr int kStride = D + 4;
    float *const limits = shared + kWarps * ROWS * kStride;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
        const int row = g + 8 * h;
        total[h] += __shfl_xor_sync(~0u, total[h], 1);
        total[h] += __shfl_xor_sync(~0u, total[h], 2);
        if (t == 0) limits[(warp * ROWS + row) * 2] = highest[h], limits[(warp * ROWS + row) * 2 + 1] = total[h];
        float *const part = shared + (warp * ROWS + row) * kStride;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) {
            // Column 2t and 2t + 1 of tile i: the lanes g = 2t and 2t + 1 loaded these elements.
            constexpr int kRest = D % 64 / 8 > 0 ? D % 64 / 8 : 8;
            const bool rest = i >= D / 64 * 8;
            const int width = rest ? kRest : 8, base = i / 8 * 64, offset = i % 8;
            part[base + 2 * t * width + offset] = sums[i][2 * h];
            part[base + (2 * t + 1) * width + offset] = sums[i][2 * h + 1];
        }
    }
    __syncthreads();

    const float value_scale = sizeof(KV) == 1 ? args.v_scale : 1.f;
    const auto write = [&](int row, int d, const Part &part) {
        float all = part.all;
        if (args.sinks) all += exp2(args.sinks[first_head + row] * kLog2e - part.top);
        const float factor = value_scale / all;
        const float4 sum = part.sum;
        uint2 two = make_uint2(pack<T>(sum.x * factor, sum.y * factor), pack<T>(sum.z * factor, sum.w * factor));
        *reinterpret_cast<uint2 *>(out + row * D + d) = two;
    };
    // The parts of blocks are [row][D sums, highest, total, 2 unused].
    const int unit = slot * gridDim.y + blockIdx.y;
    float *const parts = static_cast<float *>(args.workspace) + static_cast<int64_t>(unit) * splits * ROWS * kStride;
    for (int item = threadIdx.x; item < rows * (D / 4); item += kThreads) {
        const int row = item / (D / 4), d = item % (D / 4) * 4;
        float top = -INFINITY, all = 0.f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) top = fmaxf(top, limits[(w * ROWS + row) * 2]);
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
            const float factor = exp2(limits[(w * ROWS + row) * 2] - top);
            const float4 part = *reinterpret_cast<const float4 *>(shared + (w * ROWS + row) * kStride + d);
            all += factor * limits[(w * ROWS + row) * 2 + 1];
            sum.x += factor * part.x, sum.y += factor * part.y, sum.z += factor * part.z, sum.w += factor * part.w;
        }
        if (used == 1) {
            write(row, d, Part{sum, top, all});
        } else {
            float *const part = parts + (split * ROWS + row) * kStride;
            __stcg(reinterpret_cast<float4 *>(part + d), sum);
            if (d == 0) __stcg(reinterpret_cast<float2 *>(part + D), make_float2(top, all));
        }
    }
    if (used == 1) return;

    __syncthreads();
    if (threadIdx.x == 0) is_last = count(args.counters + unit, used - 1) == used - 1;
    __syncthreads();
    if (!is_last) return;
    const int columns = rows * (D / 4);
    if (used <= kFewParts || 2 * columns > kThreads) {
        for (int item = threadIdx.x; item < columns; item += kThreads) {
            const int row = item / (D / 4), d = item % (D / 4) * 4;
            write(row, d, merge<16, D>(used, [&](int i) { return static_cast<const float *>(parts + (i * ROWS + row) * kStride); }, d));
        }
        return;
    }
    // Many parts: as many threads for four columns as there are, each for a share of them; the first puts their results together.
    const int sharers = kThreads / columns, sharer = threadIdx.x / columns, item = threadIdx.x % columns;
    const int row = item / (D / 4), d = item % (D / 4) * 4, share = (used - sharer + sharers - 1) / sharers;
    Part *const shares = reinterpret_cast<Part *>(shared) + item;  // [sharer][item]
    if (sharer < sharers)
        shares[sharer * columns] =
            merge<16, D>(share, [&](int i) { return static_cast<const float *>(parts + ((sharer + i * sharers) * ROWS + row) * kStride); }, d);
    __syncthreads();
    if (sharer > 0) return;
    Part all = shares[0];
    for (int i = 1; i < sharers; ++i) all = sum(all, shares[i * columns]);
    write(row, d, all);
}

}  // namespace tt_edge
