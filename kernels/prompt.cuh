// Prompts of the requests of a batch, and the rows of them that blocks compute.
#pragma once
#include "ptx.cuh"

// New tokens of a request, which attend to its keys. Where requests have several lengths
// (RAGGED) the rows of all tokens follow one another without gaps, [token][head].
struct alignas(16) Prompt {
  u32 row;  // of its first new token
  u32 new_tokens;
  u32 context;  // keys of a KV head
  u32 reach;    // token r attends to keys before min(context, r + reach)
};

// Rows of one head that a block computes at a time, from a list that the host made.
struct alignas(16) Item {
  u32 head;     // numbered across requests; with RAGGED within its request
  u32 kv_head;  // numbered across requests
  u32 token;    // the first one
  u32 next;     // the block's next item, 0 after the last
  Prompt prompt;

  static DEVICE Item load(const Item *from) {
    const Words4 *const words = reinterpret_cast<const Words4 *>(from);
    const Words4 a = ld_global_nc_v4(words), b = ld_global_nc_v4(words + 1);
    return {a.w[0], a.w[1], a.w[2], a.w[3], {b.w[0], b.w[1], b.w[2], b.w[3]}};
  }
};
