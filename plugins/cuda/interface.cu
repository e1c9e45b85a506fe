// The C interface: arguments are checked here, by name and value, and kernels are chosen.
#include <stdarg.h>
#include <stdio.h>

#include "launch.h"

using namespace tt_edge;

namespace {

thread_local char message[256];

__attribute__((format(printf, 1, 2))) const char *fault(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    return message;
}

const char *launched(cudaError_t error) {
    return error == cudaSuccess ? nullptr : fault("the launch failed: %s", cudaGetErrorString(error));
}

bool aligned(const void *pointer, int64_t first_stride, int64_t second_stride) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && first_stride % 8 == 0 && second_stride % 8 == 0;
}

const char *check_cache(const tt_attention_args &a) {
    if (a.type != TT_FLOAT16 && a.type != TT_BFLOAT16) return fault("type is %d, not TT_FLOAT16 or TT_BFLOAT16", a.type);
    if (a.cache_type != a.type && a.cache_type != TT_FLOAT8 && a.cache_type != TT_INT8)
        return fault("cache_type is %d: a 16-bit cache has the type of the activations, %d", a.cache_type, a.type);
    if (a.batch < 0 || a.batch > 65535) return fault("batch is %d, not 0 to 65535", a.batch);
    if (a.q_tokens < 0) return fault("q_tokens is %d", a.q_tokens);
    if (a.kv_heads < 1) return fault("kv_heads is %d", a.kv_heads);
    if (a.capacity < 1) return fault("capacity is %d", a.capacity);
    if (a.head_size < 16 || a.head_size % 16 != 0) return fault("head_size is %d, no multiple of 16", a.head_size);
    if (a.rope && (a.rotary_dim < 16 || a.rotary_dim % 16 != 0 || a.rotary_dim > a.head_size))
        return fault("rotary_dim is %d, not a multiple of 16 up to head_size %d", a.rotary_dim, a.head_size);
    if (a.rope && a.rope_positions < 1) return fault("rope_positions is %d", a.rope_positions);
    if (!a.k || !a.v || !a.cache) return fault("k, v or cache is NULL");
    if (!aligned(a.k, a.k_batch_stride, a.k_token_stride) || !aligned(a.v, a.v_batch_stride, a.v_token_stride) ||
        !aligned(a.cache, 0, 0) || (a.rope && !aligned(a.rope, a.rope_batch_stride, 0)))
        return fault("k, v, cache or rope is not aligned to 16 bytes, or a stride of k or v is no multiple of 8");
    if (a.cache_type != a.type && !(a.k_scale > 0.f && a.v_scale > 0.f))
        return fault("k_scale %g and v_scale %g of an 8-bit cache have to be positive", a.k_scale, a.v_scale);
    return nullptr;
}

const char *check_attention(const tt_attention_args &a) {
    if (const char *text = check_cache(a)) return text;
    switch (a.head_size) {
        case 64: case 80: case 96: case 128: case 256: break;
        default: return fault("head_size is %d, not 64, 80, 96, 128 or 256", a.head_size);
    }
    if (a.q_heads < 1 || a.q_heads > 65535 || a.q_heads % a.kv_heads != 0)
        return fault("q_heads is %d, no multiple of kv_heads %d", a.q_heads, a.kv_heads);
    if (!a.q || !a.out) return fault("q or out is NULL");
    if (!aligned(a.q, a.q_batch_stride, a.q_token_stride) || !aligned(a.out, 0, 0))
        return fault("q or out is not aligned to 16 bytes, or a stride of q is no multiple of 8");
    if (!(a.scale > 0.f)) return fault("scale is %g, not positive", a.scale);
    if (a.tree_mask && a.q_tokens > 64) return fault("a tree mask is for up to 64 tokens, not %d", a.q_tokens);
    return nullptr;
}

// Into how many parts decode divides the cache of each head: as many as fill the multiprocessors, none smaller than 128 tokens.
int decode_splits(const tt_attention_args &args) {
    if (args.splits > 0) return args.splits < kMaxSplits ? args.splits : kMaxSplits;
    int device = 0, processors = 1;
    if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const int tokens = args.window > 0 && args.window < args.capacity ? args.window : args.capacity;
    const int units = args.batch * args.kv_heads * decode_groups(args), most = (tokens + 127) / 128;
    int splits = units > 0 ? (processors < kMaxSplits ? processors : kMaxSplits) / units : 1;
    if (splits > 16) splits -= splits % 16;  // they are merged 16 at a time
    return splits < 1 ? 1 : splits < most ? splits : most;
}

template <int D, int TYPE> const char *attention(const tt_attention_args &args, cudaStream_t stream) {
    if (args.q_tokens == 1 && !args.tree_mask) {
        return launched(launch_decode<D, TYPE>(args, decode_splits(args), stream));
    }
    if (cudaError_t error = launch_kv_update(args, stream)) return launched(error);
    return launched(launch_prefill<D, TYPE>(args, stream));
}

template <int D> const char *attention(const tt_attention_args &args, void *stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    return args.type == TT_FLOAT16 ? attention<D, TT_FLOAT16>(args, on) : attention<D, TT_BFLOAT16>(args, on);
}

const char *check_int4(const tt_int4_args &args) {
    if (args.type != TT_FLOAT16 && args.type != TT_BFLOAT16) return fault("type is %d, not TT_FLOAT16 or TT_BFLOAT16", args.type);
    if (args.group_size != kInt4Group) return fault("group_size is %d, not %d", args.group_size, kInt4Group);
    if (args.n < 4 || args.n % 4 != 0) return fault("n is %d, no multiple of 4", args.n);
    if (args.k < kInt4Group || args.k % kInt4Group != 0) return fault("k is %d, no multiple of %d", args.k, kInt4Group);
    if (!args.weights || !args.scales || !args.y) return fault("weights, scales or y is NULL");
    if (!aligned(args.weights, 0, 0) || !aligned(args.y, 0, 0)) return fault("weights or y is not aligned to 16 bytes");
    return nullptr;
}

}  // namespace

extern "C" {

int32_t tt_kernels_version(void) { return TT_KERNELS_VERSION; }

size_t tt_attention_counters(const tt_attention_args *args) {
    if (check_attention(*args) || args->q_tokens != 1) return 0;
    return static_cast<size_t>(args->batch) * args->kv_heads * decode_groups(*args);
}

size_t tt_attention_workspace(const tt_attention_args *args) {
    const size_t units = tt_attention_counters(args);
    if (units == 0 || args->splits == 1) return 0;
    // Whatever GPU it is for: units * splits is at most this, see decode_splits().
    const size_t chosen = units > kMaxSplits ? units : kMaxSplits, given = units * (args->splits < kMaxSplits ? args->splits : kMaxSplits);
    return (args->splits > 0 ? given : chosen) * decode_rows(*args) * (args->head_size + 4) * sizeof(float);
}

const char *tt_attention(const tt_attention_args *args, void *stream) {
    if (const char *text = check_attention(*args)) return text;
    if (args->batch == 0 || args->q_tokens == 0) return nullptr;
    if (args->q_tokens == 1 && !args->tree_mask && tt_attention_workspace(args) > 0) {
        if (!args->workspace || !args->counters) return fault("workspace or counters is NULL; see tt_attention_workspace()");
        if (!aligned(args->workspace, 0, 0)) return fault("workspace is not aligned to 16 bytes");
    }
    switch (args->head_size) {
        case 64: return attention<64>(*args, stream);
        case 80: return attention<80>(*args, stream);
        case 96: return attention<96>(*args, stream);
        case 128: return attention<128>(*args, stream);
        default: return attention<256>(*args, stream);
    }
}

const char *tt_kv_update(const tt_attention_args *args, void *stream) {
    if (const char *text = check_cache(*args)) return text;
    if (args->batch == 0 || args->q_tokens == 0) return nullptr;
    return launched(launch_kv_update(*args, static_cast<cudaStream_t>(stream)));
}

const char *tt_int4_gemm(const tt_int4_args *args, void *stream) {
    if (const char *text = check_int4(*args)) return text;
    if (args->m < 0 || args->m > kMaxInt4Rows) return fault("m is %d, not 0 to %d; dequantize for more", args->m, kMaxInt4Rows);
    if (args->m == 0) return nullptr;
    if (!args->x || !aligned(args->x, 0, 0)) return fault("x is NULL or not aligned to 16 bytes");
    return launched(launch_int4(*args, static_cast<cudaStream_t>(stream)));
}

const char *tt_int4_dequantize(const tt_int4_args *args, void *stream) {
    if (const char *text = check_int4(*args)) return text;
    return launched(launch_dequantize(*args, static_cast<cudaStream_t>(stream)));
}

const char *tt_row_product(const tt_row_args *args, void *stream) {
    if (args->type != TT_FLOAT16 && args->type != TT_BFLOAT16) return fault("type is %d, not TT_FLOAT16 or TT_BFLOAT16", args->type);
    if (args->n < 1) return fault("n is %d", args->n);
    if (args->k < 8 || args->k % 8 != 0) return fault("k is %d, no multiple of 8", args->k);
    if (!args->x || !args->w || !args->y || !aligned(args->x, 0, 0) || !aligned(args->w, 0, 0))
        return fault("x, w or y is NULL, or x or w is not aligned to 16 bytes");
    if (args->norm && (!aligned(args->norm, 0, 0) || !(args->eps >= 0.f))) return fault("norm is not aligned to 16 bytes, or eps is negative");
    return launched(launch_row(*args, static_cast<cudaStream_t>(stream)));
}

const char *tt_gemv(const void *x, const void *w, void *y, int32_t m, int32_t n, int32_t k, int32_t type, void *stream) {
    if (type != TT_FLOAT16 && type != TT_BFLOAT16) return fault("type is %d, not TT_FLOAT16 or TT_BFLOAT16", type);
    if (m < 0 || m > kMaxGemvRows) return fault("m is %d, not 0 to %d", m, kMaxGemvRows);
    if (n < 1) return fault("n is %d", n);
    if (k < 8 || k % 8 != 0) return fault("k is %d, no multiple of 8", k);
    if (!x || !w || !y || !aligned(x, 0, 0) || !aligned(w, 0, 0)) return fault("x, w or y is NULL, or x or w is not aligned to 16 bytes");
    if (m == 0) return nullptr;
    if (m == 1 && int64_t{n} * k < kLargeGemv) {
        tt_row_args args = {};
        args.x = x, args.w = w, args.y = y, args.n = n, args.k = k, args.type = type;
        return launched(launch_row(args, static_cast<cudaStream_t>(stream)));
    }
    return launched(launch_gemv(x, w, y, m, n, k, type, static_cast<cudaStream_t>(stream)));
}

}  // extern "C"
