// Reads a cache of keys and values as decode attention does, through the page
// table where there is one, and only adds up the words: the memory time of
// attention without its arithmetic.
//
// Keys and values are [batch][kv head][token][dim], or pages found through the page
// table [batch][page of the request]: [page][kv head][token in page][dim] or
// [page][token in page][kv head][dim]. A block reads its splits of the work list
// tile by tile. A thread loads UNROLL vectors of 16 bytes of a tile's keys and the
// same of its values before it uses the first, so that enough bytes are in flight
// to cover the latency of DRAM; page numbers are loaded one tile ahead. The kernel
// is memory bound.
//
// Where the heads of a token are contiguous, a tile has HEADS heads of its tokens,
// all if they fit: the rows of one head alone would be scattered runs of 256 bytes,
// each of which opens a row of DRAM, and the block that reads the next head opens
// the same row again. Whole tokens are as contiguous as the page. A thread then
// stays within one head, to whose sum it adds.
//
// Launch: as many blocks as the work list is made for, THREADS threads.
#include "last_block.cuh"
#include "work_list.cuh"

constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : 1;
constexpr u32 VECTOR_BYTES = sizeof(Words4);
// Vectors of one head, of a tile's part of a token, of a tile, of that part of a page.
constexpr u32 ROW_VECTORS = ROW_BYTES / VECTOR_BYTES;
constexpr u32 TOKEN_VECTORS = HEADS * ROW_VECTORS;
constexpr u32 TILE_VECTORS = TILE_TOKENS * TOKEN_VECTORS;
constexpr u32 PAGE_VECTORS = PAGE_TOKENS * TOKEN_VECTORS;

// STRIP neighbouring threads read STRIP neighbouring vectors, and the UNROLL vectors of a
// thread are STRIP apart.
constexpr u32 STRIPS = THREADS / STRIP;
// Whether a tile has UNROLL vectors for every thread.
constexpr bool FULL_TILES = TILE_VECTORS == THREADS * UNROLL;

// Whether the tokens of a tile's part of a page are contiguous.
constexpr bool DENSE = TOKEN_BYTES == TOKEN_VECTORS * VECTOR_BYTES;
constexpr u32 STEP_BYTES =
    DENSE ? STRIP * VECTOR_BYTES : STRIP / TOKEN_VECTORS * TOKEN_BYTES;

// Tiles are whole pages, or parts of one.
constexpr bool WHOLE_PAGES = TILE_TOKENS % PAGE_TOKENS == 0;
constexpr bool WITHIN_PAGE = !WHOLE_PAGES && PAGE_TOKENS % TILE_TOKENS == 0;

// Whether any `count` vectors of a thread, from a multiple of `count` on, lie in one page,
// STEP_BYTES apart.
DEVICE constexpr bool share_page(u32 count) {
  const bool evenly = DENSE || STRIP % TOKEN_VECTORS == 0;
  const bool aligned =
      PAGE_VECTORS % (STRIP * count) == 0 && TILE_VECTORS % (STRIP * count) == 0;
  return evenly && (WITHIN_PAGE || aligned);
}
DEVICE constexpr u32 largest_group() {
  u32 count = UNROLL;
  while (count > 1 && !share_page(count)) count /= 2;
  return count;
}
// Vectors of a thread that one page number serves, and page numbers of a tile.
constexpr u32 GROUP = largest_group();
constexpr u32 GROUPS = UNROLL / GROUP;

// A thread reads at the same offset of a page in every group and tile.
constexpr bool SAME_OFFSET = WHOLE_PAGES && (GROUPS == 1 || STRIP * GROUP % PAGE_VECTORS == 0);
constexpr u32 GROUP_PAGES = GROUPS == 1 ? 0 : STRIP * GROUP / PAGE_VECTORS;

// Contiguous bytes that are read together. L2 prefetches 256 bytes at a time only where
// runs are multiples of that: otherwise part of them would belong to another head.
constexpr u32 RUN_BYTES = DENSE ? PAGE_TOKENS * TOKEN_BYTES : HEADS * ROW_BYTES;
constexpr bool WIDE_FETCH = !PAGED || RUN_BYTES % 256 == 0;

static_assert(THREADS % WARP == 0, "whole warps");
static_assert((UNROLL & (UNROLL - 1)) == 0, "groups are halved");
static_assert(ROW_BYTES % VECTOR_BYTES == 0, "rows are whole vectors");
static_assert(TILE_TOKENS > 0 && TILE_VECTORS <= STRIPS * STRIP * UNROLL, "one pass reads a tile");
static_assert(HEADS == 1 || STRIP % TOKEN_VECTORS == 0, "a thread stays within a head");
static_assert(HEADS <= THREADS, "one thread for each sum");
static_assert(PAGED || (DENSE && HEADS == 1), "without pages heads come before tokens");

struct Params {
  const u8 *k;
  const u8 *v;
  const u32 *page_table;  // null where the cache is contiguous
  u32 *checksums;         // [batch][kv head]: wrapping sum of all 32-bit words
  const Split *work;      // whose `head` counts groups of HEADS
  u32 *partials;          // [partial result of the work list][HEADS]
  u32 *tickets;           // one word per partial result; zero between launches
  u32 kv_heads;
  u32 request_rows;  // tokens of a request; entries of its page table when paged
};

// Index of this thread's vector i in a tile; beyond the tile for threads outside of all
// strips.
DEVICE u32 vector_of(u32 i) {
  return threadIdx.x / STRIP * (STRIP * UNROLL) + i * STRIP + threadIdx.x % STRIP;
}

// Offset of a vector in the heads' part of a page, in bytes.
DEVICE u32 bytes_of(u32 vector) {
  if (DENSE) return vector * VECTOR_BYTES;
  return vector / TOKEN_VECTORS * TOKEN_BYTES + vector % TOKEN_VECTORS * VECTOR_BYTES;
}

// This thread's position: one request, and one head or group of heads.
struct Reader {
  // The part of the address that does not change from tile to tile: in page 0, or, where
  // the cache is contiguous, in the tile at `token`.
  const u8 *k;
  const u8 *v;
  const u32 *table;  // the request's part of the page table, or the thread's part of that
  u32 page_bytes;    // of all heads
  u32 token;
  u32 pages[GROUPS];

  DEVICE Reader(const Params &p, const Split &split) : token(split.first_token), pages() {
    u64 first;
    if (PAGED) {
      const u32 first_bytes = HEADS > 1 || !DENSE ? HEADS * ROW_BYTES : PAGE_TOKENS * ROW_BYTES;
      first = u64(split.head) * first_bytes;
      if (SAME_OFFSET) first += bytes_of(vector_of(0) % PAGE_VECTORS);
      if (WITHIN_PAGE) first += bytes_of(vector_of(0));
    } else {
      const u64 row = (u64(split.request) * p.kv_heads + split.head) * p.request_rows + token;
      first = row * ROW_BYTES + vector_of(0) * VECTOR_BYTES;
    }
    k = p.k + first;
    v = p.v + first;
    table = p.page_table + u64(split.request) * p.request_rows;
    if (SAME_OFFSET) table += token / PAGE_TOKENS + vector_of(0) / PAGE_VECTORS;
    page_bytes = p.kv_heads * (PAGE_TOKENS * ROW_BYTES);
  }

  // Loads the page numbers of the first `vectors` vectors of the tile `ahead` tokens from
  // here.
  DEVICE void look_up(u32 ahead, u32 vectors) {
#pragma unroll
    for (u32 group = 0; group < GROUPS; ++group) {
      const u32 vector = vector_of(group * GROUP);
      if (!PAGED || vector >= vectors) continue;
      u32 entry = (token + ahead + vector / TOKEN_VECTORS) / PAGE_TOKENS;
      if (WITHIN_PAGE) entry = (token + ahead) / PAGE_TOKENS;
      if (SAME_OFFSET) entry = ahead / PAGE_TOKENS + group * GROUP_PAGES;
      pages[group] = ld_global_nc_u32(table + entry);
    }
  }

  // Offset of the first vector of a group from k, or from v, in bytes.
  DEVICE u64 offset(u32 group) const {
    if (!PAGED) return group * (GROUP * STEP_BYTES);
    u32 place = 0;
    if (WITHIN_PAGE)
      place = token % PAGE_TOKENS * TOKEN_BYTES + bytes_of(vector_of(group * GROUP)) -
              bytes_of(vector_of(0));
    else if (!SAME_OFFSET)
      place = bytes_of((token % PAGE_TOKENS * TOKEN_VECTORS + vector_of(group * GROUP)) %
                       PAGE_VECTORS);
    return u64(pages[group]) * page_bytes + place;
  }

  DEVICE void advance() {
    token += TILE_TOKENS;
    if (SAME_OFFSET) table += TILE_TOKENS / PAGE_TOKENS;
    if (!PAGED) {
      k += TILE_TOKENS * ROW_BYTES;
      v += TILE_TOKENS * ROW_BYTES;
    }
  }
};

DEVICE Words4 load_vector(const u8 *at) {
  return WIDE_FETCH ? ld_global_nc_v4(at) : ld_global_nc_v4_only(at);
}

// Sum of the first `vectors` of the keys and values of the reader's tile. Advances to the
// next tile, of which `next_vectors` are to be read.
template <bool whole>
DEVICE u32 tile_sum(Reader &reader, u32 vectors, u32 next_vectors) {
  Words4 k[UNROLL] = {}, v[UNROLL] = {};
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i) {
    if (!whole && vector_of(i) >= vectors) continue;
    const u64 offset = reader.offset(i / GROUP);
    const u32 step = i % GROUP * STEP_BYTES;
    k[i] = load_vector(reader.k + offset + step);
    v[i] = load_vector(reader.v + offset + step);
  }
  reader.look_up(TILE_TOKENS, next_vectors);
  reader.advance();
  u32 sum = 0;
#pragma unroll
  for (u32 i = 0; i < UNROLL; ++i)
#pragma unroll
    for (u32 j = 0; j < 4; ++j) sum += k[i].w[j] + v[i].w[j];
  return sum;
}

// Sum of the words of a split that this thread reads.
DEVICE u32 split_sum(const Params &p, const Split &split) {
  Reader reader(p, split);
  u32 left = split.tokens;
  reader.look_up(0, min_of(left, u32(TILE_TOKENS)) * TOKEN_VECTORS);
  u32 sum = 0;
  // Whole tiles that are followed by a whole tile. Unrolled, the loop would need more
  // registers than there are.
#pragma unroll 1
  for (; FULL_TILES && left >= 2 * TILE_TOKENS; left -= TILE_TOKENS)
    sum += tile_sum<true>(reader, TILE_VECTORS, TILE_VECTORS);
  while (left > 0) {
    const u32 tokens = min_of(left, u32(TILE_TOKENS));
    left -= tokens;
    const u32 next = min_of(left, u32(TILE_TOKENS));
    sum += tile_sum<false>(reader, tokens * TOKEN_VECTORS, next * TOKEN_VECTORS);
  }
  return sum;
}

// Adds up the sums of all threads by head; thread h gets the sum of head h.
DEVICE u32 sum_of_head(u32 sum) {
  if (HEADS == 1) return block_sum<THREADS>(sum);
  __shared__ u32 of_thread[THREADS];
  __shared__ u32 of_head[HEADS];
  of_thread[threadIdx.x] = sum;
  __syncthreads();
  for (u32 head = warp_index(); head < HEADS; head += THREADS / WARP) {
    u32 total = 0;
    for (u32 i = lane_index(); i < STRIPS * STRIP / HEADS; i += WARP)
      total += of_thread[i / ROW_VECTORS * TOKEN_VECTORS + head * ROW_VECTORS + i % ROW_VECTORS];
    total = __reduce_add_sync(ALL_LANES, total);
    if (lane_index() == 0) of_head[head] = total;
  }
  __syncthreads();
  return threadIdx.x < HEADS ? of_head[threadIdx.x] : 0;
}

KERNEL(THREADS, BLOCKS_PER_SM) kv_read(const __grid_constant__ Params p) {
  for_each_split(p.work, blockIdx.x, [&](const Split &split) {
    const u32 sum = sum_of_head(split_sum(p, split));
    u32 *checksums = p.checksums + u64(split.request) * p.kv_heads + split.head * HEADS;
    if (split.count == 1) {
      if (threadIdx.x < HEADS) checksums[threadIdx.x] = sum;
      return;
    }

    // Several blocks share the sequence.
    u32 *partials = p.partials + u64(split.first_partial) * HEADS;
    if (threadIdx.x < HEADS) partials[split.index * HEADS + threadIdx.x] = sum;
    if (!is_last_block(p.tickets + split.first_partial, split.count)) return;
    for (u32 head = warp_index(); head < HEADS; head += THREADS / WARP) {
      u32 total = 0;
      for (u32 i = lane_index(); i < split.count; i += WARP)
        total += partials[i * HEADS + head];
      total = __reduce_add_sync(ALL_LANES, total);
      if (lane_index() == 0) checksums[head] = total;
    }
  });
}
