// Meeting of the blocks of a cluster; see ptx.cuh for the barrier's instructions.
#pragma once
#include "ptx.cuh"

// Waits for all threads of the cluster, whose accesses to memory before are then ordered. That
// takes a fence that waits for all of them.
DEVICE void sync_cluster() {
  __syncwarp();
  barrier_cluster_arrive();
  barrier_cluster_wait();
}

// Waits for all threads of the cluster, without that: for the start, where only mbarriers have
// been written, which fence_mbarrier_init makes known.
DEVICE void meet_cluster() {
  __syncwarp();
  barrier_cluster_arrive_relaxed();
  barrier_cluster_wait();
}
