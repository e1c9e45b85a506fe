// Decode and prefill of one head size, TT_HEAD_SIZE, and one type of activations, TT_TYPE, with every type of cache.
#include <type_traits>

#include "decode.cuh"
#include "dependent_launch.cuh"
#include "launch.h"
#include "prefill.cuh"

#if !defined(TT_HEAD_SIZE) || !defined(TT_TYPE)
#error "compile with -DTT_HEAD_SIZE=64, 80, 96, 128 or 256 and -DTT_TYPE=0 (fp16) or 1 (bf16)"
#endif

namespace tt_edge {
namespace {

using Type = std::conditional_t<TT_TYPE == TT_FLOAT16, half, bfloat16>;

// Calls `launch.template run<KV>()` for the cache's type.
template <typename Launch> cudaError_t by_cache(const tt_attention_args &args, const Launch &launch) {
#ifndef TT_SAMPLE  // one kernel of each kind, for a test that asks only whether an architecture compiles
    if (args.cache_type == TT_FLOAT8) return launch.template run<float8>();
    if (args.cache_type == TT_INT8) return launch.template run<int8>();
#endif
    return launch.template run<Type>();
}

// Blocks may need more shared memory than a kernel has unless it is asked for.
template <typename Kernel> cudaError_t allow_shared(Kernel *kernel, size_t bytes) {
    if (bytes <= 48 * 1024) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

struct LaunchDecode {
    const tt_attention_args &args;
    int splits;
    cudaStream_t stream;

    template <typename KV, int ROWS> cudaError_t launch() const {
        using Shape = Decode<Type, KV, TT_HEAD_SIZE, ROWS>;
        constexpr auto kernel = decode_kernel<Type, KV, TT_HEAD_SIZE, ROWS>;
        if (cudaError_t error = allow_shared(kernel, Shape::shared_bytes())) return error;
        const int groups = decode_groups(args);
        DependentLaunch launch(dim3(splits, args.kv_heads * groups, args.batch), Shape::kThreads, Shape::shared_bytes(), stream);
        return cudaLaunchKernelEx(&launch.config, kernel, args, splits, groups);
    }
    template <typename KV> cudaError_t run() const {
#ifndef TT_SAMPLE
        if (decode_rows(args) == 16) return launch<KV, 16>();
#endif
        return launch<KV, 8>();
    }
};

struct LaunchPrefill {
    const tt_attention_args &args;
    cudaStream_t stream;

    template <typename Shape> int64_t blocks() const {
        return int64_t{args.q_heads} * args.batch * ((args.q_tokens + Shape::kRows - 1) / Shape::kRows);
    }
    template <typename KV, int TILES, int TEAMS> cudaError_t launch(int processors) const {
        using Shape = Prefill<TT_HEAD_SIZE, TILES, TEAMS>;
        constexpr auto kernel = prefill_kernel<Type, KV, TT_HEAD_SIZE, TILES, TEAMS>;
        if (cudaError_t error = allow_shared(kernel, Shape::shared_bytes())) return error;
        if (blocks<Shape>() > INT32_MAX) return cudaErrorInvalidConfiguration;
        const int grid = static_cast<int>(blocks<Shape>()), wave = grid <= Shape::kBlocks * processors ? processors : grid;
        kernel<<<grid, Shape::kThreads, Shape::shared_bytes(), stream>>>(args, wave);
        return cudaGetLastError();
    }
    template <typename KV> cudaError_t run() const {
        int device = 0, processors = 1;
        if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
        // With few blocks for each multiprocessor the longest decides, so each is small; with many, fragments are used twice.
        constexpr int kTeams = TT_HEAD_SIZE <= 64 ? 2 : 1, kFew = TT_HEAD_SIZE <= 64 ? 6 : 4;
        if constexpr (TT_HEAD_SIZE <= 128)
            if (blocks<Prefill<TT_HEAD_SIZE, 1, kTeams>>() > kFew * processors) return launch<KV, 2, 1>(processors);
        return launch<KV, 1, kTeams>(processors);
    }
};

}  // namespace

template <> cudaError_t launch_decode<TT_HEAD_SIZE, TT_TYPE>(const tt_attention_args &args, int splits, cudaStream_t stream) {
    return by_cache(args, LaunchDecode{args, splits, stream});
}
template <> cudaError_t launch_prefill<TT_HEAD_SIZE, TT_TYPE>(const tt_attention_args &args, cudaStream_t stream) {
    return by_cache(args, LaunchPrefill{args, stream});
}

}  // namespace tt_edge
