// Streams through memory: the bandwidth ceilings.
//
// Every thread moves vectors of 16 bytes, UNROLL of them before it uses the first, so
// that enough bytes are in flight to cover the latency of DRAM. Blocks take tiles of
// THREADS * UNROLL * 16 contiguous bytes in turn. What remains after the last whole
// round, less than a tile for each block, is spread over all threads of the grid and
// is in flight at once: otherwise a few blocks would still read the last tiles, one
// access after the other, when the others are done. The kernels are memory bound.
//
// Accesses bypass L1, where nothing would be used again. They give L2 no eviction
// hints: the same code measures working sets that fit in L2, which must stay there,
// and of larger sets nothing is found again whatever is evicted.
//
// Launch: 1-D grid of any size, THREADS threads.
#include "last_block.cuh"

static_assert(THREADS % WARP == 0, "whole warps");

struct Params {
  const Words4 *source;  // read, copy; b of a triad
  const Words4 *second;  // c of a triad
  Words4 *target;        // write, copy; a of a triad
  u32 *checksum;         // read: wrapping sum of all 32-bit words
  u32 *partials;         // read: one word per block
  u32 *ticket;           // read: zero between launches
  u64 vectors;           // 16-byte vectors of an array
  u32 pattern;           // write: the word stored everywhere
  float factor;          // triad
};

static_assert(UNROLL % 2 == 0, "half of a triad's accesses go to each array it reads");

// Calls body(first, stride, count) for all vectors that this thread moves, at most
// `unroll` at a time: `count` of them, `stride` apart, from `first` on.
template <u32 unroll, typename Body>
DEVICE void for_each_batch(u64 vectors, Body body) {
  constexpr u64 TILE = u64(THREADS) * unroll;
  const u64 round = TILE * gridDim.x;
  u64 done = 0;
  for (; done + round <= vectors; done += round)
    body(done + blockIdx.x * TILE + threadIdx.x, THREADS, unroll);
  const u32 stride = THREADS * gridDim.x;
  const u64 first = done + blockIdx.x * THREADS + threadIdx.x;
  if (first < vectors) body(first, stride, u32(ceil_div(vectors - first, u64(stride))));
}

// Vectors first, first + stride ... of an array.
template <u32 unroll>
DEVICE void load(Words4 (&v)[unroll], const Words4 *from, u64 first, u32 stride, u32 count) {
#pragma unroll
  for (u32 i = 0; i < unroll; ++i)
    if (i < count) v[i] = ld_global_nc_v4(from + first + u64(i) * stride);
}

template <u32 unroll>
DEVICE void store(Words4 *to, u64 first, u32 stride, u32 count, const Words4 (&v)[unroll]) {
#pragma unroll
  for (u32 i = 0; i < unroll; ++i)
    if (i < count) st_global_v4(to + first + u64(i) * stride, v[i]);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_read(const __grid_constant__ Params p) {
  u32 sum = 0;
  for_each_batch<UNROLL>(p.vectors, [&](u64 first, u32 stride, u32 count) {
    Words4 v[UNROLL];
    load(v, p.source, first, stride, count);
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
      if (i < count) sum += v[i].w[0] + v[i].w[1] + v[i].w[2] + v[i].w[3];
  });
  sum_over_grid<THREADS>(sum, p.partials, p.ticket, p.checksum);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_write(const __grid_constant__ Params p) {
  Words4 v[UNROLL];
  for (u32 i = 0; i < UNROLL; ++i) v[i] = {p.pattern, p.pattern, p.pattern, p.pattern};
  for_each_batch<UNROLL>(p.vectors, [&](u64 first, u32 stride, u32 count) {
    store(p.target, first, stride, count, v);
  });
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_copy(const __grid_constant__ Params p) {
  for_each_batch<UNROLL>(p.vectors, [&](u64 first, u32 stride, u32 count) {
    Words4 v[UNROLL];
    load(v, p.source, first, stride, count);
    store(p.target, first, stride, count, v);
  });
}

// A thread has half of its accesses in flight to each of the two arrays.
KERNEL(THREADS, BLOCKS_PER_SM) stream_triad(const __grid_constant__ Params p) {
  constexpr u32 HALF = UNROLL / 2;
  for_each_batch<HALF>(p.vectors, [&](u64 first, u32 stride, u32 count) {
    Words4 b[HALF], c[HALF];
    load(b, p.source, first, stride, count);
    load(c, p.second, first, stride, count);
#pragma unroll
    for (u32 i = 0; i < HALF; ++i)
#pragma unroll
      for (u32 j = 0; j < 4; ++j)
        b[i].w[j] = __float_as_uint(
            fmaf(p.factor, __uint_as_float(c[i].w[j]), __uint_as_float(b[i].w[j])));
    store(p.target, first, stride, count, b);
  });
}
