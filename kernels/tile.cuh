// Tiles of 16-bit elements in shared memory: rows of `columns` elements, each
// row cut into chunks of 16 bytes. The chunks of a row are swizzled by its index,
// so that the eight rows that one phase of ldmatrix reads, all in the same
// chunk column, lie in different banks, and so do the chunks of a written row.
#pragma once
#include "ptx.cuh"

constexpr u32 ELEMENT_BYTES = 2;
constexpr u32 CHUNK_BYTES = 16;
constexpr u32 CHUNK_ELEMENTS = CHUNK_BYTES / ELEMENT_BYTES;
// All banks together are this wide. Tiles start at multiples of it, or of
// their row where that is wider.
constexpr u32 BANKS_BYTES = 128;

// How many chunks a swizzle permutes among themselves, in rows of `chunks`: the largest
// power of two that divides the row, so that no chunk leaves it, and at most what the
// banks hold. Rows of an odd number of chunks need no swizzle.
template <u32 chunks>
DEVICE constexpr u32 swizzle_chunks() {
  return min_of(chunks & -chunks, BANKS_BYTES / CHUNK_BYTES);
}

// Offset in bytes of a chunk of a tile with `chunks` chunks in a row.
template <u32 chunks>
DEVICE u32 swizzled(u32 row, u32 chunk) {
  constexpr u32 span = swizzle_chunks<chunks>();
  constexpr u32 rows_per_line = BANKS_BYTES / CHUNK_BYTES / span;
  return row * (chunks * CHUNK_BYTES) + (chunk ^ row / rows_per_line % span) * CHUNK_BYTES;
}

// The address of the chunk that is `pairs` times two chunks to the right of `address`,
// one of a row's first two chunks.
template <u32 chunks>
DEVICE u32 right_by_pairs(u32 address, u32 pairs) {
  constexpr u32 line_pairs = max_of(swizzle_chunks<chunks>() / 2, 1u);
  return (address ^ pairs % line_pairs * (2 * CHUNK_BYTES)) +
         pairs / line_pairs * (line_pairs * 2 * CHUNK_BYTES);
}

// Offset in bytes of a chunk of a tile of 16-bit elements.
template <u32 columns>
DEVICE u32 chunk_offset(u32 row, u32 chunk) {
  return swizzled<columns / CHUNK_ELEMENTS>(row, chunk);
}

// Offset that this lane gives ldmatrix_x4 for the 16 x 16 elements in a
// tile's corner: matrix 0 above matrix 1, matrices 2 and 3 to their right.
// That is operand a, and with ldmatrix_x4_trans two operands b side by side,
// from a tile whose rows run along the columns of the product.
//
// 16 rows down add the bytes of 16 rows. 16 columns to the right flip bits of
// the address: see right_by.
template <u32 columns>
DEVICE u32 lane_offset_a() {
  return chunk_offset<columns>(lane_index() % 16, lane_index() / 16);
}

// The same with matrices 0 and 1 side by side, 2 and 3 below them: two
// operands b, from a tile whose rows run along the sum.
template <u32 columns>
DEVICE u32 lane_offset_b() {
  return chunk_offset<columns>(lane_index() % 8 + lane_index() / 16 * 8, lane_index() / 8 % 2);
}

// A lane's address, `blocks` times 16 columns to the right.
DEVICE u32 right_by(u32 address, u32 blocks) { return address ^ blocks * (2 * CHUNK_BYTES); }

// The first row and the chunk of a tile that this thread copies.
template <u32 columns>
DEVICE u32 copied_row() {
  return threadIdx.x / (columns / CHUNK_ELEMENTS);
}
template <u32 columns>
DEVICE u32 copied_chunk() {
  return threadIdx.x % (columns / CHUNK_ELEMENTS);
}

// Starts this thread's copies of a tile to the address `tile`. `from` is the thread's
// chunk of its first row. Rows from `end_row` on, counted from the tile's first row,
// are filled with zeros and not read; with end_row 0 that is the whole tile.
template <u32 rows, u32 columns, u32 threads>
DEVICE void copy_tile(u32 tile, const u16 *from, u64 row_stride, u32 end_row) {
  constexpr u32 rows_at_once = threads / (columns / CHUNK_ELEMENTS);
  static_assert(rows_at_once % 8 == 0, "all rows of a thread have the same swizzle");
  static_assert(rows % rows_at_once == 0 || rows < rows_at_once, "threads copy the same amount");
  const u32 row = copied_row<columns>();
  if (rows < rows_at_once && row >= rows) return;
  const u32 to = tile + chunk_offset<columns>(row, copied_chunk<columns>());
  const i32 rows_left = i32(end_row) - i32(row);
#pragma unroll
  for (u32 i = 0; i < rows; i += rows_at_once)
    cp_async_16(to + i * columns * ELEMENT_BYTES, from + i * row_stride,
                i32(i) < rows_left ? CHUNK_BYTES : 0);
}
