// Streams through memory: the bandwidth ceilings.
//
// Every thread moves 16 bytes at a time, UNROLL of them before it looks at the
// first, so that enough bytes are in flight to cover the latency of DRAM. A
// block takes tiles of THREADS * UNROLL * 16 contiguous bytes in turn with the
// other blocks. Memory binds.
//
// Launch: 1-D grid of any size up to the number of tiles, THREADS threads.
#include "last_block.cuh"

static_assert(THREADS % WARP == 0, "whole warps");

struct Params {
  const Words4 *source;  // read, copy
  Words4 *target;        // write, copy
  u32 *checksum;         // read: wrapping sum of all 32-bit words
  u32 *partials;         // read: one word per block
  u32 *ticket;           // read: zero between launches
  u64 vectors;           // 16-byte vectors read, or written, or copied
  u32 pattern;           // write: the word stored everywhere
  u32 unused;
};

constexpr u64 TILE = u64(THREADS) * UNROLL;

// Calls body(first, count) for each of this block's tiles: `first` is this
// thread's first vector, `count` how many it has in the tile, THREADS apart.
template <typename Body>
DEVICE void for_each_tile(u64 vectors, Body body) {
  for (u64 tile = blockIdx.x; tile * TILE < vectors; tile += gridDim.x) {
    const u64 first = tile * TILE + threadIdx.x;
    if ((tile + 1) * TILE <= vectors) {
      body(first, UNROLL);
    } else {
      for (u64 i = first; i < vectors; i += THREADS) body(i, 1);
    }
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_read(const __grid_constant__ Params p) {
  u32 sum = 0;
  for_each_tile(p.vectors, [&](u64 first, u32 count) {
    Words4 v[UNROLL];
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) v[i] = ld_global_nc_v4(p.source + first + i * THREADS);
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) sum += v[i].w[0] + v[i].w[1] + v[i].w[2] + v[i].w[3];
  });
  sum = block_sum<THREADS>(sum);
  if (threadIdx.x == 0) p.partials[blockIdx.x] = sum;
  if (!is_last_block(p.ticket, gridDim.x)) return;

  u32 total = 0;
  for (u32 block = threadIdx.x; block < gridDim.x; block += THREADS) total += p.partials[block];
  total = block_sum<THREADS>(total);
  if (threadIdx.x == 0) *p.checksum = total;
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_write(const __grid_constant__ Params p) {
  const Words4 v = {p.pattern, p.pattern, p.pattern, p.pattern};
  for_each_tile(p.vectors, [&](u64 first, u32 count) {
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) st_global_v4(p.target + first + i * THREADS, v);
  });
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_copy(const __grid_constant__ Params p) {
  for_each_tile(p.vectors, [&](u64 first, u32 count) {
    Words4 v[UNROLL];
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) v[i] = ld_global_nc_v4(p.source + first + i * THREADS);
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) st_global_v4(p.target + first + i * THREADS, v[i]);
  });
}
