// Arithmetic on registers: the compute ceilings.
//
// Each lane of the problem is a chain of dependent steps. A thread (fma) or a
// warp (tensor) keeps CHAINS of them in flight, to cover the latency of the unit;
// the host picks the entry with as many as the problem has for each. Only the
// values at the start and the end touch memory. The kernels are compute bound.
//
// Launch: 1-D grid of THREADS threads, one thread (fma) or warp (tensor) for
// every CHAINS lanes.
#include "ptx.cuh"

static_assert(THREADS % WARP == 0, "whole warps");

struct Params {
  const float *start;
  float *end;
  u64 lanes;
  u64 steps;
  float factor;   // fma: x = x * factor + summand
  float summand;
};

DEVICE u64 thread_number() { return u64(blockIdx.x) * THREADS + threadIdx.x; }

#if defined(UNIT_FMA)

// --- FMA: one value a lane -------------------------------------------------------
// Chain c of a thread is lane `thread + c * threads`, so that neighbouring threads load
// neighbouring values. 16-bit formats compute two lanes in one instruction.

#if defined(OPERAND_F32)
constexpr u32 LANES_PER_CHAIN = 1;
typedef float Chain;
DEVICE Chain encode(const float (&x)[1]) { return x[0]; }
DEVICE void decode(Chain c, float (&x)[1]) { x[0] = c; }
DEVICE Chain step(Chain x, Chain a, Chain b) { return fma_f32(x, a, b); }
#elif defined(OPERAND_BF16)
constexpr u32 LANES_PER_CHAIN = 2;
typedef u32 Chain;
DEVICE Chain encode(const float (&x)[2]) { return cvt_bf16x2(x[0], x[1]); }
DEVICE void decode(Chain c, float (&x)[2]) {
  x[0] = __uint_as_float(c << 16);
  x[1] = __uint_as_float(c & 0xffff0000u);
}
DEVICE Chain step(Chain x, Chain a, Chain b) { return fma_bf16x2(x, a, b); }
#elif defined(OPERAND_F16)
constexpr u32 LANES_PER_CHAIN = 2;
typedef u32 Chain;
DEVICE Chain encode(const float (&x)[2]) { return cvt_f16x2(x[0], x[1]); }
DEVICE void decode(Chain c, float (&x)[2]) {
  x[0] = cvt_f32_f16(static_cast<u16>(c));
  x[1] = cvt_f32_f16(static_cast<u16>(c >> 16));
}
DEVICE Chain step(Chain x, Chain a, Chain b) { return fma_f16x2(x, a, b); }
#endif

DEVICE Chain broadcast(float value) {
  float all[LANES_PER_CHAIN];
  for (u32 i = 0; i < LANES_PER_CHAIN; ++i) all[i] = value;
  return encode(all);
}

template <u32 CHAINS>
DEVICE void fma_chains(const Params &p) {
  const u64 threads = u64(gridDim.x) * THREADS;
  const Chain a = broadcast(p.factor), b = broadcast(p.summand);
  Chain x[CHAINS];
#pragma unroll
  for (u32 c = 0; c < CHAINS; ++c) {
    float start[LANES_PER_CHAIN];
#pragma unroll
    for (u32 i = 0; i < LANES_PER_CHAIN; ++i) {
      const u64 lane = thread_number() + (c * LANES_PER_CHAIN + i) * threads;
      start[i] = lane < p.lanes ? p.start[lane] : 0.0f;
    }
    x[c] = encode(start);
  }

  u64 steps = p.steps;
  for (; steps >= UNROLL; steps -= UNROLL) {
#pragma unroll
    for (u32 s = 0; s < UNROLL; ++s)
#pragma unroll
      for (u32 c = 0; c < CHAINS; ++c) x[c] = step(x[c], a, b);
  }
  for (; steps > 0; --steps)
#pragma unroll
    for (u32 c = 0; c < CHAINS; ++c) x[c] = step(x[c], a, b);

#pragma unroll
  for (u32 c = 0; c < CHAINS; ++c) {
    float end[LANES_PER_CHAIN];
    decode(x[c], end);
#pragma unroll
    for (u32 i = 0; i < LANES_PER_CHAIN; ++i) {
      const u64 lane = thread_number() + (c * LANES_PER_CHAIN + i) * threads;
      if (lane < p.lanes) p.end[lane] = end[i];
    }
  }
}

#define PEAK(CHAINS) \
  KERNEL(THREADS, 1) peak_##CHAINS(const __grid_constant__ Params p) { fma_chains<CHAINS>(p); }

#elif defined(UNIT_TENSOR)

// --- Tensor cores: one 16 x 8 tile a lane ------------------------------------------
// The operands are the same in every step: a[i][k] and b[k][j] below, small
// irregular integers that keep the multipliers as busy as random data does, in
// eighths so that every format holds them exactly. Sums start at zero, where they
// stay exact for the longest, and the start values are added at the end.

DEVICE i32 pattern_a(u32 i, u32 k) { return i32((7 * i + 13 * (k % 16) + 5) % 17) - 8; }
DEVICE i32 pattern_b(u32 k, u32 j) { return i32((11 * (k % 16) + 5 * j + 3) % 17) - 8; }

#if defined(OPERAND_BF16) || defined(OPERAND_F16)
constexpr u32 STEPS_PER_MMA = 1;
constexpr u32 PER_REGISTER = 2;
typedef float Sum;
template <typename Value>
DEVICE u32 operand(Value value) {
  const float low = value(0) * 0.125f, high = value(1) * 0.125f;
#if defined(OPERAND_BF16)
  return cvt_bf16x2(low, high);
#else
  return cvt_f16x2(low, high);
#endif
}
DEVICE void mma(Sum (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if defined(OPERAND_BF16)
  mma_m16n8k16_bf16(d, a, b[0], b[1]);
#else
  mma_m16n8k16_f16(d, a, b[0], b[1]);
#endif
}
#elif defined(OPERAND_INT8)
constexpr u32 STEPS_PER_MMA = 2;
constexpr u32 PER_REGISTER = 4;
typedef i32 Sum;
template <typename Value>
DEVICE u32 operand(Value value) {
  u32 packed = 0;
  for (u32 i = 0; i < 4; ++i) packed |= (u32(value(i)) & 0xff) << (8 * i);
  return packed;
}
DEVICE void mma(Sum (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k32_s8(d, a, b[0], b[1]);
}
#elif defined(OPERAND_FP8_E4M3)
constexpr u32 STEPS_PER_MMA = 2;
constexpr u32 PER_REGISTER = 4;
typedef float Sum;
template <typename Value>
DEVICE u32 operand(Value value) {
  const u32 low = cvt_e4m3x2(value(0) * 0.125f, value(1) * 0.125f);
  return low | u32(cvt_e4m3x2(value(2) * 0.125f, value(3) * 0.125f)) << 16;
}
DEVICE void mma(Sum (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k32_e4m3(d, a, b[0], b[1]);
}
#endif

constexpr u32 TILE = 16 * 8;

template <u32 CHAINS>
DEVICE void tensor_chains(const Params &p) {
  // Lanes of this warp, and this thread's elements in the layout of mma: see ptx.cuh.
  const u64 first = thread_number() / WARP * CHAINS;
  const u32 row = lane_index() / 4, column = lane_index() % 4 * 2;
  const u32 k = lane_index() % 4 * PER_REGISTER;

  u32 a[4], b[2];
#pragma unroll
  for (u32 r = 0; r < 4; ++r)
    a[r] = operand([&](u32 i) {
      return pattern_a(row + 8 * (r % 2), k + 4 * PER_REGISTER * (r / 2) + i);
    });
#pragma unroll
  for (u32 r = 0; r < 2; ++r)
    b[r] = operand([&](u32 i) { return pattern_b(k + 4 * PER_REGISTER * r + i, row); });

  Sum sum[CHAINS][4] = {};
  u64 mmas = p.steps / STEPS_PER_MMA;
  for (; mmas >= UNROLL; mmas -= UNROLL) {
#pragma unroll
    for (u32 s = 0; s < UNROLL; ++s)
#pragma unroll
      for (u32 c = 0; c < CHAINS; ++c) mma(sum[c], a, b);
  }
  for (; mmas > 0; --mmas)
#pragma unroll
    for (u32 c = 0; c < CHAINS; ++c) mma(sum[c], a, b);

#pragma unroll
  for (u32 c = 0; c < CHAINS; ++c) {
    if (first + c >= p.lanes) break;
    const u64 tile = (first + c) * TILE;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
      const u64 at = tile + (row + 8 * (i / 2)) * 8 + column + i % 2;
      p.end[at] = p.start[at] + float(sum[c][i]);
    }
  }
}

#define PEAK(CHAINS) \
  KERNEL(THREADS, 1) peak_##CHAINS(const __grid_constant__ Params p) { tensor_chains<CHAINS>(p); }

#endif

PEAK(1)
PEAK(2)
PEAK(4)
PEAK(8)
