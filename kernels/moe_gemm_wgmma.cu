// Y = X * W[expert]^T for rows of several experts, by wgmma from tiles that tensor copies
// load (TMA); sm_90a. Rows lie by expert, or with GATHERS anywhere: then a list has those of
// Y by expert, and rows of X are gathered. Y is in bf16 or f16; X and W are in the same format, or both in 8 bits
// with scales: int8 and E4M3 with one for each row, E4M3 also with one for 128 columns of a
// row of X and for 128 x 128 of W. See gemm_wgmma.cuh for how a block computes tiles; here
// the host says which, in a list, see src/kernel/moe_gemm_wgmma.rs.
//
// Experts are multiplied one after the other, those without rows never. X and W of all
// experts are matrices with one expert below another, so that a tile is anywhere in them: its
// last rows and columns may be another expert's, are multiplied like any, and are not stored.
// Blocks of a cluster multiply the same rows of X, which they share, with columns of W next
// to each other: those of the same expert.
//
// Launch: 1-D grid of whole clusters of CLUSTER blocks, THREADS threads, SHARED_BYTES of
// dynamic shared memory. Rows of X, W and Y are multiples of 16 bytes. Tickets are zero.
// With GATHERS `row` and `end` are places in p.rows, and maps of X and Y are not used.
#define ENDS_ROWS true
#include "gemm_wgmma.cuh"

static_assert(CLUSTER == 1 || SHARES_A, "clusters are of one expert");

// Tiles side by side of the blocks of a cluster.
struct alignas(16) Tiles {
  u32 row;     // of X and of Y
  u32 end;     // of the expert's rows
  u32 w_row;   // of the expert's first column
  u32 column;  // of the first tile, in Y
  u32 first_step;
  u32 steps;
  u16 split;
  u16 splits;
  u32 partial;  // of the first tile
};
static_assert(sizeof(Tiles) == 2 * sizeof(Words4), "tiles are loaded as vectors");

struct Params {
  TensorMap x;
  TensorMap w;
  TensorMap y;
  Partials partials;
  const Tiles *tiles;  // in order
  u32 *taken;          // DYNAMIC: of tiles; zero between launches
  u8 *y_rows;
  const float *x_scales;  // null without
  const float *w_scales;
  const u8 *x_first;  // X and rows of Y by expert, with GATHERS
  const u32 *rows;
  u32 n;
  u32 x_rows;    // of all experts, with gaps
  u32 w_rows;    // of all experts
  u32 x_stride;  // of scales of rows; 0 where there is one for all
  u32 steps;     // of k
  u32 turns;     // tiles
  u32 passes_over;  // whether a warpgroup without rows multiplies nothing
  u32 of_input;     // rows of Y computed from the same row of X
  u32 row_bytes;    // of X
};

// The list of tiles.
struct Schedule {
  struct Turn {
    Words4 place;
    Words4 part;  // no steps past the end
  };

  const Params &p;

  DEVICE u32 turns() const { return p.turns; }
  DEVICE u32 *taken() const { return p.taken; }
  DEVICE Turn turn(u32 number) const {
    if (number >= p.turns) return {};
    const Words4 *const words = reinterpret_cast<const Words4 *>(p.tiles + number);
    return {ld_global_nc_v4_kept(words), ld_global_nc_v4_kept(words + 1)};
  }

  // Sets `work` to that of a turn, for this block of its cluster; false where it has none.
  DEVICE bool begin(const Turn &turn, Work &work) const {
    const u32 rank = rank_in_cluster();
    work.a_row = work.c_row = turn.place.w[0];
    work.c_end = turn.place.w[1];
    work.c_column = turn.place.w[3] + rank * TILE_N;
    work.b_row = turn.place.w[2] + work.c_column;
    work.first_step = turn.part.w[0];
    work.steps = turn.part.w[1];
    work.split = turn.part.w[2] & 0xffff;
    work.splits = turn.part.w[2] >> 16;
    work.partial = turn.part.w[3] + rank;
    // Those who add splits wait for each other, so that all have sums.
    work.passes_over = p.passes_over != 0 && work.splits == 1;
    return work.steps > 0;
  }
};

#if GATHERS
DEVICE RowMap row_map(const Params &p) { return {p.rows, p.of_input}; }
DEVICE Gathered x_of(const Params &p) { return {p.x_first, row_map(p), p.row_bytes}; }
#else
DEVICE RowMap row_map(const Params &) { return {}; }
DEVICE const TensorMap &x_of(const Params &p) { return p.x; }
#endif

#if defined(SCALES_ROWS)
DEVICE RowScales scales_of(const Params &p) {
  return {p.x_scales, p.w_scales, p.x_rows, p.w_rows, p.x_stride, 1, row_map(p)};
}
#elif defined(SCALES_BLOCKS)
static_assert(128 % GROUP_COLUMNS == 0, "a warpgroup's columns have one scale");
// An expert's rows of W are whole blocks.
DEVICE BlockScales scales_of(const Params &p) {
  return {p.x_scales, p.w_scales, p.x_rows, p.w_rows, p.steps, row_map(p)};
}
#else
DEVICE Unscaled scales_of(const Params &) { return {}; }
#endif

KERNEL(THREADS, 1) moe_gemm_wgmma(const __grid_constant__ Params p) {
  overlap_previous();
  multiply_tiles({x_of(p), p.w, p.y, p.partials, {p.y_rows, p.n, row_map(p)}}, Schedule{p},
                 scales_of(p));
}
