// Tiles of 16-bit elements in shared memory: rows of `columns` elements, each
// row cut into chunks of 16 bytes. Chunks of a row change places by its number,
// so that the eight rows that one phase of ldmatrix reads, all in the same
// chunk column, lie in different banks, and so do the chunks of a written row.
#pragma once
#include "ptx.cuh"

constexpr u32 ELEMENT_BYTES = 2;
constexpr u32 CHUNK_BYTES = 16;
constexpr u32 CHUNK_ELEMENTS = CHUNK_BYTES / ELEMENT_BYTES;
// All banks together are this wide, so tiles start at multiples of it, or of
// their row where that is wider.
constexpr u32 BANKS_BYTES = 128;

// Chunks that change places among themselves, in rows of so many: the largest power of
// two that divides the row, so that none leaves it, and at most what the banks hold.
// Rows of an odd number of chunks need no change.
template <u32 chunks>
DEVICE constexpr u32 places() {
  return min_of(chunks & -chunks, BANKS_BYTES / CHUNK_BYTES);
}

// Offset in bytes of a chunk of a tile with so many chunks in a row.
template <u32 chunks>
DEVICE u32 swizzled(u32 row, u32 chunk) {
  constexpr u32 rows_per_line = BANKS_BYTES / CHUNK_BYTES / places<chunks>();
  return row * (chunks * CHUNK_BYTES) + (chunk ^ row / rows_per_line % places<chunks>()) * CHUNK_BYTES;
}

// The address of a chunk, `pairs` times two chunks to the right of one of a row's first
// two.
template <u32 chunks>
DEVICE u32 right_by_pairs(u32 address, u32 pairs) {
  constexpr u32 line_pairs = max_of(places<chunks>() / 2, 1u);
  return (address ^ pairs % line_pairs * (2 * CHUNK_BYTES)) +
         pairs / line_pairs * (line_pairs * 2 * CHUNK_BYTES);
}

// Offset in bytes of a chunk of a tile of 16-bit elements.
template <u32 columns>
DEVICE u32 chunk_offset(u32 row, u32 chunk) {
  return swizzled<columns / CHUNK_ELEMENTS>(row, chunk);
}

// Offset that this lane gives ldmatrix_x4 for the 16 x 16 elements in a
// tile's corner: matrices 0 and 1 above each other, 2 and 3 to their right.
// That is operand a, and with ldmatrix_x4_trans two operands b side by side,
// out of a tile whose rows run along the products' columns.
//
// 16 rows further is 16 rows of bytes more. 16 columns further flips bits of
// the address: see right_by.
template <u32 columns>
DEVICE u32 lane_offset_a() {
  return chunk_offset<columns>(lane_index() % 16, lane_index() / 16);
}

// The same with matrices 0 and 1 side by side, 2 and 3 below them: two
// operands b, out of a tile whose rows run along the sum.
template <u32 columns>
DEVICE u32 lane_offset_b() {
  return chunk_offset<columns>(lane_index() % 8 + lane_index() / 16 * 8, lane_index() / 8 % 2);
}

// A lane's address, `blocks` times 16 columns to the right.
DEVICE u32 right_by(u32 address, u32 blocks) { return address ^ blocks * (2 * CHUNK_BYTES); }

// The first row and the chunk that this thread copies of a tile.
template <u32 columns>
DEVICE u32 copied_row() {
  return threadIdx.x / (columns / CHUNK_ELEMENTS);
}
template <u32 columns>
DEVICE u32 copied_chunk() {
  return threadIdx.x % (columns / CHUNK_ELEMENTS);
}

// Starts this thread's copies of a tile to the address `tile`. `from` is its
// chunk of its first row. Its rows at `end_row` and below, counted from the
// tile's first, become zeros and are not read; so does all of it with end_row 0.
template <u32 rows, u32 columns, u32 threads>
DEVICE void copy_tile(u32 tile, const u16 *from, u64 row_stride, u32 end_row) {
  constexpr u32 rows_at_once = threads / (columns / CHUNK_ELEMENTS);
  static_assert(rows_at_once % 8 == 0, "all rows of a thread have their chunks in the same place");
  static_assert(rows % rows_at_once == 0 || rows < rows_at_once, "threads copy equally much");
  const u32 row = copied_row<columns>();
  if (rows < rows_at_once && row >= rows) return;
  const u32 to = tile + chunk_offset<columns>(row, copied_chunk<columns>());
  const i32 rows_left = i32(end_row) - i32(row);
#pragma unroll
  for (u32 i = 0; i < rows; i += rows_at_once)
    cp_async_16(to + i * columns * ELEMENT_BYTES, from + i * row_stride,
                i32(i) < rows_left ? CHUNK_BYTES : 0);
}
