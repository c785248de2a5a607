// The place of the largest element of each row of [row][element], the first of equal ones. A
// NaN counts as minus infinity.
//
// A row is divided among `splits` blocks, so that one row of a large vocabulary has many. A
// thread looks at VECTORS vectors of 16 bytes at a time, THREADS apart, which it loads before
// it uses the first; so an SM has 64 KiB in flight. It goes through its elements in order and
// keeps the first of the largest; lanes, warps and blocks compare value and place. The last
// block of a row to finish compares those of all. x bypasses L1. The kernel is memory bound,
// or latency bound with few rows.
//
// Launch: 1-D grid with `splits` blocks for each row, one row after the other, THREADS threads.
#include "divisor.cuh"
#include "last_block.cuh"
#include "word.cuh"

constexpr u32 VECTOR_ELEMENTS = 4 * WORD_ELEMENTS;
constexpr u32 NOWHERE = 0xffffffffu;

// A value and its place.
struct alignas(8) Best {
  float value;
  u32 place;

  // Takes the other where it is larger, or as large and before.
  DEVICE void take(Best other) {
    if (other.value > value || (other.value == value && other.place < place)) *this = other;
  }
};

struct Params {
  const Words4 *x;  // [row][vector]
  u32 *index;       // [row]
  Best *partials;   // [row][split]
  u32 *tickets;     // [row]; zero between launches
  u32 vectors;      // of a row
  u32 of_split;     // vectors of all splits of a row but the last
  Divisor splits;
};

// The best of the block, in thread 0. All threads call it.
DEVICE Best best_of_block(Best best) {
#pragma unroll
  for (u32 apart = WARP / 2; apart > 0; apart /= 2)
    best.take({__shfl_xor_sync(ALL_LANES, best.value, apart),
               __shfl_xor_sync(ALL_LANES, best.place, apart)});
  __shared__ Best of_warp[THREADS / WARP];
  if (lane_index() == 0) of_warp[warp_index()] = best;
  __syncthreads();
  if (threadIdx.x == 0)
    for (u32 warp = 1; warp < THREADS / WARP; ++warp) best.take(of_warp[warp]);
  return best;
}

KERNEL(THREADS, BLOCKS_PER_SM) argmax(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 row = p.splits.quotient(blockIdx.x);
  const u32 split = blockIdx.x - row * p.splits.by;
  const u32 end = min_of((split + 1) * p.of_split, p.vectors);
  const Words4 *x = p.x + u64(row) * p.vectors;

  u32 at = split * p.of_split + threadIdx.x;
  Best best = {minus_infinity(), at < end ? at * VECTOR_ELEMENTS : NOWHERE};
  for (; at < end; at += VECTORS * THREADS) {
    Words4 words[VECTORS];
#pragma unroll
    for (u32 i = 0; i < VECTORS; ++i)
      if (i == 0 || at + i * THREADS < end) words[i] = ld_global_nc_v4(x + at + i * THREADS);
#pragma unroll
    for (u32 i = 0; i < VECTORS; ++i) {
      if (i > 0 && at + i * THREADS >= end) continue;
#pragma unroll
      for (u32 j = 0; j < VECTOR_ELEMENTS; ++j) {
        float elements[WORD_ELEMENTS];
        unpack(elements, words[i].w[j / WORD_ELEMENTS]);
        const float value = elements[j % WORD_ELEMENTS];
        // Not true of a NaN.
        if (value > best.value) best = {value, (at + i * THREADS) * VECTOR_ELEMENTS + j};
      }
    }
  }

  best = best_of_block(best);
  if (p.splits.by > 1) {
    if (threadIdx.x == 0) p.partials[blockIdx.x] = best;
    if (!is_last_block(p.tickets + row, p.splits.by)) return;
    best = {minus_infinity(), NOWHERE};
    const Best *partials = p.partials + row * p.splits.by;
    for (u32 other = threadIdx.x; other < p.splits.by; other += THREADS)
      best.take(partials[other]);
    best = best_of_block(best);
  }
  if (threadIdx.x == 0) p.index[row] = best.place;
}
