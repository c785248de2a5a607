// Elements of 8 and 4 bits converted in registers to pairs of a 16-bit format that
// holds all of them exactly. No conversion instruction does it for all formats, and
// those that exist are slower than logic instructions.
#pragma once
#include "ptx.cuh"

// (bits & mask) ^ flip: the masked bits become the last bits of a mantissa where `flip`
// sets its exponent, plus 8 where it inverts the sign bit of a nibble.
DEVICE u32 and_xor(u32 bits, u32 mask, u32 flip) { return lop3<0x6a>(bits, mask, flip); }

// --- Bytes i and j of four, the first in the low half ------------------------

template <u32 i, u32 j>
DEVICE u32 f16x2_of_int8(u32 bytes) {
  // The bits 0x6400 + b are the value 1024 + b; with its sign bit inverted a byte is 128 more.
  const u32 biased = __byte_perm(bytes ^ 0x80808080u, 0x64646464u, 0x4040 | j << 8 | i);
  return add_f16x2(biased, 0xe480e480u);  // -1152
}

// NaN, of which there is one for each sign, becomes 480 before sm_89.
template <u32 i, u32 j>
DEVICE u32 f16x2_of_e4m3(u32 bytes) {
#if __CUDA_ARCH__ >= 890
  return cvt_f16x2_e4m3x2(static_cast<u16>(__byte_perm(bytes, 0, j << 4 | i)));
#else
  // The sign, and exponent and mantissa one bit lower: the biases differ by 8. NaN becomes 480.
  const u32 high = __byte_perm(bytes, 0, 0x0404 | j << 12 | i << 4);
  return mul_f16x2((high & 0x80008000u) | (high & 0x7f007f00u) >> 1, 0x5c005c00u);  // 256
#endif
}

template <u32 i, u32 j>
DEVICE u32 bf16x2_of_int8(u32 bytes) {
  // The bits 0x4300 + b are the value 128 + b for 7 bits; the eighth, the sign, counts
  // -128: it makes 256 of 128.
  const u32 low = __byte_perm(bytes, 0, 0x4040 | j << 8 | i);
  const u32 biased = and_xor(low, 0x007f007f, 0x43004300);
  return fma_bf16x2(and_xor(low, 0x00800080, 0x43004300), 0xbf80bf80u, biased);  // times -1
}

// NaN becomes 480.
template <u32 i, u32 j>
DEVICE u32 bf16x2_of_e4m3(u32 bytes) {
  // The sign, and exponent and mantissa four bits lower: the biases differ by 120.
  const u32 high = __byte_perm(bytes, 0, 0x0404 | j << 12 | i << 4);
  return fma_bf16x2((high & 0x80008000u) | (high >> 4 & 0x07f007f0u), 0x7b807b80u, 0x80008000u);
}

// --- Nibbles i and i + 4 of eight, signed, the first in the low half -----------

template <u32 i>
DEVICE u32 f16x2_of_int4(u32 nibbles) {
  // Odd nibbles stay in place and count 16 times as much: this halves the shifts.
  const u32 pair = nibbles >> i / 2 * 8;
  if (i % 2 == 0) return add_f16x2(and_xor(pair, 0x000f000f, 0x64086408), 0xe408e408u);  // -1032
  return fma_f16x2(and_xor(pair, 0x00f000f0, 0x64806480), 0x2c002c00u, 0xd480d480u);  // / 16 - 72
}

template <u32 i>
DEVICE u32 bf16x2_of_int4(u32 nibbles) {
  const u32 pair = nibbles >> i * 4;
  return fma_bf16x2(and_xor(pair, 0x000f000f, 0x43084308), 0x3f803f80u, 0xc308c308u);  // 1, -136
}
