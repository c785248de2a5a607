// The last block to finish combines what all have written: no second launch.
#pragma once
#include "ptx.cuh"

// The barrier of all threads of a block. Where warps are specialized, those that take
// part pass a barrier of their own; thread 0 is one of them.
struct WholeBlock {
  // Iterations of a loop over splits that are unrolled: a GPU has few splits of a sequence.
  static constexpr u32 SPLITS_AT_ONCE = 1;
  DEVICE void operator()() const {
    __syncthreads();
  }
};

// Whether this block is the last of `blocks` to arrive here. What the others
// wrote to global memory before is then visible to all of its threads, and
// `ticket` is zero again for the next launch. All threads of a block call it.
template <typename Sync = WholeBlock>
DEVICE bool is_last_block(u32 *ticket, u32 blocks, Sync sync = {}) {
  __shared__ bool last;
  sync();
  if (threadIdx.x == 0) {
    last = atom_add_acq_rel_gpu(ticket, 1) == blocks - 1;
    if (last) *ticket = 0;
  }
  sync();
  return last;
}

// Sum over the block, in every thread; wraps around.
template <u32 threads>
DEVICE u32 block_sum(u32 value) {
  __shared__ u32 of_warp[threads / WARP];
  value = __reduce_add_sync(ALL_LANES, value);
  if (lane_index() == 0) of_warp[warp_index()] = value;
  __syncthreads();
  u32 sum = 0;
  for (u32 warp = 0; warp < threads / WARP; ++warp) sum += of_warp[warp];
  __syncthreads();
  return sum;
}

// Sum of `sum` over all threads of the grid, to *total; wraps around. All threads of all
// blocks call it. `progress` is zero between launches: its low word counts the blocks that
// have added their sum, its high word is the sum of these. One atomic does both, so that the
// last block knows the total from its own addition: no sums of blocks in memory, and no fence.
template <u32 threads>
DEVICE void sum_over_grid(u32 sum, u64 *progress, u32 *total) {
  sum = block_sum<threads>(sum);
  if (threadIdx.x != 0) return;
  const u64 own = u64(sum) << 32 | 1, before = atom_add_relaxed_gpu(progress, own);
  if (u32(before) != gridDim.x - 1) return;
  *total = (before + own) >> 32;
  atom_add_relaxed_gpu(progress, 0 - (before + own));
}
