// Attention of many new tokens a slot, on tensor cores (mma.sync) with asynchronous copies (cp.async): sm_80 and later.
//
// The keys and values of the new tokens are in the cache already (kv_update.cuh). A block takes kRows queries of one head and
// walks over the tiles of the cache that they see, with a running softmax. A tile of values arrives while the scores of its
// keys are computed, and the next keys while the values are used. Rows in shared memory are padded by 16 bytes, so that
// ldmatrix meets no bank twice, for every head size.
#pragma once

#include "attention.cuh"

namespace tt_edge {

// TILES of 16 queries for each warp: each fragment of keys serves all of them. One leaves room for more blocks, which hide one another's waiting.
// TEAMS of four warps have the same queries and take turns at the tiles of keys, each with a softmax of its own: a long row ends sooner.
template <int D, int TILES, int TEAMS> struct Prefill {
    static constexpr int kWarps = 4, kTeam = kWarps * 32, kThreads = TEAMS * kTeam;
    static constexpr int kTiles = TILES, kRows = kWarps * kTiles * 16, kColumns = 64;
    static constexpr int kStride = D + 8;
    static constexpr int kBlocks = TILES > 1 || D > 128 ? 2 : (D > 64 ? 3 : 4) / TEAMS;  // of a multiprocessor
    static constexpr size_t shared_bytes() { return (kRows + TEAMS * 2 * kColumns) * kStride * 2; }
};

__device__ __forceinline__ uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_all() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// `kColumns` rows of the cache, from token `first` on, to shared memory as T; zeros beyond `length`.
template <typename T, typename KV, int D, typename Shape>
__device__ __forceinline__ void copy_tile(T *to, const KV *from, int first, int length) {
    constexpr int kChunks = D / 8, kCopies = Shape::kColumns * kChunks / Shape::kTeam;
    static_assert(Shape::kColumns * kChunks % Shape::kTeam == 0);
    // Where a row's chunks divide the threads, each thread keeps its column and all its addresses differ by constants.
    constexpr bool kRegular = Shape::kTeam % kChunks == 0;
    const int thread = threadIdx.x % Shape::kTeam;
    const int own_row = thread / kChunks, own_chunk = thread % kChunks * 8;
    const KV *const own_source = from + static_cast<int64_t>(first + own_row) * D + own_chunk;
    T *const own_target = to + own_row * Shape::kStride + own_chunk;
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
        const int item = thread + i * Shape::kTeam, step = i * (Shape::kTeam / kChunks);
        const int row = kRegular ? own_row + step : item / kChunks, chunk = item % kChunks * 8;
        const bool valid = first + row < length;  // else nothing is read
        const KV *const source = kRegular ? own_source + step * D : from + static_cast<int64_t>(first + row) * D + chunk;
        T *const target = kRegular ? own_target + step * Shape::kStride : to + row * Shape::kStride + chunk;
        if constexpr (sizeof(KV) == 2) {
            asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                         ::"r"(shared_address(target)), "l"(source), "r"(valid ? 16 : 0) : "memory");
        } else {
            uint32_t words[2], pairs[4];
            load_stream<8>(words, source, valid);
            widen_all<T, KV, 8>(pairs, words);
            *reinterpret_cast<uint4 *>(target) = *reinterpret_cast<uint4 *>(pairs);
        }
    }
    commit();
}

// The base of a row that has seen nothing: finite, so that differences are no NaN.
constexpr float kLowest = -1e30f;

template <typename T, typename KV, int D, int TILES, int TEAMS>
__global__ void __launch_bounds__(Prefill<D, TILES, TEAMS>::kThreads, Prefill<D, TILES, TEAMS>::kBlocks)
    prefill_kernel(const __grid_constant__ tt_attention_args args, int wave) {
    using Shape = Prefill<D, TILES, TEAMS>;
    constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kTiles = Shape::kTiles, kStride = Shape::kStride;
    extern __shared__ __align__(16) uint8_t memory[];
    const int team = TEAMS > 1 ? static_cast<int>(threadIdx.x) / Shape::kTeam : 0;
    T *const queries = reinterpret_cast<T *>(memory), *const keys = queries + (kRows + team * 2 * kColumns) * kStride, *const values = keys + kColumns * kStride;

    // The blocks with the most keys start first: the last queries of a causal mask. Where all blocks run at once, several on a multiprocessor,
    // every second `wave` of them is in the opposite order, so that the longest share theirs with the shortest.
    const int blocks = gridDim.x, column = static_cast<int>(blockIdx.x), turn = column / wave;
    const int rank = turn % 2 == 0 ? column : min((turn + 1) * wave, blocks) - 1 - column % wave;
    const int units = args.q_heads * args.batch, unit = rank % units, head = unit % args.q_heads, slot = unit / args.q_heads;
    const int first_row = (blocks / units - 1 - rank / units) * kRows;
    const int kv_head = head / (args.q_heads / args.kv_heads);
    const int warp = threadIdx.x % Shape::kTeam / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const Tokens tokens(args, slot);
    const int rows = min(tokens.fresh - first_row, kRows);  // that are tokens
    T *const out = static_cast<T *>(args.out) + ((static_cast<int64_t>(slot) * args.q_tokens + first_row) * args.q_heads + head) * D;
    const int64_t out_stride = static_cast<int64_t>(args.q_heads) * D;

    const int length = args.tree_mask ? tokens.all() : min(tokens.all(), tokens.past + first_row + kRows);
    const int first = args.window > 0 ? max(tokens.past + first_row + 1 - args.window, 0) / kColumns * kColumns : 0;
    const KV *const cached_keys = cache_of<KV>(args, slot, kv_head, 0), *const cached_values = cache_of<KV>(args, slot, kv_head, 1);
    if (rows > 0) copy_tile<T, KV, D, Shape>(keys, cached_keys, first + team * kColumns, length);

    for (int item = threadIdx.x; item < kRows * (D / 16); item += Shape::kThreads) {
        const int row = item / (D / 16), index = item % (D / 16);
        RopePair pair = {};
        if (row < rows) {
            const float *table = rope_row(args, slot, first_row + row, tokens.past);
            pair = load_pair<T>(query_row<T>(args, slot, first_row + row, head), index, table, args.rotary_dim);
        } else {
            pair.low_at = index * 16, pair.high_at = index * 16 + 8;
            if (rows <= 0 && first_row + row < args.q_tokens) {  // padding: its output is zero
                *reinterpret_cast<uint4 *>(out + row * out_stride + pair.low_at) = make_uint4(0, 0, 0, 0);
                *reinterpret_cast<uint4 *>(out + row * out_stride + pair.high_at) = make_uint4(0, 0, 0, 0);
            }
        }
        *reinterpret_cast<uint4 *>(queries + row * kStride + pair.low_at) = *reinterpret_cast<uint4 *>(pair.low);
        *reinterpret_cast<uint4 *>(queries + row * kStride + pair.high_at) = *reinterpret_cast<uint4 *>(pair.high);
    }
    if (rows <= 0) return;

    float sums[kTiles][D / 8][4], base[kTiles][2], total[kTiles][2];  // base: the highest score, as it is in exponents
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
        base[m][0] = base[m][1] = kLowest, total[m][0] = total[m][1] = 0.f;
#pragma unroll
        for (int i = 0; i < D / 8; ++i) sums[m][i][0] = sums[m][i][1] = sums[m][i][2] = sums[m][i][3] = 0.f;
    }
    const float key_scale = args.scale * (sizeof(KV) == 1 ? args.k_scale : 1.f);
    // Scores are kept as they come, and this factor is part of the exponential's argument; with a softcap they are scaled before.
    const float factor = args.softcap > 0.f ? kLog2e : key_scale * kLog2e;
    const int warp_row = warp * kTiles * 16;
    const uint32_t query_matrix = shared_address(queries + (warp_row + lane % 16) * kStride + lane / 16 * 8);
    const uint32_t key_matrix = shared_address(keys + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8);
    const uint32_t value_matrix = shared_address(values + lane % 16 * kStride + lane / 16 * 8);

    for (int tile = first; tile < length; tile += TEAMS * kColumns) {
        const int start = tile + team * kColumns;  // where the row ends within a turn, the second team has a tile of which nothing is seen
        wait_all();
        __syncthreads();  // the keys are here, and the previous values are no longer needed
        copy_tile<T, KV, D, Shape>(values, cached_values, start, length);

        float scores[kTiles][kColumns / 8][4] = {};
#pragma unroll
        for (int s = 0; s < D / 16; ++s) {
            uint32_t q[kTiles][4];
#pragma unroll
            for (int m = 0; m < kTiles; ++m) load_matrices(q[m], query_matrix + (m * 16 * kStride + s * 16) * 2);
#pragma unroll
            for (int n = 0; n < kColumns / 16; ++n) {
                uint32_t k[4];
                load_matrices(k, key_matrix + (n * 16 * kStride + s * 16) * 2);
#pragma unroll
                for (int m = 0; m < kTiles; ++m) {
                    mma<T>(scores[m][2 * n], q[m][0], q[m][1], q[m][2], q[m][3], k[0], k[1]);
                    mma<T>(scores[m][2 * n + 1], q[m][0], q[m][1], q[m][2], q[m][3], k[2], k[3]);
                }
            }
        }
        if (args.softcap > 0.f) {
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
                for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        scores[m][n][i] = args.softcap * fast_tanh(scores[m][n][i] * (key_scale / args.softcap));
        }
        // Tiles that every query of the block sees whole need no mask.
        const int past = tokens.past, new_from = args.tree_mask ? past : past + first_row;
        const bool masked = start + kColumns > new_from + 1 || start + kColumns > length ||
                            (args.window > 0 && start < past + first_row + kRows - args.window);
        if (masked) {
            int own_row = first_row + warp_row + g;  // of the new tokens
            // What follows from it is computed here: held over all tiles it would take registers that D = 128 does not have.
            if constexpr (D >= 128) asm volatile("" : "+r"(own_row));
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const int row = own_row + m * 16 + 8 * h;
                    const bool is_token = row < tokens.fresh;
                    int position = past + row;
                    if (args.positions && args.tree_mask && is_token) position = args.positions[slot * args.q_tokens + row];
                    const int lowest = args.window > 0 ? position - args.window + 1 : 0;
                    const int words = (args.q_tokens + 31) / 32;
                    const uint32_t *const tree = args.tree_mask + (static_cast<int64_t>(slot) * args.q_tokens + row) * words;
#pragma unroll
                    for (int n = 0; n < kColumns / 8; ++n)
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            const int token = start + 8 * n + 2 * t + i, fresh = token - past;
                            bool seen = token < length && is_token;
                            if (args.tree_mask && fresh >= 0)
                                seen = seen && (tree[fresh / 32] >> fresh % 32 & 1);
                            else
                                seen = seen && token <= past + row && token >= lowest;
                            if (!seen) scores[m][n][2 * h + i] = -INFINITY;
                        }
                }
        }
        wait_all();
        __syncthreads();  // the values are here, and these keys are no longer needed
        if (tile + TEAMS * kColumns < length) copy_tile<T, KV, D, Shape>(keys, cached_keys, start + TEAMS * kColumns, length);

#pragma unroll
        for (int m = 0; m < kTiles; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float top = -INFINITY;
#pragma unroll
                for (int n = 0; n < kColumns / 8; ++n)
                    top = fmaxf(top, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
                top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
                top = fmaxf(top * factor, base[m][h]);
                const float change = exp2(base[m][h] - top);
                base[m][h] = top;
                total[m][h] *= change;
                if (D < 128 || __any_sync(~0u, change != 1.f))  // seldom needed; for small heads the test costs more than it saves
#pragma unroll
                    for (int i = 0; i < D / 8; ++i) sums[m][i][2 * h] *= change, sums[m][i][2 * h + 1] *= change;
            }
        // Exponentials of 16 columns at a time, just before their product.
#pragma unroll
        for (int s = 0; s < kColumns / 16; ++s) {
            uint32_t p[kTiles][4];
#pragma unroll
            for (int m = 0; m < kTiles; ++m)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int n = 2 * s + i / 2, h = i % 2;
                    const float a = exp2(scores[m][n][2 * h] * factor - base[m][h]);
                    const float b = exp2(scores[m][n][2 * h + 1] * factor - base[m][h]);
                    total[m][h] += a + b;
                    p[m][i] = pack<T>(a, b);
                }
#pragma unroll
            for (int n = 0; n < D / 16; ++n) {
                uint32_t v[4];
                load_transposed(v, value_matrix + (s * 16 * kStride + n * 16) * 2);
#pragma unroll
                for (int m = 0; m < kTiles; ++m) {
                    mma<T>(sums[m][2 * n], p[m][0], p[m][1], p[m][2], p[m][3], v[0], v[1]);
                    mma<T>(sums[m][2 * n + 1], p[m][0], p[m][1], p[m][2], p[m][3], v[2], v[3]);
                }
            }
        }
    }

    if constexpr (TEAMS == 2) {
        // The second team's parts through its keys' and values' memory, which they fill: [number][thread of a team].
        static_assert(kTiles == 1 && (D / 2 + 4) * Shape::kTeam * sizeof(float) == 2 * kColumns * kStride * sizeof(T));
        float *const part = reinterpret_cast<float *>(queries + (kRows + 2 * kColumns) * kStride) + threadIdx.x % Shape::kTeam;
        __syncthreads();  // its values are no longer needed
        if (team == 1) {
#pragma unroll
            for (int i = 0; i < D / 2; ++i) part[i * Shape::kTeam] = sums[0][i / 4][i % 4];
#pragma unroll
            for (int h = 0; h < 2; ++h) part[(D / 2 + h) * Shape::kTeam] = base[0][h], part[(D / 2 + 2 + h) * Shape::kTeam] = total[0][h];
        }
        __syncthreads();
        if (team == 1) return;
        float own[2], others[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float other = part[(D / 2 + h) * Shape::kTeam], top = fmaxf(base[0][h], other);
            own[h] = exp2(base[0][h] - top), others[h] = exp2(other - top);
            base[0][h] = top, total[0][h] = own[h] * total[0][h] + others[h] * part[(D / 2 + 2 + h) * Shape::kTeam];
        }
#pragma unroll
        for (int i = 0; i < D / 2; ++i)
            sums[0][i / 4][i % 4] = own[i % 4 / 2] * sums[0][i / 4][i % 4] + others[i % 4 / 2] * part[i * Shape::kTeam];
    }
    // Through the warp's own rows of the queries' memory, so that stores are whole rows.
    const float value_scale = sizeof(KV) == 1 ? args.v_scale : 1.f;
#pragma unroll
    for (int m = 0; m < kTiles; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float all = total[m][h];
            all += __shfl_xor_sync(~0u, all, 1);
            all += __shfl_xor_sync(~0u, all, 2);
            if (args.sinks) all += exp2(args.sinks[head] * kLog2e - base[m][h]);
            const bool is_token = warp_row + m * 16 + g + 8 * h < rows;  // padding's output is zero
            const float inverse = is_token && all > 0.f ? value_scale / all : 0.f;
            T *const row = queries + (warp_row + m * 16 + g + 8 * h) * kStride;
#pragma unroll
            for (int i = 0; i < D / 8; ++i)
                *reinterpret_cast<uint32_t *>(row + 8 * i + 2 * t) =
                    pack<T>(sums[m][i][2 * h] * inverse, sums[m][i][2 * h + 1] * inverse);
        }
    __syncwarp();
    for (int item = lane; item < kTiles * 16 * (D / 8); item += 32) {
        const int row = warp_row + item / (D / 8), d = item % (D / 8) * 8;
        if (first_row + row < args.q_tokens)
            *reinterpret_cast<uint4 *>(out + row * out_stride + d) = *reinterpret_cast<const uint4 *>(queries + row * kStride + d);
    }
}

}  // namespace tt_edge
