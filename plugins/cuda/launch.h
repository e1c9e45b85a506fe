// What the C interface calls in the files of kernels. Each head size and type is compiled on its own
// (attention.cu with TT_HEAD_SIZE and TT_TYPE), side by side.
#pragma once

#include <cuda_runtime.h>

#include "tt_edge_kernels.h"

namespace tt_edge {

constexpr int kMaxSplits = 256, kMaxInt4Rows = 64, kMaxGemvRows = 8, kInt4Group = 128;
// Weights from which on a product of one row is faster on tensor cores (H200), in elements.
constexpr int64_t kLargeGemv = 8 << 20;

// Queries that share a tensor-core tile in decode, and how many such groups a key head has.
inline int decode_rows(const tt_attention_args &args) { return args.q_heads / args.kv_heads <= 8 ? 8 : 16; }
inline int decode_groups(const tt_attention_args &args) {
    return (args.q_heads / args.kv_heads + decode_rows(args) - 1) / decode_rows(args);
}

template <int D, int TYPE> cudaError_t launch_decode(const tt_attention_args &args, int splits, cudaStream_t stream);
template <int D, int TYPE> cudaError_t launch_prefill(const tt_attention_args &args, cudaStream_t stream);
cudaError_t launch_kv_update(const tt_attention_args &args, cudaStream_t stream);
cudaError_t launch_int4(const tt_int4_args &args, cudaStream_t stream);
cudaError_t launch_dequantize(const tt_int4_args &args, cudaStream_t stream);
cudaError_t launch_row(const tt_row_args &args, cudaStream_t stream);
cudaError_t launch_gemv(const void *x, const void *w, void *y, int m, int n, int k, int type, cudaStream_t stream);

}  // namespace tt_edge
