// How many tokens the requests of a batch have.
#pragma once
#include "prelude.cuh"

// Lengths::of has the same formula.
struct Lengths {
  u64 least;  // fewest tokens of a request,
  u64 span;   // and how many more a request may have, plus 1

  DEVICE u32 of(u32 request) const {
    const u64 fraction = (u64(request) + 1) * 0x9e3779b97f4a7c15ull;
    return u32(least + __umul64hi(fraction, span));
  }
};
