// Weights of linear layers: the format that a kernel is compiled for, chosen by
// -DWEIGHT_16 (that of the activations, see element.cuh), -DWEIGHT_E4M3, -DWEIGHT_INT8 or
// -DWEIGHT_INT4; their layout in memory; and how they become the left operand of mma
// m16n8k16, in the format of the activations.
//
// A matrix is made of lines, one for each row, or for 4 bits one for each 16 rows, in the
// order of the operand. The columns of a product may be taken in any order as long as it
// is the same for both operands: the order here makes a lane's 16 bytes the operands of
// several products, so that lanes exchange nothing.
#pragma once
#include "element.cuh"
#include "narrow.cuh"
#include "tile.cuh"

#if defined(WEIGHT_16)
constexpr u32 LINE_ROWS = 1, LINE_BYTES_PER_COLUMN = 2, STAGE_COLUMNS = 64;
#elif defined(WEIGHT_E4M3) || defined(WEIGHT_INT8)
constexpr u32 LINE_ROWS = 1, LINE_BYTES_PER_COLUMN = 1, STAGE_COLUMNS = 128;
#elif defined(WEIGHT_INT4)
constexpr u32 LINE_ROWS = 16, LINE_BYTES_PER_COLUMN = 8, STAGE_COLUMNS = 128;
#else
#error "compile with -DWEIGHT_16, -DWEIGHT_E4M3, -DWEIGHT_INT8 or -DWEIGHT_INT4"
#endif

#if defined(WEIGHT_INT4)
constexpr bool GROUP_SCALES = true;  // f16, [columns / STAGE_COLUMNS][rows]
constexpr bool ROW_SCALES = false;
#elif defined(WEIGHT_16)
constexpr bool GROUP_SCALES = false, ROW_SCALES = false;
#else
constexpr bool GROUP_SCALES = false;
constexpr bool ROW_SCALES = true;  // f32, of each row
#endif

// A stage of the ring has two halves, each the columns of 16 bytes of each of four lanes.
constexpr u32 HALF_COLUMNS = STAGE_COLUMNS / 2;
constexpr u32 PRODUCTS = HALF_COLUMNS / 16;

// The part of a line in a stage.
constexpr u32 LINE_CHUNKS = STAGE_COLUMNS * LINE_BYTES_PER_COLUMN / CHUNK_BYTES;
constexpr u32 LINE_BYTES = LINE_CHUNKS * CHUNK_BYTES;
constexpr u32 ROWS_16_BYTES = 16 / LINE_ROWS * LINE_BYTES;
// Columns from a chunk to the next. Zero with group scales: a group's chunks are copied
// all together or not at all.
constexpr u32 CHUNK_COLUMNS = LINE_ROWS == 1 ? CHUNK_BYTES / LINE_BYTES_PER_COLUMN : 0;

// Where a chunk of a line lies in a stage: lane t of four has chunk t of a half. Odd lines
// of 128 bytes have their halves exchanged, so that the lanes of the two lines that one
// phase serves use different banks.
DEVICE u32 line_chunk_offset(u32 line, u32 chunk) {
  return LINE_ROWS == 1 ? line * LINE_BYTES + (chunk ^ line % 2 * 4) * CHUNK_BYTES
                        : line * LINE_BYTES + chunk * CHUNK_BYTES;
}

// Offset of this lane's weights of the first half and of the first 16 rows.
DEVICE u32 weights_lane_offset() {
  return LINE_ROWS == 1 ? line_chunk_offset(lane_index() / 4, lane_index() % 4)
                        : lane_index() * CHUNK_BYTES;
}

// That address for a half.
DEVICE u32 weights_of_half(u32 address, u32 half) {
  return LINE_ROWS == 1 ? address ^ half * (4 * CHUNK_BYTES) : address + half * WARP * CHUNK_BYTES;
}

// Bytes i and j of four weights.
template <u32 i, u32 j>
DEVICE u32 operand_of_bytes(u32 bytes) {
#if defined(WEIGHT_INT8) && defined(ELEMENT_BF16)
  return bf16x2_of_int8<i, j>(bytes);
#elif defined(WEIGHT_INT8)
  return f16x2_of_int8<i, j>(bytes);
#elif defined(ELEMENT_BF16)
  return bf16x2_of_e4m3<i, j>(bytes);
#else
  return f16x2_of_e4m3<i, j>(bytes);
#endif
}

// Nibbles i and i + 4 of eight weights.
template <u32 i>
DEVICE u32 operand_of_nibbles(u32 nibbles) {
#if defined(ELEMENT_BF16)
  return bf16x2_of_int4<i>(nibbles);
#else
  return f16x2_of_int4<i>(nibbles);
#endif
}

// The left operands of the products of one half for 16 rows, from this lane's address.
DEVICE void load_weights(u32 (&a)[PRODUCTS][4], u32 address) {
  const Words4 upper = ld_shared_v4(address);
  const Words4 lower = LINE_ROWS == 1 ? ld_shared_v4(address + 8 * LINE_BYTES) : upper;
#pragma unroll
  for (u32 i = 0; i < PRODUCTS; ++i) {
    if (LINE_ROWS > 1) {
      a[i][0] = operand_of_nibbles<0>(upper.w[i]);
      a[i][1] = operand_of_nibbles<1>(upper.w[i]);
      a[i][2] = operand_of_nibbles<2>(upper.w[i]);
      a[i][3] = operand_of_nibbles<3>(upper.w[i]);
    } else if (LINE_BYTES_PER_COLUMN == 1) {
      a[i][0] = operand_of_bytes<0, 1>(upper.w[i]);
      a[i][1] = operand_of_bytes<0, 1>(lower.w[i]);
      a[i][2] = operand_of_bytes<2, 3>(upper.w[i]);
      a[i][3] = operand_of_bytes<2, 3>(lower.w[i]);
    } else {
      a[i][0] = upper.w[i * 2];
      a[i][1] = lower.w[i * 2];
      a[i][2] = upper.w[i * 2 + 1];
      a[i][3] = lower.w[i * 2 + 1];
    }
  }
}

// Activations of a stage: rows of this many chunks. Lane t has the X_LOADS chunks of a
// half from X_LOADS * t on, and avoids bank conflicts as with weights.
constexpr u32 X_CHUNKS = STAGE_COLUMNS / CHUNK_ELEMENTS;
constexpr u32 X_BYTES = X_CHUNKS * CHUNK_BYTES;
constexpr u32 X_LOADS = X_CHUNKS / 8;

DEVICE u32 x_chunk_offset(u32 token, u32 chunk) {
  return token * X_BYTES + (chunk ^ token % 2 * (X_LOADS == 1 ? 4 : 1)) * CHUNK_BYTES;
}

// Offset of this lane's activations of the first half and of the first 8 tokens.
DEVICE u32 x_lane_offset() { return x_chunk_offset(lane_index() / 4, lane_index() % 4 * X_LOADS); }

// The right operands of the products of one half, from this lane's address: two words for
// each product i.
DEVICE void load_activations(u32 (&b)[PRODUCTS][2], u32 address, u32 half) {
#pragma unroll
  for (u32 load = 0; load < X_LOADS; ++load) {
    const u32 from = X_LOADS == 1 ? address ^ half * (4 * CHUNK_BYTES)
                                  : (address ^ load * CHUNK_BYTES) + half * (8 * CHUNK_BYTES);
    const Words4 words = ld_shared_v4(from);
#pragma unroll
    for (u32 i = 0; i < 4; ++i) b[load * 2 + i / 2][i % 2] = words.w[i];
  }
}
