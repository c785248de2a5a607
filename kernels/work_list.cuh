// A work list made on the host: which tokens of which sequences each block
// takes, so that all blocks run at once and finish together. A sequence is one
// request and one key and value head; src/kernel/split.rs makes the list.
#pragma once
#include "ptx.cuh"

// One block's share of one sequence. Piece number b is the first of block b.
struct alignas(16) Piece {
  u32 request;
  u32 head;         // key and value head
  u32 first_token;  // a multiple of the tile
  u32 tokens;       // 0 only where the whole sequence is empty
  u32 length;       // of the request, in tokens
  u16 split;        // number of this piece within its sequence
  u16 splits;       // pieces of the sequence
  u32 first_slot;   // where splits > 1: slot of the sequence's split 0, and its ticket
  u32 next;         // the block's next piece, 0 after the last
};

DEVICE Piece load_piece(const Piece *pieces, u32 index) {
  const Words4 place = ld_global_nc_v4(pieces + index);
  const Words4 part = ld_global_nc_v4(reinterpret_cast<const Words4 *>(pieces + index) + 1);
  return {place.w[0], place.w[1],          place.w[2],
          place.w[3], part.w[0],           static_cast<u16>(part.w[1] & 0xffff),
          static_cast<u16>(part.w[1] >> 16), part.w[2], part.w[3]};
}

// Calls body(piece) for each piece of block number `block` of the list.
template <typename Body>
DEVICE void for_each_piece(const Piece *pieces, u32 block, Body body) {
  u32 index = block;
  do {
    const Piece piece = load_piece(pieces, index);
    body(piece);
    index = piece.next;
  } while (index != 0);
}
