// Operands of the peak kernels in every format: what their elements are, and how they are
// encoded. src/reference/peak.rs says what the sums become.
//
// A product of 32 bytes of a row, K elements, is one instruction. Four of them take four
// slices of the operands in turn.
//
//   small   small irregular integers, the same in every slice for sums of 16 steps, in
//           eighths so that every format holds them exactly. Sums start at zero, where they
//           stay exact for the longest.
//   zeros
//   random  all bits that a format has, other ones in every row, column and slice, as in a
//           matrix product. Slices 2 and 3 are 0 and 1 with another sign of b, but for one
//           element of the sum, so that sums go up and down and grow by GAIN every four
//           products.
//
// The tensor cores of some architectures keep 14 bits of a sum of 8-bit floats. So `small`
// has both signs of nearly every product in these formats: a step adds at most two units.
#pragma once
#include "ptx.cuh"

enum Data : u32 { SMALL = 0, ZEROS = 1, RANDOM = 2 };

constexpr u32 SLICES = 4;
constexpr u32 SLICE_BYTES = 32;  // of a row, and of a column

// What is different in formats: bytes of an element, bits of random numerators, whether
// sums need small steps, and the word that holds values of neighbouring elements.
template <typename Format>
struct Operand;

template <>
struct Operand<Bf16> {
  static constexpr u32 BYTES = 2, BITS = 8;
  typedef float Sum;
  static constexpr bool INTEGERS = false, CANCELS = false;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    return cvt_bf16x2(value(0), value(1));
  }
};

template <>
struct Operand<F16> {
  static constexpr u32 BYTES = 2, BITS = 11;
  typedef float Sum;
  static constexpr bool INTEGERS = false, CANCELS = false;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    return cvt_f16x2(value(0), value(1));
  }
};

template <>
struct Operand<Tf32> {
  static constexpr u32 BYTES = 4, BITS = 11;
  typedef float Sum;
  static constexpr bool INTEGERS = false, CANCELS = false;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    return __float_as_uint(value(0));
  }
};

template <>
struct Operand<E4m3> {
  static constexpr u32 BYTES = 1, BITS = 4;
  typedef float Sum;
  static constexpr bool INTEGERS = false, CANCELS = true;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    return cvt_e4m3x2(value(0), value(1)) | u32(cvt_e4m3x2(value(2), value(3))) << 16;
  }
};

template <>
struct Operand<E5m2> {
  static constexpr u32 BYTES = 1, BITS = 3;
  typedef float Sum;
  static constexpr bool INTEGERS = false, CANCELS = true;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    return cvt_e5m2x2(value(0), value(1)) | u32(cvt_e5m2x2(value(2), value(3))) << 16;
  }
};

template <>
struct Operand<Int8> {
  static constexpr u32 BYTES = 1, BITS = 7;
  typedef i32 Sum;
  static constexpr bool INTEGERS = true, CANCELS = false;
  template <typename Value>
  DEVICE static u32 word(Value value) {
    u32 packed = 0;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) packed |= (u32(i32(value(i))) & 0xff) << (8 * i);
    return packed;
  }
};

// --- Small integers: the sum runs over 16 steps --------------------------------------

DEVICE i32 pattern_a(u32 i, u32 k) { return i32((7 * i + 13 * k + 5) % 17) - 8; }
DEVICE i32 pattern_b(u32 k, u32 j) { return i32((11 * k + 5 * j + 3) % 17) - 8; }

// The same with eight steps and, but for one, their negatives: what is left of the sum is
// step_of_row(i) * sign_of_column(j).
DEVICE i32 step_of_row(u32 i) { return (i % 2 ? -1 : 1) * (1 + i32(i / 2 % 2)); }
DEVICE i32 sign_of_column(u32 j) { return (5 * j + 3) / 4 % 2 ? -1 : 1; }
DEVICE i32 cancelling_a(u32 i, u32 k) {
  return k % 8 == 7 ? step_of_row(i) : pattern_a(i, k % 8);
}
DEVICE i32 cancelling_b(u32 k, u32 j) {
  if (k % 8 == 7) return (k < 8 ? 4 : -3) * sign_of_column(j);
  return k < 8 ? pattern_b(k, j) : -pattern_b(k - 8, j);
}

// --- Random bits -----------------------------------------------------------------------

DEVICE u32 random_bits(u32 operand, u32 row, u32 k) {
  u32 x = operand << 31 | row << 16 | k;
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// An odd number of so many bits and a sign.
template <u32 bits>
DEVICE i32 random_odd(u32 operand, u32 row, u32 k) {
  return i32(random_bits(operand, row, k) >> (32 - bits) << 1) + 1 - (1 << bits);
}

// --- Elements, of a row of a or a column of b --------------------------------------------

template <typename Format>
struct Elements {
  typedef Operand<Format> Of;
  // Elements of a slice, and of a word.
  static constexpr u32 K = SLICE_BYTES / Of::BYTES;
  static constexpr u32 PER_WORD = 4 / Of::BYTES;

  // `k` counts the elements of all slices.
  DEVICE static i32 numerator_a(Data data, u32 i, u32 k) {
    if (data == ZEROS) return 0;
    if (data == SMALL)
      return Of::CANCELS ? cancelling_a(i % 16, k % 16) : pattern_a(i % 16, k % 16);
    if (k % (2 * K) == 0) return 1 << (Of::BITS - 2);
    return random_odd<Of::BITS>(0, i, k % (2 * K));
  }
  DEVICE static i32 numerator_b(Data data, u32 k, u32 j) {
    if (data == ZEROS) return 0;
    if (data == SMALL)
      return Of::CANCELS ? cancelling_b(k % 16, j % 8) : pattern_b(k % 16, j % 8);
    if (k == 0) return 3 << (Of::BITS - 3);
    if (k == 2 * K) return -(1 << (Of::BITS - 2));
    const i32 odd = random_odd<Of::BITS>(1, j, k % (2 * K));
    return k < 2 * K ? odd : -odd;
  }

  DEVICE static float scale(Data data) {
    if (Of::INTEGERS) return 1.0f;
    return data == SMALL ? 0.125f : 1.0f / (1 << Of::BITS);
  }

  // Elements k, k + 1, ... as many as a word holds.
  DEVICE static u32 word_a(Data data, u32 i, u32 k) {
    const float unit = scale(data);
    return Of::word([&](u32 e) { return numerator_a(data, i, k + e) * unit; });
  }
  DEVICE static u32 word_b(Data data, u32 k, u32 j) {
    const float unit = scale(data);
    return Of::word([&](u32 e) { return numerator_b(data, k + e, j) * unit; });
  }

  // This lane's part of a slice of 16 rows of a, in the layout of mma: see ptx.cuh.
  DEVICE static void fragment_a(u32 (&a)[4], Data data, u32 slice, u32 first_row) {
#pragma unroll
    for (u32 r = 0; r < 4; ++r)
      a[r] = word_a(data, first_row + lane_index() / 4 + 8 * (r % 2),
                    slice * K + (lane_index() % 4 + 4 * (r / 2)) * PER_WORD);
  }
  // The same of eight columns of b.
  DEVICE static void fragment_b(u32 (&b)[2], Data data, u32 slice, u32 first_column) {
#pragma unroll
    for (u32 r = 0; r < 2; ++r)
      b[r] = word_b(data, slice * K + (lane_index() % 4 + 4 * r) * PER_WORD,
                    first_column + lane_index() / 4);
  }
};

// --- Tiles: the lanes of the problem -----------------------------------------------------

constexpr u32 TILE = 16 * 8;

// Adds the sums of a tile, laid out as mma's, to the start.
template <typename Sum>
DEVICE void write_tile(const float *start, float *end, u64 lane, const Sum *sums) {
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    const u64 at = lane * TILE + (lane_index() / 4 + 8 * half) * 8 + lane_index() % 4 * 2;
    end[at] = start[at] + float(sums[2 * half]);
    end[at + 1] = start[at + 1] + float(sums[2 * half + 1]);
  }
}
