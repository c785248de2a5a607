// A work list made by the host: which tokens of which sequences each block
// takes, so that all blocks run in one wave and finish together. A sequence is one
// request and one KV head; src/kernel/split.rs makes the list.
#pragma once
#include "ptx.cuh"

// One block's share of one sequence. Split number b of the list is the first of block b.
struct alignas(16) Split {
  u32 request;
  u32 head;           // KV head
  u32 first_token;    // a multiple of the tile
  u32 tokens;         // 0 where the whole sequence is empty, or shorter than its cluster
  u32 length;         // of the request, in tokens
  u16 index;          // of this split within its sequence
  u16 count;          // splits of the sequence
  u32 first_partial;  // where count > 1: index of split 0's partial results and of its ticket
  u32 next;           // the block's next split, 0 after the last
};

DEVICE Split load_split(const Split *splits, u32 index) {
  const Words4 place = ld_global_nc_v4(splits + index);
  const Words4 rest = ld_global_nc_v4(reinterpret_cast<const Words4 *>(splits + index) + 1);
  const u16 split = rest.w[1] & 0xffff, splits_of_sequence = rest.w[1] >> 16;
  return {place.w[0], place.w[1], place.w[2], place.w[3], rest.w[0], split,
          splits_of_sequence, rest.w[2], rest.w[3]};
}

// Calls body(split) for each split of a block whose first is `split`.
template <typename Body>
DEVICE void for_each_split(const Split *splits, Split split, Body body) {
  while (true) {
    body(split);
    if (split.next == 0) break;
    split = load_split(splits, split.next);
  }
}

// The same for block number `block` of the list.
template <typename Body>
DEVICE void for_each_split(const Split *splits, u32 block, Body body) {
  u32 index = block;
  do {
    const Split split = load_split(splits, index);
    body(split);
    index = split.next;
  } while (index != 0);
}
