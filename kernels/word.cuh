// The elements of a 32-bit word in the format that a kernel is compiled for, chosen by
// -DELEMENT_F32, -DELEMENT_BF16 or -DELEMENT_F16.
#pragma once
#if defined(ELEMENT_F32)
#include "ptx.cuh"

constexpr u32 WORD_ELEMENTS = 1;
DEVICE void unpack(float (&x)[WORD_ELEMENTS], u32 word) { x[0] = __uint_as_float(word); }
// Rounded to the format.
DEVICE u32 packed(const float (&x)[WORD_ELEMENTS]) { return __float_as_uint(x[0]); }
#else
#include "element.cuh"

constexpr u32 WORD_ELEMENTS = 2;
DEVICE void unpack(float (&x)[WORD_ELEMENTS], u32 word) {
  x[0] = low_float(word);
  x[1] = high_float(word);
}
DEVICE u32 packed(const float (&x)[WORD_ELEMENTS]) { return pack(x[0], x[1]); }
#endif
