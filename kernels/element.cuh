// The 16-bit format that a kernel is compiled for, chosen by
// -DELEMENT_BF16 or -DELEMENT_F16.
#pragma once
#include "ptx.cuh"

#if defined(ELEMENT_BF16)
#define ELEMENT Bf16
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  mma_m16n8k16_bf16(d, a, b0, b1);
}
// Two floats rounded to the format and packed, the first in the low half.
DEVICE u32 pack(float low, float high) { return cvt_bf16x2(low, high); }
// The two elements of a packed pair.
DEVICE float low_float(u32 packed) { return __int_as_float(packed << 16); }
DEVICE float high_float(u32 packed) { return __int_as_float(packed & 0xffff0000u); }
#elif defined(ELEMENT_F16)
#define ELEMENT F16
DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  mma_m16n8k16_f16(d, a, b0, b1);
}
DEVICE u32 pack(float low, float high) { return cvt_f16x2(low, high); }
DEVICE float low_float(u32 packed) { return cvt_f32_f16(packed & 0xffffu); }
DEVICE float high_float(u32 packed) { return cvt_f32_f16(packed >> 16); }
#else
#error "compile with -DELEMENT_BF16 or -DELEMENT_F16"
#endif
