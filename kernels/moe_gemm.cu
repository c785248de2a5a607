// y = x * W[expert]^T for routed tokens: each row of y, a token for one of its top-k
// experts, is a row of x times the weights of that expert, see skinny.cuh. Only the
// weights of experts that have rows are read, once if an expert has at most TOKENS rows.
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
  u32 rows_of_input;  // rows of y computed from the same row of x
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
  DEVICE u32 partial(u32 of_all) const { return of_all; }
};

KERNEL(THREADS, BLOCKS_PER_SM) moe_gemm(const __grid_constant__ Params p) {
  multiply_splits(p.of, blockIdx.x, [&](const Split &split) {
    const Words4 set = ld_global_nc_v4_kept(p.sets + split.request);
    return Routed{set.w[0], set.w[2], p.rows + set.w[1], p.rows_of_input};
  });
}
