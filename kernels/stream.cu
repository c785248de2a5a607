// Streams through memory: the bandwidth ceilings.
//
// Every thread moves vectors of 16 bytes, UNROLL of them before it uses the first, so
// that enough bytes are in flight to cover the latency of DRAM. A tile is THREADS * UNROLL *
// 16 contiguous bytes. The kernels are memory bound.
//
// * ONE_TILE: a block has one tile and ends, and the hardware begins the next block. Blocks
//   are at all points of their lives at the same time, so that memory always has requests.
// * LOOPED: blocks stay and take tiles in turn. What remains after the last whole round,
//   less than a tile for each block, is spread over all threads of the grid and is in flight
//   at once: otherwise a few blocks would still read the last tiles, one access after the
//   other, when the others are done. So few bytes are read by all SMs at once.
// * OWN_SHARE: blocks stay, and each has one range of lines, as long as that of any other but
//   for a line. It is the same in every pass.
//
// Accesses bypass L1, where nothing would be used again. HINT says what loads ask of L2:
// PREFETCH, 256 bytes at a time; NO_HINT; STREAMING, to evict them first, for sets that do
// not fit in L2.
//
// A read of several passes goes through the set so many times, for sets that a cache holds:
// one launch takes long enough then for the cache's bandwidth to show. LOOPED, a block reads
// in each pass what another block read in the pass before, so that the cache is one that all
// SMs share. OWN_SHARE, it reads its own share again, and loads leave it in L1: so long as the
// shares of an SM's blocks fit there, L1 serves all passes but the first. An L1 gives 128
// bytes in a clock, which is a warp's load in four, and 16 instructions can be issued
// meanwhile: a whole tile of a pass takes UNROLL loads, two additions for each, and a few
// instructions around them.
//
// Launch: 1-D grid, THREADS threads: LOOPED and OWN_SHARE of any size, otherwise a block for
// each tile.
#include "last_block.cuh"

static_assert(THREADS % WARP == 0, "whole warps");

// Values of FORM and HINT.
#define LOOPED 0
#define ONE_TILE 1
#define OWN_SHARE 2
#define PREFETCH 0
#define NO_HINT 1
#define STREAMING 2

struct Params {
  const Words4 *source;  // read, copy; b of a triad
  const Words4 *second;  // c of a triad
  Words4 *target;        // write, copy; a of a triad
  u32 *checksum;         // read: wrapping sum of all 32-bit words, of all passes
  u64 *progress;         // read: zero between launches
  u64 vectors;           // 16-byte vectors of an array
  u32 passes;            // read: 1 for ONE_TILE, 2 or more for OWN_SHARE
  u32 unused;
  u32 pattern;           // write: the word stored everywhere
  float factor;          // triad
};

static_assert(UNROLL % 2 == 0, "half of a triad's accesses go to each array it reads");

// Vectors of a line, of which an own share is made.
constexpr u32 LINE = 8;

// Where an own share begins, and where that of the block before it ends.
DEVICE u64 share_begin(u32 block, u64 vectors) {
  return block * (vectors / LINE) / gridDim.x * LINE;
}

// Calls body(first, THREADS, count) for what is left of a share, fewer vectors than two batches
// of `unroll`: with counts that the compiler knows, so that each load is one instruction.
template <u32 unroll, typename Body>
DEVICE void for_each_left(u64 first, u32 left, Body body) {
  if constexpr (unroll == 0) {
    if (threadIdx.x < left) body(first, THREADS, 1);
  } else {
    if (left >= THREADS * unroll) {
      body(first, THREADS, unroll);
      first += THREADS * unroll;
      left -= THREADS * unroll;
    }
    for_each_left<unroll / 2>(first, left, body);
  }
}

// Calls body(first, stride, count) for all vectors that this thread moves as a thread of block
// `block`, at most `unroll` at a time: `count` of them, `stride` apart, from `first` on.
template <u32 unroll, typename Body>
DEVICE void for_each_batch(u32 block, u64 vectors, Body body) {
  constexpr u64 TILE = u64(THREADS) * unroll;
  u64 done = 0, first = block * TILE + threadIdx.x;
  u32 stride = THREADS;
  if (FORM == OWN_SHARE) {
    static_assert((unroll & (unroll - 1)) == 0, "what is left of a tile is halved");
    first = share_begin(block, vectors);
    const u64 own = share_begin(block + 1, vectors) - first;
    first += threadIdx.x;
    for (; done + TILE <= own; done += TILE) body(done + first, THREADS, unroll);
    if (done < own) for_each_left<unroll / 2>(first + done, u32(own - done), body);
    return;
  }
  if (FORM == LOOPED) {
    const u64 round = TILE * gridDim.x;
    for (; done + round <= vectors; done += round) body(done + first, THREADS, unroll);
    stride *= gridDim.x;
    first = done + block * THREADS + threadIdx.x;
  } else if ((block + 1) * TILE <= vectors) {
    body(first, THREADS, unroll);
    return;
  }
  if (first < vectors) body(first, stride, u32(ceil_div(vectors - first, u64(stride))));
}

DEVICE Words4 load_vector(const Words4 *from) {
  return FORM == OWN_SHARE ? ld_global_nc_v4_kept(from)
         : HINT == PREFETCH ? ld_global_nc_v4(from)
         : HINT == NO_HINT ? ld_global_nc_v4_only(from)
                           : ld_global_nc_v4_streaming(from);
}

// Vectors first, first + stride ... of an array.
template <u32 unroll>
DEVICE void load(Words4 (&v)[unroll], const Words4 *from, u64 first, u32 stride, u32 count) {
#pragma unroll
  for (u32 i = 0; i < unroll; ++i)
    if (i < count) v[i] = load_vector(from + first + u64(i) * stride);
}

template <u32 unroll>
DEVICE void store(Words4 *to, u64 first, u32 stride, u32 count, const Words4 (&v)[unroll]) {
#pragma unroll
  for (u32 i = 0; i < unroll; ++i)
    if (i < count) st_global_v4(to + first + u64(i) * stride, v[i]);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_read(const __grid_constant__ Params p) {
  const u32 passes = FORM == ONE_TILE ? 1 : p.passes;
  u32 sum = 0, block = blockIdx.x;
  for (u32 pass = 0; pass < passes; ++pass) {
    for_each_batch<UNROLL>(block, p.vectors, [&](u64 first, u32 stride, u32 count) {
      Words4 v[UNROLL];
      load(v, p.source, first, stride, count);
#pragma unroll
      for (u32 i = 0; i < UNROLL; ++i)
        if (i < count) sum += v[i].w[0] + v[i].w[1] + v[i].w[2] + v[i].w[3];
    });
    if (FORM == LOOPED) block = block + 1 == gridDim.x ? 0 : block + 1;
  }
  sum_over_grid<THREADS>(sum, p.progress, p.checksum);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_write(const __grid_constant__ Params p) {
  Words4 v[UNROLL];
  for (u32 i = 0; i < UNROLL; ++i) v[i] = {p.pattern, p.pattern, p.pattern, p.pattern};
  for_each_batch<UNROLL>(blockIdx.x, p.vectors, [&](u64 first, u32 stride, u32 count) {
    store(p.target, first, stride, count, v);
  });
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_copy(const __grid_constant__ Params p) {
  for_each_batch<UNROLL>(blockIdx.x, p.vectors, [&](u64 first, u32 stride, u32 count) {
    Words4 v[UNROLL];
    load(v, p.source, first, stride, count);
    store(p.target, first, stride, count, v);
  });
}

// A thread has half of its accesses in flight to each of the two arrays.
KERNEL(THREADS, BLOCKS_PER_SM) stream_triad(const __grid_constant__ Params p) {
  constexpr u32 HALF = UNROLL / 2;
  for_each_batch<HALF>(blockIdx.x, p.vectors, [&](u64 first, u32 stride, u32 count) {
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
