// A product of 16-bit matrices by cuBLAS, which TensorRT does not lend to plugins. The library is looked for when it is first
// needed, so that nothing but the CUDA runtime has to be there.
#pragma once

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <map>
#include <mutex>

#include "../tt_edge_kernels.h"

namespace tt_edge {

class DenseProduct {
  public:
    static constexpr size_t kWorkspace = size_t{32} << 20;  // what cuBLAS recommends for sm_90; others need less

    // The process's, or NULL where no cuBLAS is found.
    static DenseProduct *get() {
        static DenseProduct product;
        return product.multiply_ ? &product : nullptr;
    }

    // Makes the handle of this device, which allocates memory: not in enqueue. Returns an error text or NULL.
    char const *prepare() {
        std::lock_guard<std::mutex> const lock(mutex_);
        int device = 0;
        if (cudaGetDevice(&device) != cudaSuccess) return "there is no current device";
        if (handles_.count(device)) return nullptr;
        void *handle = nullptr;
        if (create_(&handle) != 0) return "cuBLAS makes no handle";
        handles_[device] = handle;
        return nullptr;
    }

    // y[M, N] = x[M, K] * w[N, K]^T in `type`, summed in float32. All its memory is `workspace`, so that a CUDA graph can capture it.
    char const *run(void const *x, void const *w, void *y, int64_t m, int32_t n, int32_t k, int32_t type, void *workspace, cudaStream_t stream) {
        std::lock_guard<std::mutex> const lock(mutex_);
        int device = 0;
        cudaGetDevice(&device);
        auto const found = handles_.find(device);
        if (found == handles_.end()) return "enqueue was called before onShapeChange";
        float const one = 1.f, zero = 0.f;
        int const kind = type == TT_FLOAT16 ? 2 : 14;  // CUDA_R_16F, CUDA_R_16BF
        constexpr int kAsIs = 0, kTransposed = 1, kSumIn32 = 68, kChooseAlgorithm = -1;
        int status = set_stream_(found->second, stream);
        if (status == 0) status = set_workspace_(found->second, workspace, kWorkspace);
        if (status == 0)
            status = multiply_(found->second, kTransposed, kAsIs, n, static_cast<int>(m), k, &one, w, kind, k, x, kind, k, &zero, y, kind, n,
                               kSumIn32, kChooseAlgorithm);
        return status == 0 ? nullptr : "cuBLAS refuses the product";
    }

  private:
    DenseProduct() {
        void *library = nullptr;
        for (char const *name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
            if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) return;
        create_ = reinterpret_cast<decltype(create_)>(dlsym(library, "cublasCreate_v2"));
        set_stream_ = reinterpret_cast<decltype(set_stream_)>(dlsym(library, "cublasSetStream_v2"));
        set_workspace_ = reinterpret_cast<decltype(set_workspace_)>(dlsym(library, "cublasSetWorkspace_v2"));
        if (create_ && set_stream_ && set_workspace_) multiply_ = reinterpret_cast<decltype(multiply_)>(dlsym(library, "cublasGemmEx"));
    }

    int (*create_)(void **) = nullptr;
    int (*set_stream_)(void *, cudaStream_t) = nullptr;
    int (*set_workspace_)(void *, void *, size_t) = nullptr;
    int (*multiply_)(void *, int, int, int, int, int, void const *, void const *, int, int, void const *, int, int, void const *, void *, int,
                     int, int, int) = nullptr;
    std::map<int, void *> handles_;
    std::mutex mutex_;
};

}  // namespace tt_edge
