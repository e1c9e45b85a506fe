/* The kernels of tt-edge behind a plain C interface. No TensorRT, no PyTorch.
 *
 * Every function only launches kernels on `stream`: it allocates nothing, waits for nothing and reads no device memory on
 * the host, so it can be captured into a CUDA graph. Lengths are read on the device. All functions return NULL, or a text
 * that says what is wrong with the arguments or with the launch; the text lives until the thread's next call.
 */
#ifndef TT_EDGE_KERNELS_H
#define TT_EDGE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TT_EDGE_API __attribute__((visibility("default")))
#else
#define TT_EDGE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define TT_KERNELS_VERSION 2

typedef enum { TT_FLOAT16 = 0, TT_BFLOAT16 = 1, TT_FLOAT8 = 2 /* e4m3 */, TT_INT8 = 3 } tt_type;

/* One attention layer: RoPE on queries and keys, the write of keys and values into the cache, in place, and attention of
 * the new tokens to the cache. One new token a slot is decode; more are prefill, from `past_lengths` on.
 *
 * B slots, S = q_tokens (width of the batch), Hq and Hkv heads, D = head_size. All strides are in elements; the heads of a
 * token stand D apart. Pointers and strides must suit loads of 16 bytes. */
typedef struct {
    const void *q, *k, *v; /* [B, S, H, D] of `type`, before RoPE; three inputs, or parts of one packed input */
    int64_t q_batch_stride, q_token_stride;
    int64_t k_batch_stride, k_token_stride;
    int64_t v_batch_stride, v_token_stride;
    void *cache;                  /* [B, 2, Hkv, capacity, D] of `cache_type`: keys, then values; read and written */
    const float *rope;            /* [rope_positions, rotary_dim]: cosines, then sines; NULL: no RoPE */
    int64_t rope_batch_stride;    /* 0: one table for all slots */
    const int32_t *past_lengths;  /* [B] tokens that the cache holds before this call, less `past_offset`; NULL: none */
    const int32_t *query_lengths; /* [B] new tokens of each slot, up to S; NULL: S. The others' output is 0 */
    const uint32_t *tree_mask;    /* [B, S, ceil(S/32)] bit j of row i: new token i sees new token j; NULL: causal */
    const int32_t *positions;     /* [B, S] RoPE positions; NULL: they count on from the past */
    const float *sinks;           /* [Hq] a logit that takes part in each row's softmax, without a value; NULL: none */
    void *out;                    /* [B, S, Hq, D] of `type`, dense */
    void *workspace;              /* tt_attention_workspace() bytes */
    uint32_t *counters;           /* tt_attention_counters() of them, 0 before the first call; every call leaves them 0 */
    float scale;                  /* of the scores, such as 1/sqrt(D) */
    float softcap;                /* c * tanh(score / c); 0: none */
    float k_scale, v_scale;       /* the cache holds key / k_scale and value / v_scale; for 8-bit caches */
    int32_t past_offset;          /* added to past_lengths: -1 where they count the new token */
    int32_t batch, q_tokens, q_heads, kv_heads, head_size, rotary_dim, rope_positions, capacity;
    int32_t window;               /* each token sees this many tokens, itself included; 0 or less: all */
    int32_t type, cache_type;     /* tt_type; a 16-bit cache has the type of the activations */
    int32_t splits;               /* decode: parts of the cache that blocks share; 0: chosen here */
} tt_attention_args;

/* Bytes and counters that tt_attention() needs for these sizes and smaller batches, whatever the lengths and the GPU. */
TT_EDGE_API size_t tt_attention_workspace(const tt_attention_args *args);
TT_EDGE_API size_t tt_attention_counters(const tt_attention_args *args);
TT_EDGE_API const char *tt_attention(const tt_attention_args *args, void *stream);

/* The write into the cache, with RoPE on keys where a table is given, and no attention. Reads the fields for k, v, cache,
 * rope, lengths, positions, scales, sizes and types of the same struct. */
TT_EDGE_API const char *tt_kv_update(const tt_attention_args *args, void *stream);

/* y[M, N] = x[M, K] * w[N, K]^T with 4-bit weights: w = (nibble - 8) * scale, one scale for 128 of K.
 *
 * `weights` is in the packing of NVIDIA's Int4GroupwiseGemmPlugin, int8 [N/2, K]; `scales` is [K/128, N] of `type`. Both are constants: on
 * sm_90 and later they may be read before the kernel before has ended, if that one lets the next start early, as these kernels do. */
typedef struct {
    const void *x;
    const void *weights;
    const void *scales;
    void *y;
    int32_t m, n, k, group_size, type;
} tt_int4_args;

/* For up to 64 rows of x; beyond, tt_int4_dequantize() and a library's product are faster. */
TT_EDGE_API const char *tt_int4_gemm(const tt_int4_args *args, void *stream);
/* w[N, K] into `y`; `x` and `m` are not read. */
TT_EDGE_API const char *tt_int4_dequantize(const tt_int4_args *args, void *stream);

/* y[N] = gate(norm(x)[K] * w[N, K]^T + bias) + residual, one row, all in `type`: a linear layer with its neighbours.
 *
 * Nothing may be NULL but what says so. y may be residual. */
typedef struct {
    const void *x, *w;      /* w is [N, K]; with a gate [2N, K], the rows of the gate first */
    void *y;
    const void *bias;       /* [N], with a gate [2N]; NULL: none */
    const void *residual;   /* [N], added last; NULL: none */
    const void *norm;       /* [K] weight of an RMSNorm of x; NULL: none */
    float eps;              /* of the norm */
    int32_t gated;          /* not 0: y = silu(first half) * second half */
    int32_t n, k, type;
} tt_row_args;

TT_EDGE_API const char *tt_row_product(const tt_row_args *args, void *stream);

/* y[M, N] = x[M, K] * w[N, K]^T for up to 8 rows of x, in `type`. */
TT_EDGE_API const char *tt_gemv(const void *x, const void *w, void *y, int32_t m, int32_t n, int32_t k, int32_t type, void *stream);

TT_EDGE_API int32_t tt_kernels_version(void);

#ifdef __cplusplus
}
#endif
#endif
