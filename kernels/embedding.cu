// The rows of tokens in a table: y[token] = table[tokens[token] % vocab].
//
// table is [vocab][vector], y [token][vector]. A thread copies VECTORS vectors of 16 bytes,
// THREADS apart, whichever tokens they belong to: it loads all ids, then all vectors, then
// stores. Two latencies of memory lie between launch and stores, one after the other; an SM
// full of threads has 64 KiB in flight. Rows bypass L1. The kernel is latency bound with few
// tokens, else memory bound.
//
// Launch: 1-D grid with a thread for VECTORS vectors of y, THREADS threads.
#include "divisor.cuh"
#include "ptx.cuh"

struct Params {
  const u32 *tokens;
  const Words4 *table;  // [vocab][vector]
  Words4 *y;            // [token][vector]
  u32 vocab;
  u32 all;          // vectors of y
  Divisor vectors;  // of a row
};

KERNEL(THREADS, BLOCKS_PER_SM) embedding(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 first = blockIdx.x * (VECTORS * THREADS) + threadIdx.x;
  u32 token[VECTORS], word[VECTORS];
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i) {
    const u32 index = first + i * THREADS;
    if (index >= p.all) continue;
    token[i] = p.vectors.quotient(index);
    word[i] = ld_global_nc_u32(p.tokens + token[i]);
  }
  Words4 x[VECTORS];
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i) {
    const u32 index = first + i * THREADS;
    if (index >= p.all) continue;
    const u32 column = index - token[i] * p.vectors.by;
    x[i] = ld_global_nc_v4(p.table + (u64(word[i] % p.vocab) * p.vectors.by + column));
  }
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i)
    if (first + i * THREADS < p.all) st_global_v4(p.y + (first + i * THREADS), x[i]);
}
