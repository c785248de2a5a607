// RMS norm of tokens, [token][element], with RESIDUAL after the addition of a residual:
// y = x * w / sqrt(mean(x^2) + epsilon), one weight for each element.
//
// ROW_THREADS threads, a part of a warp or whole warps, have a token. A thread has up to
// VECTORS vectors of 16 bytes of it, ROW_THREADS vectors apart, and loads all of them
// before it uses the first, so that enough bytes are in flight to cover the latency of
// DRAM; with a residual twice as many. Weights are loaded with them: they do not depend on
// the sum, and later they would cost another latency. The token stays in registers, so
// that memory is read once. With a residual, the sum is rounded to the format and stays
// in registers as rounded: the norm is that of what is written. Squares are summed in f32,
// by shuffles in a warp and in shared memory across warps. The kernel is memory bound, or
// latency bound with few tokens.
//
// x, the residual and the output bypass L1. Weights do not: every token needs them, so
// that they come from L1 or L2 for all blocks but the first.
//
// Launch: 1-D grid with ROW_THREADS threads for each token, THREADS threads a block.
#include "word.cuh"

static_assert(THREADS % ROW_THREADS == 0, "whole tokens");
static_assert(ROW_THREADS <= WARP ? WARP % ROW_THREADS == 0 : ROW_THREADS % WARP == 0,
              "tokens of equal parts of a warp, or of whole warps");

// Warps that have a token, alone or with other tokens.
constexpr u32 ROW_WARPS = max_of(ROW_THREADS / WARP, 1u);

struct Params {
  const Words4 *x;         // [token][vector]
  const Words4 *residual;  // [token][vector]; null unless RESIDUAL
  const Words4 *w;         // [vector]
  Words4 *sum;             // x + residual, [token][vector]; null unless RESIDUAL
  Words4 *y;               // [token][vector]
  u32 tokens;
  u32 vectors;  // of a token
  float inverse_width;
  float epsilon;
};

// a + b, rounded to the format.
DEVICE u32 add(u32 a, u32 b) {
  float x[WORD_ELEMENTS], y[WORD_ELEMENTS];
  unpack(x, a);
  unpack(y, b);
#pragma unroll
  for (u32 i = 0; i < WORD_ELEMENTS; ++i) x[i] += y[i];
  return packed(x);
}

// x * scale * w, rounded to the format.
DEVICE u32 scaled(u32 word, float scale, u32 weight) {
  float x[WORD_ELEMENTS], w[WORD_ELEMENTS];
  unpack(x, word);
  unpack(w, weight);
#pragma unroll
  for (u32 i = 0; i < WORD_ELEMENTS; ++i) x[i] = x[i] * scale * w[i];
  return packed(x);
}

// Sum over the threads of a token, in all of them. All threads of a block call it once.
DEVICE float sum_of_token(float x) {
#pragma unroll
  for (u32 apart = 1; apart < min_of<u32>(ROW_THREADS, WARP); apart *= 2)
    x += __shfl_xor_sync(ALL_LANES, x, apart);
  if (ROW_THREADS <= WARP) return x;
  __shared__ float of_warp[THREADS / WARP];
  if (lane_index() == 0) of_warp[warp_index()] = x;
  __syncthreads();
  const u32 first = warp_index() / ROW_WARPS * ROW_WARPS;
  x = 0;
#pragma unroll
  for (u32 warp = 0; warp < ROW_WARPS; ++warp) x += of_warp[first + warp];
  return x;
}

KERNEL(THREADS, BLOCKS_PER_SM) rmsnorm(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 token = blockIdx.x * (THREADS / ROW_THREADS) + threadIdx.x / ROW_THREADS;
  const u32 lane = threadIdx.x % ROW_THREADS;
  // This thread's vectors of the token: `count`, ROW_THREADS apart, from `first` on.
  const u32 end = token < p.tokens ? p.vectors : 0;
  const u32 count = lane < end ? ceil_div(end - lane, u32(ROW_THREADS)) : 0;
  const u64 first = u64(token) * p.vectors + lane;

  Words4 x[VECTORS], added[VECTORS], w[VECTORS];
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i) {
    if (i >= count) continue;
    x[i] = ld_global_nc_v4(p.x + first + i * ROW_THREADS);
    if (RESIDUAL) added[i] = ld_global_nc_v4(p.residual + first + i * ROW_THREADS);
    w[i] = ld_global_nc_v4_kept(p.w + lane + i * ROW_THREADS);
  }

  float squares = 0;
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) {
      if (RESIDUAL) x[i].w[j] = add(x[i].w[j], added[i].w[j]);
      float elements[WORD_ELEMENTS];
      unpack(elements, x[i].w[j]);
#pragma unroll
      for (u32 k = 0; k < WORD_ELEMENTS; ++k) squares = fmaf(elements[k], elements[k], squares);
    }
    if (RESIDUAL) st_global_v4(p.sum + first + i * ROW_THREADS, x[i]);
  }

  const float scale = rsqrtf(fmaf(sum_of_token(squares), p.inverse_width, p.epsilon));
#pragma unroll
  for (u32 i = 0; i < VECTORS; ++i) {
    if (i >= count) continue;
    Words4 y;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) y.w[j] = scaled(x[i].w[j], scale, w[i].w[j]);
    st_global_v4(p.y + first + i * ROW_THREADS, y);
  }
}
