// y = x * W[expert]^T for routed tokens: each row of y, a token in one of its slots, has an
// expert, whose matrix of weights it is multiplied by, see skinny.cuh. Only matrices of
// experts that have rows are read, each once if it has at most TOKENS.
//
// Launch: blocks of the work list, whose requests are the entries of p.sets.
#define VARIES true
#include "skinny.cuh"

// Rows of y with the same expert, at most TOKENS.
struct alignas(16) Set {
  u32 expert;
  u32 first;  // in p.rows
  u32 rows;
  u32 unused;
};

struct Params {
  Matrices of;
  const Set *sets;
  const u32 *rows;    // of y, expert by expert
  u32 rows_of_input;  // rows of y made of the same row of x
};

struct Routed {
  u32 of_expert;
  u32 rows;
  const u32 *list;
  u32 rows_of_input;

  DEVICE u32 expert() const { return of_expert; }
  DEVICE u32 count() const { return rows; }
  DEVICE u32 x_row(u32 token) const { return y_row(token) / rows_of_input; }
  DEVICE u32 y_row(u32 token) const { return ld_global_nc_u32(list + token); }
  DEVICE u32 slot(u32 of_all) const { return of_all; }
};

KERNEL(THREADS, BLOCKS_PER_SM) moe_gemm(const __grid_constant__ Params p) {
  multiply_pieces(p.of, blockIdx.x, [&](const Piece &piece) {
    const Words4 set = ld_global_nc_v4_kept(p.sets + piece.request);
    return Routed{set.w[0], set.w[2], p.rows + set.w[1], p.rows_of_input};
  });
}
