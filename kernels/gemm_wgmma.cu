// C = A * B^T, for A [m][k], B [n][k] and C [m][n], by wgmma from tiles that tensor copies
// load (TMA); sm_90a. C is in bf16 or f16; A and B are in the same format, or both in 8 bits
// with scales: int8 and E4M3 with one for a row or a tensor, E4M3 also with one for 128
// columns of a row of A and for 128 x 128 of B. Or all are in f32 and multiplied as tf32:
// tensor cores leave out the lower 13 bits of each element, without rounding. Meant for
// products that tensor cores bind, of many rows; see gemm_wgmma.cuh for how a block computes
// tiles.
//
// Blocks are persistent and take work in turn: first whole tiles, as many as fill all blocks
// some times over; then the rest, which would leave blocks without work, each tile in
// `splits` ranges of k. Tiles are taken in stripes of rows of tiles, top to bottom and then
// to the right, so that blocks that run at the same time share their parts of A and B in L2.
//
// Launch: 1-D grid of whole clusters of CLUSTER blocks, THREADS threads, SHARED_BYTES of
// dynamic shared memory. Rows of A, B and C are multiples of 16 bytes. Tickets are zero.
#define ENDS_ROWS false
#define GATHERS false
#include "gemm_wgmma.cuh"

struct Params {
  TensorMap a;
  TensorMap b;
  TensorMap c;
  Partials partials;
  u32 *taken;  // with DYNAMIC: turns; zero between launches
  const float *a_scales;  // null without
  const float *b_scales;
  u32 m;
  u32 n;
  u32 a_stride;  // of scales of rows; 0 where there is one for all
  u32 b_stride;
  u32 steps;    // of k
  u32 rows;     // of a cluster's tiles, in C
  u32 columns;  // of a cluster's tiles
  u32 stripe;   // rows of tiles in a stripe
  u32 whole;    // tiles that are not split
  u32 splits;   // of each of the others
  u32 turns;    // whole tiles, and splits of the others
};

// All work, in order.
struct Schedule {
  typedef u32 Turn;

  const Params &p;

  DEVICE u32 turns() const { return p.turns; }
  DEVICE u32 *taken() const { return p.taken; }
  DEVICE Turn turn(u32 number) const { return number; }

  // Sets `work` to that of a turn, for this block of its cluster; false where it has none.
  DEVICE bool begin(Turn turn, Work &work) const {
    if (turn >= p.turns) return false;
    u32 tile = turn, split = 0, splits = 1;
    if (turn >= p.whole) {
      splits = p.splits;
      tile = p.whole + (turn - p.whole) / splits;
      split = (turn - p.whole) % splits;
    }
    // A stripe's tiles, column by column.
    const u32 stripe = tile / (p.stripe * p.columns), within = tile % (p.stripe * p.columns);
    const u32 height = min_of(p.stripe, p.rows - stripe * p.stripe);
    const u32 row = stripe * p.stripe + within % height, column = within / height;
    const u32 rank = rank_in_cluster();
    work.a_row = (SHARES_A ? row : row * CLUSTER + rank) * TILE_M;
    work.b_row = (SHARES_A ? column * CLUSTER + rank : column) * TILE_N;
    work.c_row = work.a_row;
    work.c_column = work.b_row;
    work.first_step = p.steps * split / splits;
    work.steps = p.steps * (split + 1) / splits - work.first_step;
    work.split = split;
    work.splits = splits;
    work.partial = (tile - p.whole) * CLUSTER + rank;
    return true;
  }
};

#if defined(SCALES_ROWS)
DEVICE RowScales scales_of(const Params &p) {
  return {p.a_scales, p.b_scales, p.m, p.n, p.a_stride, p.b_stride};
}
#elif defined(SCALES_BLOCKS)
static_assert(128 % GROUP_COLUMNS == 0, "a warpgroup's columns have one scale");
DEVICE BlockScales scales_of(const Params &p) { return {p.a_scales, p.b_scales, p.m, p.n, p.steps}; }
#else
DEVICE Unscaled scales_of(const Params &) { return {}; }
#endif

KERNEL(THREADS, 1) gemm_wgmma(const __grid_constant__ Params p) {
  overlap_previous();
  multiply_tiles({p.a, p.b, p.c, p.partials, {}}, Schedule{p}, scales_of(p));
}
