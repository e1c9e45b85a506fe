// The new tokens' keys and values into the cache, keys with their RoPE.
#pragma once

#include "attention.cuh"

namespace tt_edge {

// One thread for 16 elements of a key and of a value.
template <typename T, typename KV>
__global__ void kv_update_kernel(const __grid_constant__ tt_attention_args args) {
    const int pairs = args.head_size / 16;
    const int item = blockIdx.x * blockDim.x + threadIdx.x;
    const int index = item % pairs, head = item / pairs % args.kv_heads, token = item / pairs / args.kv_heads, slot = blockIdx.y;
    if (token >= args.q_tokens) return;
    const Tokens tokens(args, slot);
    if (token >= tokens.fresh) return;
    const RopePair key = load_pair<T>(key_row<T>(args, slot, token, head), index, rope_row(args, slot, token, tokens.past), args.rotary_dim);
    const RopePair value = load_pair<T>(value_row<T>(args, slot, token, head), index, nullptr, 0);
    const int64_t at = static_cast<int64_t>(tokens.past + token) * args.head_size;
    const auto store = [&](KV *to, const uint32_t(&pair)[4], float scale) {
        uint32_t words[4];
        store_form<T, KV>(words, pair, 1.f / scale);
        if constexpr (sizeof(KV) == 2)
            *reinterpret_cast<uint4 *>(to) = make_uint4(words[0], words[1], words[2], words[3]);
        else
            *reinterpret_cast<uint2 *>(to) = make_uint2(words[0], words[1]);
    };
    KV *const keys = cache_of<KV>(args, slot, head, 0) + at, *const values = cache_of<KV>(args, slot, head, 1) + at;
    store(keys + key.low_at, key.low, args.k_scale);
    store(keys + key.high_at, key.high, args.k_scale);
    store(values + value.low_at, value.low, args.v_scale);
    store(values + value.high_at, value.high, args.v_scale);
}

}  // namespace tt_edge
