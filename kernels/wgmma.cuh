// Tensor cores by warpgroup: d += a * b, sm_90a. Like ptx.cuh, one function, one
// instruction; the text of all shapes is made by macros, since an instruction names each of
// its up to 128 sums.
//
// Four warps together multiply tiles in shared memory, given by descriptors,
// asynchronously. Sums are laid out as in mma: warp w has the rows from 16 w on, and
// registers 4 i to 4 i + 3 are the columns from 8 i on, the first two of row lane / 4, the
// others eight rows further. `a` may also come from registers, four of them, laid out as
// mma's in ptx.cuh.
#pragma once
#include "ptx.cuh"

// --- Order ---------------------------------------------------------------------

// Orders accesses to registers before products started after it.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Makes a group of the products since the last group.
DEVICE void wgmma_commit_group() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `pending` groups are incomplete.
template <u32 pending>
DEVICE void wgmma_wait_group() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// No instruction: keeps the compiler from moving accesses to the registers across it.
template <u32 count>
DEVICE void pin(float (&d)[count]) {
#pragma unroll
  for (u32 i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <u32 count>
DEVICE void pin(i32 (&d)[count]) {
#pragma unroll
  for (u32 i = 0; i < count; ++i) asm volatile("" : "+r"(d[i])::"memory");
}
template <u32 count>
DEVICE void pin(u32 (&d)[count]) {
#pragma unroll
  for (u32 i = 0; i < count; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// --- Descriptors -----------------------------------------------------------------

// Shared memory whose places a descriptor can tell apart: more than a block has.
constexpr u32 DESCRIBED_BYTES = 1 << 18;

// Describes a tile, `offset` bytes after an address. It is stored in panels of 128 bytes a
// row with swizzled chunks: groups of eight rows are `stride` bytes apart, and, where the
// sum runs across the rows of panels, panels are `leading` bytes apart.
DEVICE u64 panel_descriptor(u32 address, u32 offset, u32 leading, u32 stride) {
  // In a cluster an address has the block's rank from bit 24 on, which here would be part of
  // the leading distance. Where that is 0, the hardware does not read it.
  const u32 start = leading > 0 ? address % DESCRIBED_BYTES : address;
  const u32 low = (start >> 4) + (offset >> 4) + (leading >> 4 << 16);
  return u64(1u << 30 | stride >> 4) << 32 | low;
}

// --- Products ----------------------------------------------------------------------

// Products of operands in a format, with `columns` columns of b; they start from zero where `accumulate` is false.
//   ss  a and b from shared memory; in both the sum runs along the rows of their panels
//   rs  a from registers
// and for 16-bit formats ss_trans and rs_trans, where the columns of b run along the rows
// of its panels.
template <typename Format, u32 columns>
struct Wgmma;  // see WGMMA below

// Sums as operands; `c` is the constraint of their registers.
#define SUMS_4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define SUMS_8(c, i) SUMS_4(c, i), SUMS_4(c, i + 4)
#define SUMS_16(c, i) SUMS_8(c, i), SUMS_8(c, i + 8)
#define SUMS_32(c, i) SUMS_16(c, i), SUMS_16(c, i + 16)
#define SUMS_40(c, i) SUMS_32(c, i), SUMS_8(c, i + 32)
#define SUMS_48(c, i) SUMS_32(c, i), SUMS_16(c, i + 32)
#define SUMS_56(c, i) SUMS_48(c, i), SUMS_8(c, i + 48)
#define SUMS_64(c, i) SUMS_32(c, i), SUMS_32(c, i + 32)
#define SUMS_80(c, i) SUMS_64(c, i), SUMS_16(c, i + 64)
#define SUMS_88(c, i) SUMS_80(c, i), SUMS_8(c, i + 80)
#define SUMS_96(c, i) SUMS_64(c, i), SUMS_32(c, i + 64)
#define SUMS_112(c, i) SUMS_96(c, i), SUMS_16(c, i + 96)
#define SUMS_128(c, i) SUMS_64(c, i), SUMS_64(c, i + 64)

// Their placeholders.
#define NAMES_4 "%0, %1, %2, %3"
#define NAMES_8 NAMES_4 ", %4, %5, %6, %7"
#define NAMES_16 NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_32 \
  NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_40 NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define NAMES_48 NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_56 NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define NAMES_64 NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_80 \
  NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NAMES_88 NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define NAMES_96 NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_112 \
  NAMES_96 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
  "%111"
#define NAMES_128 \
  NAMES_112 \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"

// The text of one form of one shape; `flag` is the number of `accumulate`, and `signs` what
// an instruction says after it: signs of a and b, and for 16-bit formats whether they are
// transposed.
#define WGMMA_TEXT(columns, types, names, operands, flag, signs) \
  "{\n.reg .pred accumulate;\nsetp.ne.u32 accumulate, %" #flag \
  ", 0;\nwgmma.mma_async.sync.aligned.m64n" #columns types " {" names "}, " operands \
  ", accumulate" signs ";\n}"

// Both forms of one shape; n0 to n5 are the numbers of the operands after its sums.
#define WGMMA_FORMS(columns, count, types, c, suffix, ss_signs, rs_signs, n0, n1, n2, n3, n4, \
                    n5) \
  DEVICE static void ss##suffix(Sum(&d)[count], u64 a, u64 b, u32 accumulate) { \
    asm volatile( \
        WGMMA_TEXT(columns, types, NAMES_##count, "%" #n0 ", %" #n1, n2, ss_signs) \
        : SUMS_##count(c, 0) \
        : "l"(a), "l"(b), "r"(accumulate)); \
  } \
  DEVICE static void rs##suffix(Sum(&d)[count], const u32(&a)[4], u64 b, u32 accumulate) { \
    asm volatile(WGMMA_TEXT(columns, types, NAMES_##count, \
                            "{%" #n0 ", %" #n1 ", %" #n2 ", %" #n3 "}, %" #n4, n5, rs_signs) \
                 : SUMS_##count(c, 0) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate)); \
  }

// The forms that formats have.
#define WGMMA_16_BITS(types, columns, count, ...) \
  typedef float Sum; \
  WGMMA_FORMS(columns, count, types, "+f", , ", 1, 1, 0, 0", ", 1, 1, 0", __VA_ARGS__) \
  WGMMA_FORMS(columns, count, types, "+f", _trans, ", 1, 1, 0, 1", ", 1, 1, 1", __VA_ARGS__)
#define WGMMA_FLOATS(types, columns, count, ...) \
  typedef float Sum; \
  WGMMA_FORMS(columns, count, types, "+f", , ", 1, 1", ", 1, 1", __VA_ARGS__)
#define WGMMA_INTEGERS(types, columns, count, ...) \
  typedef i32 Sum; \
  WGMMA_FORMS(columns, count, types, "+r", , "", "", __VA_ARGS__)

#define WGMMA_OF_Bf16(...) WGMMA_16_BITS("k16.f32.bf16.bf16", __VA_ARGS__)
#define WGMMA_OF_F16(...) WGMMA_16_BITS("k16.f32.f16.f16", __VA_ARGS__)
#define WGMMA_OF_Tf32(...) WGMMA_FLOATS("k8.f32.tf32.tf32", __VA_ARGS__)
#define WGMMA_OF_E4m3(...) WGMMA_FLOATS("k32.f32.e4m3.e4m3", __VA_ARGS__)
#define WGMMA_OF_E5m2(...) WGMMA_FLOATS("k32.f32.e5m2.e5m2", __VA_ARGS__)
#define WGMMA_OF_Int8(...) WGMMA_INTEGERS("k32.s32.s8.s8", __VA_ARGS__)

// Columns, sums of a thread, and the numbers of the operands after these.
#define WGMMA_SHAPE_8 8, 4, 4, 5, 6, 7, 8, 9
#define WGMMA_SHAPE_16 16, 8, 8, 9, 10, 11, 12, 13
#define WGMMA_SHAPE_32 32, 16, 16, 17, 18, 19, 20, 21
#define WGMMA_SHAPE_64 64, 32, 32, 33, 34, 35, 36, 37
#define WGMMA_SHAPE_80 80, 40, 40, 41, 42, 43, 44, 45
#define WGMMA_SHAPE_96 96, 48, 48, 49, 50, 51, 52, 53
#define WGMMA_SHAPE_112 112, 56, 56, 57, 58, 59, 60, 61
#define WGMMA_SHAPE_128 128, 64, 64, 65, 66, 67, 68, 69
#define WGMMA_SHAPE_160 160, 80, 80, 81, 82, 83, 84, 85
#define WGMMA_SHAPE_176 176, 88, 88, 89, 90, 91, 92, 93
#define WGMMA_SHAPE_192 192, 96, 96, 97, 98, 99, 100, 101
#define WGMMA_SHAPE_224 224, 112, 112, 113, 114, 115, 116, 117
#define WGMMA_SHAPE_256 256, 128, 128, 129, 130, 131, 132, 133

// Defines Wgmma<Format, columns>, at file scope. A kernel says which products it uses:
// all of them together would take longer to read than most kernels take to compile.
#define WGMMA(Format, columns) WGMMA_EXPANDED(Format, columns)
#define WGMMA_EXPANDED(Format, columns) WGMMA_DEFINED(Format, columns, WGMMA_SHAPE_##columns)
#define WGMMA_DEFINED(Format, columns, ...) \
  template <> \
  struct Wgmma<Format, columns> { \
    WGMMA_OF_##Format(__VA_ARGS__) \
  };
