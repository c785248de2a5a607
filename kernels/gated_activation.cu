// The elementwise part of SwiGLU: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)).
//
// x is [token][2][element], a token's gate and then its up; y is [token][element]. A thread
// makes one vector of 16 bytes of y from one of the gate and one of up, which it loads before
// it uses either, so that an SM full of threads has 64 KiB in flight. Nothing is read twice,
// so that all accesses bypass L1. The arithmetic is in f32, the exponential in powers of two.
// The kernel is memory bound, or latency bound with few tokens.
//
// Launch: 1-D grid with a thread for each vector of y, THREADS threads.
#include "divisor.cuh"
#include "word.cuh"

struct Params {
  const Words4 *x;  // [token][2][vector]
  Words4 *y;        // [token][vector]
  u32 threads;
  Divisor vectors;  // of a token's gate
};

constexpr float LOG2_E = 1.44269504f;

// silu(gate) * up. Where exp(-gate) overflows its inverse is 0, which is right.
DEVICE float gated(float gate, float up) {
  return gate * rcp_approx(1.f + ex2_approx(-LOG2_E * gate)) * up;
}

KERNEL(THREADS, BLOCKS_PER_SM) gated_activation(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const u64 token = p.vectors.quotient(index);
  const Words4 *from = p.x + (token * p.vectors.by + index);
  const Words4 gate = ld_global_nc_v4(from), up = ld_global_nc_v4(from + p.vectors.by);
  Words4 y;
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    float g[WORD_ELEMENTS], u[WORD_ELEMENTS];
    unpack(g, gate.w[i]);
    unpack(u, up.w[i]);
#pragma unroll
    for (u32 j = 0; j < WORD_ELEMENTS; ++j) g[j] = gated(g[j], u[j]);
    y.w[i] = packed(g);
  }
  st_global_v4(p.y + index, y);
}
