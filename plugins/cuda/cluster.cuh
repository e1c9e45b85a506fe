// How blocks of one launch work together: clusters that see each other's shared memory, and a counter that tells the last.
#pragma once

#include <cooperative_groups.h>
#include <stdint.h>

namespace tt_edge {

// Counts up to `last` and then wraps to 0. Releases what the block wrote before its barrier, and acquires what others released.
__device__ __forceinline__ unsigned count(uint32_t *counter, unsigned last) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
    return before;
}

// Clusters of blocks, where the architecture has them; elsewhere a cluster is one block.
__device__ __forceinline__ int cluster_size() {
#if __CUDA_ARCH__ >= 900
    return static_cast<int>(cooperative_groups::this_cluster().num_blocks());
#else
    return 1;
#endif
}
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#else
    __syncthreads();
#endif
}
__device__ __forceinline__ const float *of_block(float *memory, int rank) {
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(memory, rank);
#else
    return memory;
#endif
}

}  // namespace tt_edge
