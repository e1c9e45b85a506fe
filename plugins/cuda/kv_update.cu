// The write into the cache, for every type.
#include "kv_update.cuh"
#include "launch.h"

namespace tt_edge {

template <typename T, typename KV> static cudaError_t launch(const tt_attention_args &args, cudaStream_t stream) {
    const int items = args.q_tokens * args.kv_heads * (args.head_size / 16), threads = 128;
    kv_update_kernel<T, KV><<<dim3((items + threads - 1) / threads, args.batch), threads, 0, stream>>>(args);
    return cudaGetLastError();
}

cudaError_t launch_kv_update(const tt_attention_args &args, cudaStream_t stream) {
    const bool half_type = args.type == TT_FLOAT16;
    if (args.cache_type == TT_FLOAT8) return half_type ? launch<half, float8>(args, stream) : launch<bfloat16, float8>(args, stream);
    if (args.cache_type == TT_INT8) return half_type ? launch<half, int8>(args, stream) : launch<bfloat16, int8>(args, stream);
    return half_type ? launch<half, half>(args, stream) : launch<bfloat16, bfloat16>(args, stream);
}

}  // namespace tt_edge
