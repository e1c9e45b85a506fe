// Launches that may begin before the kernel before them has finished: programmatic dependent launch, where there is one (sm_90 and
// later). Every thread of such a kernel waits before it reads or writes what another kernel may have touched.
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

namespace tt_edge {

// Lets the next kernel start as soon as there is room for it.
__device__ __forceinline__ void start_dependents() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// Returns when the kernel before has finished and its results are seen.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Brings the line of `address` to the L2 cache, where it stays coherent.
__device__ __forceinline__ void prefetch(const void *address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// The same of `bytes` from `address` on, both multiples of 16, where one instruction does it; else nothing.
__device__ __forceinline__ void prefetch(const void *address, int64_t bytes) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(address), "r"(static_cast<uint32_t>(bytes)) : "memory");
#endif
}

// A launch with this attribute.
struct DependentLaunch {
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t config = {};

    DependentLaunch(dim3 grid, int threads, size_t shared_bytes, cudaStream_t stream) {
        config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared_bytes, config.stream = stream;
        int device = 0, major = 0;
        if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        if (major < 9) return;
        early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early.val.programmaticStreamSerializationAllowed = 1;
        config.attrs = &early, config.numAttrs = 1;
    }
    DependentLaunch(DependentLaunch const &) = delete;
};

}  // namespace tt_edge
