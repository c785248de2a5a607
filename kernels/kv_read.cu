// Reads a cache of keys and values as decode attention does, through the page
// table where there is one, and only adds up the words: the memory time of
// attention without its arithmetic.
//
// Keys and values are [batch][kv head][token][dim], or
// [page][kv head][token in page][dim] with pages found through
// [batch][page of the request]. A block works through its pieces of the work
// list tile by tile. A thread takes UNROLL vectors of 16 bytes of a tile's keys
// and the same of its values before it looks at the first, so that enough bytes
// are in flight to cover the latency of DRAM; page numbers are fetched one tile
// ahead. Memory binds.
//
// Launch: as many blocks as the work list is made for, THREADS threads.
#include "last_block.cuh"
#include "work_list.cuh"

constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : 1;
constexpr u32 ROW_VECTORS = ROW_BYTES / sizeof(Words4);
constexpr u32 TILE_VECTORS = TILE_TOKENS * ROW_VECTORS;

static_assert(THREADS % WARP == 0, "whole warps");
static_assert(ROW_BYTES % sizeof(Words4) == 0, "rows are whole vectors");
static_assert(TILE_TOKENS > 0 && TILE_VECTORS <= THREADS * UNROLL, "one pass takes a tile");

struct Params {
  const Words4 *k;
  const Words4 *v;
  const u32 *page_table;  // null when contiguous
  u32 *checksums;         // [batch][kv head]: wrapping sum of all 32-bit words
  const Piece *work;
  u32 *partials;  // one word per slot of the work list
  u32 *tickets;   // one word per slot; zero between launches
  u32 kv_heads;
  u32 request_rows;  // tokens of a request; entries of its page table when paged
};

// The vectors of a tile that a thread takes are THREADS apart, from its own
// number on.
DEVICE u32 vector_of(u32 i) { return threadIdx.x + i * THREADS; }

// One request and head.
struct Sequence {
  const u32 *table;  // the request's part of the page table
  u64 first_row;     // contiguous: row of its first token
  u32 kv_heads;
  u32 head;

  // The page number of vector i of the tile at `token`.
  DEVICE u32 page(u32 token, u32 i) const {
    return ld_global_nc_u32(table + (token + vector_of(i) / ROW_VECTORS) / PAGE_TOKENS);
  }

  // Where that vector lies in k and in v, counted in vectors.
  DEVICE u64 place(u32 page, u32 token, u32 i) const {
    if (!PAGED) return (first_row + token) * ROW_VECTORS + threadIdx.x + u64(i * THREADS);
    const u32 row_of_page = (token + vector_of(i) / ROW_VECTORS) % PAGE_TOKENS;
    const u64 row = (u64(page) * kv_heads + head) * PAGE_TOKENS + row_of_page;
    return row * ROW_VECTORS + vector_of(i) % ROW_VECTORS;
  }
};

// Sum of the first `vectors` of the keys and values of the tile at `token`,
// whose pages are given; replaces them by those of the next tile, of which
// `next_vectors` are read.
template <bool whole>
DEVICE u32 tile_sum(const Params &p, const Sequence &sequence, u32 token, u32 vectors,
                    u32 next_vectors, u32 (&pages)[UNROLL]) {
  Words4 k[UNROLL] = {}, v[UNROLL] = {};
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i) {
    if (!whole && vector_of(i) >= vectors) continue;
    const u64 at = sequence.place(pages[i], token, i);
    k[i] = ld_global_nc_v4(p.k + at);
    v[i] = ld_global_nc_v4(p.v + at);
  }
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i)
    if (PAGED && vector_of(i) < next_vectors)
      pages[i] = sequence.page(token + TILE_TOKENS, i);
  u32 sum = 0;
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i)
#pragma unroll
    for (u32 j = 0; j < 4; ++j) sum += k[i].w[j] + v[i].w[j];
  return sum;
}

// Sum of the words of a piece that this thread takes.
DEVICE u32 piece_sum(const Params &p, const Piece &piece) {
  const Sequence sequence = {
      p.page_table + u64(piece.request) * p.request_rows,
      (u64(piece.request) * p.kv_heads + piece.head) * p.request_rows,
      p.kv_heads,
      piece.head,
  };
  const auto vectors_at = [&](u32 done) {
    return done < piece.tokens ? min_of(piece.tokens - done, u32(TILE_TOKENS)) * ROW_VECTORS : 0;
  };

  u32 pages[UNROLL] = {};
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i)
    if (PAGED && vector_of(i) < vectors_at(0)) pages[i] = sequence.page(piece.first_token, i);

  u32 sum = 0;
  for (u32 done = 0; done < piece.tokens; done += TILE_TOKENS) {
    const u32 token = piece.first_token + done;
    const u32 vectors = vectors_at(done), next = vectors_at(done + TILE_TOKENS);
    if (vectors == THREADS * UNROLL)
      sum += tile_sum<true>(p, sequence, token, vectors, next, pages);
    else
      sum += tile_sum<false>(p, sequence, token, vectors, next, pages);
  }
  return sum;
}

KERNEL(THREADS, BLOCKS_PER_SM) kv_read(const __grid_constant__ Params p) {
  for_each_piece(p.work, blockIdx.x, [&](const Piece &piece) {
    const u32 sum = block_sum<THREADS>(piece_sum(p, piece));
    u32 *checksum = p.checksums + u64(piece.request) * p.kv_heads + piece.head;
    if (piece.splits == 1) {
      if (threadIdx.x == 0) *checksum = sum;
      return;
    }

    // Several blocks share the sequence.
    u32 *partials = p.partials + piece.first_slot;
    if (threadIdx.x == 0) partials[piece.split] = sum;
    if (!is_last_block(p.tickets + piece.first_slot, piece.splits)) return;
    u32 total = 0;
    for (u32 split = threadIdx.x; split < piece.splits; split += THREADS) total += partials[split];
    total = block_sum<THREADS>(total);
    if (threadIdx.x == 0) *checksum = total;
  });
}
