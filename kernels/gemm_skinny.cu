// C = A * B^T for few rows of A: activations A [m][k] and weights B [n][k] of 16, 8 or 4
// bits, see skinny.cuh. More than TOKENS rows are divided among p.row_tiles blocks that
// read the same weights at the same time, all but one from L2.
//
// Launch: row_tiles times as many blocks as the work list is made for.
#define VARIES false
#include "skinny.cuh"

struct Params {
  Matrices of;
  u32 m;
  u32 row_tiles;
};

// Some neighbouring rows of A and C.
struct Rows {
  u32 first;
  u32 rows;
  u32 tile;
  u32 tiles;

  DEVICE u32 expert() const { return 0; }
  DEVICE u32 count() const { return rows; }
  DEVICE u32 x_row(u32 token) const { return first + token; }
  DEVICE u32 y_row(u32 token) const { return first + token; }
  DEVICE u32 partial(u32 of_all) const { return of_all * tiles + tile; }
};

KERNEL(THREADS, BLOCKS_PER_SM) gemm_skinny(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 tile = blockIdx.x % p.row_tiles, first = tile * TOKENS;
  const Rows rows{first, min_of<u32>(TOKENS, p.m - first), tile, p.row_tiles};
  multiply_splits(p.of, blockIdx.x / p.row_tiles, [&](const Split &) { return rows; });
}
