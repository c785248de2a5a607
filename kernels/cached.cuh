// The format of cached keys and values that a kernel is compiled for, chosen by
// -DCACHED_16 (that of the queries, see element.cuh), -DCACHED_E4M3 or -DCACHED_INT8,
// and the arithmetic that goes with it. 8-bit elements are converted to f16, which holds
// all of them exactly, and so are the queries that they are multiplied by.
#pragma once
#include "element.cuh"
#include "narrow.cuh"

#if defined(CACHED_16)
constexpr u32 CACHED_BYTES = 2;
// What the elements are multiplied in.
#define MULTIPLIED ELEMENT
#elif defined(CACHED_E4M3) || defined(CACHED_INT8)
constexpr u32 CACHED_BYTES = 1;
#define MULTIPLIED F16
#else
#error "compile with -DCACHED_16, -DCACHED_E4M3 or -DCACHED_INT8"
#endif

// d += a * b, where a holds queries or attention weights and b keys or values.
DEVICE void mma_cached(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  if (CACHED_BYTES == 1)
    mma_m16n8k16_f16(d, a, b0, b1);
  else
    mma_m16n8k16(d, a, b0, b1);
}

// Two attention weights as an operand of mma_cached, the first in the low half.
DEVICE u32 pack_weights(float low, float high) {
  return CACHED_BYTES == 1 ? cvt_f16x2(low, high) : pack(low, high);
}

// Two elements of a query as an operand of mma_cached.
DEVICE u32 query_operand(u32 packed) {
  return CACHED_BYTES == 1 ? cvt_f16x2(low_float(packed), high_float(packed)) : packed;
}

// First column of a query that register `i` of operand a holds in step `k` of 16 columns.
// The sum over columns may be taken in any order: it is taken in the order in which
// ldmatrix delivers 8-bit keys, four to a lane.
DEVICE u32 query_column(u32 k, u32 i) {
  const u32 member = lane_index() % 4;
  return k * 16 + (CACHED_BYTES == 1 ? member * 4 + i / 2 * 2 : member * 2 + i / 2 * 8);
}

// Column of the outputs that element `i` (0 or 1) of this lane belongs to, in n-tile
// `n`. 8-bit values are unpacked two by two: even columns of 16 are one tile, odd
// columns the next.
DEVICE u32 output_column(u32 n, u32 i) {
  const u32 member = lane_index() % 4;
  return CACHED_BYTES == 1 ? n / 2 * 16 + member * 4 + i * 2 + n % 2 : n * 8 + member * 2 + i;
}

// Bytes i and j of four 8-bit elements as two f16 elements, the first in the low half.
template <u32 i, u32 j>
DEVICE u32 halves_of_bytes(u32 bytes) {
#if defined(CACHED_INT8)
  return f16x2_of_int8<i, j>(bytes);
#else
  return f16x2_of_e4m3<i, j>(bytes);
#endif
}
