// Division of integers by divisors that the host knows.
#pragma once
#include "prelude.cuh"

// Divides integers below 2^31.
struct Divisor {
  u32 by;
  u32 multiplier;
  u32 shift;

  DEVICE u32 quotient(u32 n) const { return u32(u64(n) * multiplier >> shift); }
};
