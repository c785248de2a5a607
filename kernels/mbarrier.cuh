// Waiting on mbarriers: see ptx.cuh for their instructions.
#pragma once
#include "ptx.cuh"

// Waits until the phase of this parity has ended.
DEVICE void wait(u32 barrier, u32 parity) {
  while (!mbarrier_try_wait_parity(barrier, parity)) {
  }
}
