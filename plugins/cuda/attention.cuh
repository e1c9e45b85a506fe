// What the decode and the prefill kernels share: where a slot's data lies, and how many tokens it has.
#pragma once

#include "numeric.cuh"
#include "tt_edge_kernels.h"

namespace tt_edge {

// The tokens of one slot. `past` are in the cache, `fresh` come with this call; none beyond the capacity. Lengths are read from the L2
// cache, so that a kernel that starts early may look at them, as a guess, before it waits for the kernel that changes them.
struct Tokens {
    int past, fresh;
    __device__ __forceinline__ Tokens(const tt_attention_args &args, int slot) {
        past = args.past_lengths ? __ldcg(args.past_lengths + slot) + args.past_offset : 0;
        past = min(max(past, 0), args.capacity);
        fresh = args.query_lengths ? min(max(__ldcg(args.query_lengths + slot), 0), args.q_tokens) : args.q_tokens;
        fresh = min(fresh, args.capacity - past);
    }
    __device__ __forceinline__ int all() const { return past + fresh; }
};

// Keys (`which` 0) or values (1) of a slot's head: [capacity, D].
template <typename KV> __device__ __forceinline__ KV *cache_of(const tt_attention_args &args, int slot, int head, int which) {
    const int64_t index = (static_cast<int64_t>(slot) * 2 + which) * args.kv_heads + head;
    return static_cast<KV *>(args.cache) + index * args.capacity * args.head_size;
}

// The row of the RoPE table for new token `index` of a slot; NULL without RoPE. Positions beyond the table take its last row.
__device__ __forceinline__ const float *rope_row(const tt_attention_args &args, int slot, int index, int past) {
    if (args.rope == nullptr) return nullptr;
    const int position = args.positions ? args.positions[slot * args.q_tokens + index] : past + index;
    const int row = min(max(position, 0), args.rope_positions - 1);
    return args.rope + slot * args.rope_batch_stride + static_cast<int64_t>(row) * args.rotary_dim;
}

template <typename T> __device__ __forceinline__ const T *key_row(const tt_attention_args &args, int slot, int token, int head) {
    return static_cast<const T *>(args.k) + slot * args.k_batch_stride + token * args.k_token_stride +
           static_cast<int64_t>(head) * args.head_size;
}
template <typename T> __device__ __forceinline__ const T *value_row(const tt_attention_args &args, int slot, int token, int head) {
    return static_cast<const T *>(args.v) + slot * args.v_batch_stride + token * args.v_token_stride +
           static_cast<int64_t>(head) * args.head_size;
}
template <typename T> __device__ __forceinline__ const T *query_row(const tt_attention_args &args, int slot, int token, int head) {
    return static_cast<const T *>(args.q) + slot * args.q_batch_stride + token * args.q_token_stride +
           static_cast<int64_t>(head) * args.head_size;
}

}  // namespace tt_edge
