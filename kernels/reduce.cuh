// Maxima and sums over groups of neighbouring lanes; every lane gets the result.
#pragma once
#include "prelude.cuh"

template <u32 lanes>
DEVICE float max_of_lanes(float x) {
#pragma unroll
  for (u32 apart = 1; apart < lanes; apart *= 2)
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

template <u32 lanes>
DEVICE float sum_of_lanes(float x) {
#pragma unroll
  for (u32 apart = 1; apart < lanes; apart *= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// Over the four lanes that share rows of a matrix.
DEVICE float max_of_quad(float x) { return max_of_lanes<4>(x); }
DEVICE float sum_of_quad(float x) { return sum_of_lanes<4>(x); }

// Over the warp.
DEVICE float max_of_warp(float x) { return max_of_lanes<WARP>(x); }
DEVICE float sum_of_warp(float x) { return sum_of_lanes<WARP>(x); }
