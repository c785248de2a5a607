// Arithmetic on registers: the compute ceilings.
//
// Each lane of the problem is a chain of dependent steps. A thread (fma) or a
// warp (tensor) keeps CHAINS of them in flight, to cover the latency of the unit;
// the host picks the entry with as many as the problem has for each. Only the
// values at the start and the end touch memory. The kernels are compute bound.
//
// Launch: 1-D grid of THREADS threads, one thread (fma) or warp (tensor) for
// every CHAINS lanes.
#include "peak_operands.cuh"

static_assert(THREADS % WARP == 0, "whole warps");

struct Params {
  const float *start;
  float *end;
  u64 lanes;
  u64 steps;
  float factor;   // fma: x = x * factor + summand
  float summand;
  u32 data;       // tensor: see peak_operands.cuh
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
#elif defined(OPERAND_F64)
constexpr u32 LANES_PER_CHAIN = 1;
typedef double Chain;
DEVICE Chain encode(const float (&x)[1]) { return x[0]; }
DEVICE void decode(Chain c, float (&x)[1]) { x[0] = static_cast<float>(c); }
DEVICE Chain step(Chain x, Chain a, Chain b) { return fma_f64(x, a, b); }
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
// All lanes of a warp have the same operands, which stay in registers: a slice for each of
// four products, see peak_operands.cuh.

typedef Elements<FORMAT> Operands;
typedef Operand<FORMAT>::Sum Sum;

DEVICE void mma(Bf16, float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k16_bf16(d, a, b[0], b[1]);
}
DEVICE void mma(F16, float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k16_f16(d, a, b[0], b[1]);
}
DEVICE void mma(E4m3, float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k32_e4m3(d, a, b[0], b[1]);
}
DEVICE void mma(E5m2, float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k32_e5m2(d, a, b[0], b[1]);
}
DEVICE void mma(Tf32, float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k8_tf32(d, a, b[0], b[1]);
}
DEVICE void mma(Int8, i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
  mma_m16n8k32_s8(d, a, b[0], b[1]);
}

static_assert(UNROLL % SLICES == 0, "a round begins with the first slice");

template <u32 CHAINS>
DEVICE void tensor_chains(const Params &p) {
  const Data data = static_cast<Data>(p.data);
  u32 a[SLICES][4], b[SLICES][2];
#pragma unroll
  for (u32 slice = 0; slice < SLICES; ++slice) {
    Operands::fragment_a(a[slice], data, slice, 0);
    Operands::fragment_b(b[slice], data, slice, 0);
  }

  Sum sums[CHAINS][4] = {};
  u64 left = p.steps * 16 / Operands::K;
  for (; left >= UNROLL; left -= UNROLL) {
#pragma unroll
    for (u32 i = 0; i < UNROLL; ++i)
#pragma unroll
      for (u32 c = 0; c < CHAINS; ++c) mma(FORMAT{}, sums[c], a[i % SLICES], b[i % SLICES]);
  }
#pragma unroll
  for (u32 i = 0; i < UNROLL - 1; ++i) {
    if (i >= left) break;
#pragma unroll
    for (u32 c = 0; c < CHAINS; ++c) mma(FORMAT{}, sums[c], a[i % SLICES], b[i % SLICES]);
  }

  const u64 first = thread_number() / WARP * CHAINS;
#pragma unroll
  for (u32 c = 0; c < CHAINS; ++c) {
    if (first + c >= p.lanes) break;
    write_tile(p.start, p.end, first + c, sums[c]);
  }
}

#define PEAK(CHAINS) \
  KERNEL(THREADS, 1) peak_##CHAINS(const __grid_constant__ Params p) { tensor_chains<CHAINS>(p); }

#endif

PEAK(1)
PEAK(2)
PEAK(4)
PEAK(8)
