// Attention of the new tokens of each request, one or a few, to its cached
// tokens: o = softmax(q k^T / sqrt(HEAD_DIM)) v for each query head.
//
// q and o are [batch][new token][q head][dim]; k and v are
// [batch][kv head][token][dim], or [page][kv head][token in page][dim], or with
// TOKEN_FIRST [page][token in page][kv head][dim], with pages found through
// [batch][page of the request]. A new token attends to the cached ones up to
// itself (the new ones are cached), in a WINDOW only to the last so many. The
// GROUP query heads that share a key and value head, of all new tokens, are the
// rows of one matrix, padded to 16 or 32, so that the cache is read once
// whatever the group. More rows than a block holds are divided among ROW_TILES
// blocks that read the same tokens at the same time, all but one out of L2.
//
// Blocks divide the cache by a work list (split-KV); the last block of a
// sequence combines what all have left. Within a block a warp owns 16 tokens of
// every tile: it copies them into a ring of its own, waits for nobody, keeps the
// softmax of what it has seen (online, in powers of two), and meets the other
// warps only at the end of a piece. Memory binds: the tensor cores are mostly
// idle, and what counts is bytes in flight, (SLOTS - 1) / SLOTS of the rings.
//
// Launch: ROW_TILES times as many blocks as the work list is made for, THREADS
// threads, SHARED_BYTES of dynamic shared memory.
#include "cached.cuh"
#include "last_block.cuh"
#include "split_kv.cuh"
#include "tile.cuh"

// --- Shape -----------------------------------------------------------------

constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : 1;
// Whether rows of one matrix may see different tokens.
constexpr bool RAGGED_ROWS = NEW_TOKENS > 1 || WINDOWED;

constexpr u32 WARPS = THREADS / WARP;
constexpr u32 STEP = 16;  // tokens of a tile that one warp owns
constexpr u32 TILE = WARPS * STEP;

constexpr u32 ALL_ROWS = GROUP * NEW_TOKENS;
constexpr u32 TILE_ROWS = ceil_div<u32>(ALL_ROWS, ROW_TILES);
constexpr u32 M_TILES = ceil_div<u32>(TILE_ROWS, 16);
// Lane l has rows l / 4 and l / 4 + 8 of a matrix; the latter are all padding
// where there are up to 8.
constexpr u32 HALVES = TILE_ROWS > 8 ? 2 : 1;
constexpr u32 K_STEPS = HEAD_DIM / 16;
constexpr u32 N_TILES = HEAD_DIM / 8;

// Queries and outputs of 32 rows of 128, or 16 of 256, do not fit the registers.
constexpr bool QUERIES_IN_SHARED = M_TILES * K_STEPS > 8;
constexpr u32 QUERY_BYTES = QUERIES_IN_SHARED ? M_TILES * 16 * HEAD_DIM * sizeof(u16) : 0;

constexpr u32 ROW_BYTES = HEAD_DIM * CACHED_BYTES;
constexpr u32 ROW_CHUNKS = ROW_BYTES / CHUNK_BYTES;
constexpr u32 SLOT_CHUNKS = STEP * ROW_CHUNKS;
constexpr u32 SLOT_BYTES = SLOT_CHUNKS * CHUNK_BYTES;
constexpr u32 RING_BYTES = SLOTS * SLOT_BYTES;

// What warps leave for each other lies in their rings; rows are padded so that
// eight of them fall into different banks.
constexpr u32 MERGE_STRIDE = HEAD_DIM + 8;
constexpr u32 VECTORS = HEAD_DIM / 4;  // of four floats, in a row

static_assert(TILE == TILE_TOKENS, "the work list is cut at tiles");
static_assert(HEAD_DIM % 16 == 0, "rows are steps of the tensor cores");
static_assert(M_TILES <= 2, "accumulators fit the registers");
static_assert((TILE_ROWS * (ROW_TILES - 1)) < ALL_ROWS, "every block has rows");
static_assert(SLOTS % 2 == 1 && SLOTS >= 3, "keys fill the slots of keys, values of values");
static_assert(SHARED_BYTES == WARPS * RING_BYTES + QUERY_BYTES, "the host reserves these");
static_assert(16 * MERGE_STRIDE * sizeof(float) <= RING_BYTES, "rings hold a merge");

// --- Parameters ------------------------------------------------------------

struct Params {
  const u8 *k;
  const u8 *v;
  const u32 *page_table;  // null when contiguous
  const float *k_scales;  // [batch][kv head]; null for 16-bit keys and values
  const float *v_scales;
  const u16 *q;
  u16 *o;
  const Piece *work;
  Partials<ALL_ROWS, VECTORS> partials;
  u32 *tickets;  // [slot][ROW_TILES]; zero between launches
  u32 kv_heads;
  u32 request_rows;  // tokens of a request; entries of its page table when paged
  float scale;       // log2(e) / sqrt(HEAD_DIM)
  u32 window;        // tokens that a new token sees, where WINDOWED
};

// --- What a block works on ---------------------------------------------------

// Some rows of a sequence: of one request and one key and value head.
struct Rows {
  u32 first;  // of ALL_ROWS
  u32 count;
  u64 first_q_row;  // where the sequence's row 0 lies in q and in o
  u32 token_stride;  // rows of q from one new token to the next
  float scale;       // of scores, to powers of two

  DEVICE Rows(const Params &p, const Piece &piece, u32 row_tile)
      : first(row_tile * TILE_ROWS),
        count(ROW_TILES == 1 ? ALL_ROWS : min_of(TILE_ROWS, ALL_ROWS - first)),
        first_q_row((u64(piece.request) * NEW_TOKENS * p.kv_heads + piece.head) * GROUP),
        token_stride(p.kv_heads * GROUP),
        scale(p.scale) {
    if (CACHED_BYTES == 1)
      scale *= ld_global_nc_f32(p.k_scales + piece.request * p.kv_heads + piece.head);
  }

  // Where a row lies in q and in o.
  DEVICE u64 q_row(u32 row) const {
    const u32 of_all = first + row;
    return first_q_row + u64(of_all / GROUP) * token_stride + of_all % GROUP;
  }
};

// Tokens that a row attends to.
struct Sight {
  u32 begin;
  u32 end;
};

// New token number `token` of a request.
DEVICE Sight sight_of(const Params &p, u32 length, u32 token) {
  const u32 end = length - (NEW_TOKENS - 1 - token);
  return {WINDOWED && end > p.window ? end - p.window : 0, end};
}

// --- Copies ----------------------------------------------------------------

// A warp's cursor over its tokens of a piece: fetches keys and values of the
// step ahead into the ring.
struct Fetch {
  const u32 *table;  // the request's part of the page table
  u64 first_row;     // contiguous: row of the request's first token
  u32 kv_heads;
  u32 head;
  u32 token;  // first of the step to fetch
  u32 begin;  // first that any row sees
  u32 end;    // of the piece
  u32 page;   // of the step; of this lane's row where pages are smaller than a step

  DEVICE Fetch(const Params &p, const Piece &piece)
      : table(p.page_table + u64(piece.request) * p.request_rows),
        first_row((u64(piece.request) * p.kv_heads + piece.head) * p.request_rows),
        kv_heads(p.kv_heads),
        head(piece.head),
        token(piece.first_token + warp_index() * STEP),
        begin(sight_of(p, piece.length, 0).begin),
        end(piece.first_token + piece.tokens) {
    look_up();
  }

  // Whether the rows of a step lie equally far apart.
  static constexpr bool RUNS = !PAGED || PAGE_TOKENS % STEP == 0;

  // Asks for the page numbers of the step: a copy needs them half a turn later.
  DEVICE void look_up() {
    if (!PAGED) return;
    const u32 row = RUNS ? token : token + lane_index() % STEP;
    page = row < end ? ld_global_nc_u32(table + row / PAGE_TOKENS) : 0;
  }

  // Byte offset of a row of the step in k and in v.
  DEVICE u64 offset(u32 row) const {
    const u32 at = token + row;
    if (!PAGED) return (first_row + at) * ROW_BYTES;
    const u64 page_of_row = RUNS ? page : __shfl_sync(ALL_LANES, page, row);
    const u32 place = at % PAGE_TOKENS;
    return (TOKEN_FIRST ? (page_of_row * PAGE_TOKENS + place) * kv_heads + head
                        : (page_of_row * kv_heads + head) * PAGE_TOKENS + place) *
           ROW_BYTES;
  }

  // Copies the step's rows of a tensor to a slot; rows that nobody sees become
  // zeros, since what lies there may be no number.
  DEVICE void copy(const u8 *tensor, u32 slot) const {
    if (token + STEP <= end && (!WINDOWED || token >= begin)) {
      const u8 *run = RUNS ? tensor + offset(0) : nullptr;
      const u64 stride = TOKEN_FIRST ? kv_heads * ROW_BYTES : ROW_BYTES;
#pragma unroll
      for (u32 i = 0; i < ceil_div(SLOT_CHUNKS, WARP); ++i) {
        const u32 number = i * WARP + lane_index();
        const u32 row = number / ROW_CHUNKS, chunk = number % ROW_CHUNKS;
        const u8 *from = RUNS ? (TOKEN_FIRST ? run + row * stride + chunk * CHUNK_BYTES
                                             : run + number * CHUNK_BYTES)
                              : tensor + offset(row % STEP) + chunk * CHUNK_BYTES;
        if (SLOT_CHUNKS % WARP == 0 || number < SLOT_CHUNKS)
          cp_async_16(slot + swizzled<ROW_CHUNKS>(row, chunk), from);
      }
    } else if (token < end) {
#pragma unroll 1
      for (u32 first = 0; first < SLOT_CHUNKS; first += WARP) {
        const u32 number = first + lane_index();
        const u32 row = number / ROW_CHUNKS, chunk = number % ROW_CHUNKS;
        const u8 *from = tensor + offset(row % STEP) + chunk * CHUNK_BYTES;
        const bool seen = token + row < end && (!WINDOWED || token + row >= begin);
        if (SLOT_CHUNKS % WARP == 0 || number < SLOT_CHUNKS)
          cp_async_16(slot + swizzled<ROW_CHUNKS>(row, chunk), seen ? from : tensor,
                      seen ? CHUNK_BYTES : 0);
      }
    }
    cp_async_commit_group();
  }

  DEVICE void advance() {
    token += TILE;
    look_up();
  }
};

// --- One warp's share of a piece ---------------------------------------------

// The softmax of what a warp has seen, and the values weighted by it. Of each
// row of its matrices a lane has two columns of every 8: see output_column.
struct State {
  Softmax softmax[M_TILES][HALVES];  // sums: of this lane's columns only
  float o[M_TILES][N_TILES][4];
};

// Four registers of the queries as the left operand of mma: rows of tile `m`,
// columns of step `k`. Padding rows are zero.
DEVICE Words4 query_fragment(const u16 *q, const Rows &rows, u32 m, u32 k) {
  Words4 fragment = {};
#pragma unroll
  for (u32 i = 0; i < 4; ++i) {
    const u32 first_row = m * 16 + i % 2 * 8;
    const u32 row = first_row + lane_index() / 4;
    if (first_row < TILE_ROWS && row < rows.count) {
      const u16 *from = q + rows.q_row(row) * HEAD_DIM + query_column(k, i);
      fragment.w[i] = query_operand(ld_global_nc_u32(reinterpret_cast<const u32 *>(from)));
    }
  }
  return fragment;
}

// The queries: in registers where there are enough of these, else in shared
// memory, in the order in which lanes take them.
struct Queries {
  static constexpr u32 FRAGMENTS = M_TILES * K_STEPS;
  Words4 held[QUERIES_IN_SHARED ? 1 : FRAGMENTS];
  Words4 *shared;

  DEVICE void load(const u16 *q, const Rows &rows) {
    if (QUERIES_IN_SHARED) {
      for (u32 i = warp_index(); i < FRAGMENTS; i += WARPS)
        shared[i * WARP + lane_index()] = query_fragment(q, rows, i / K_STEPS, i % K_STEPS);
      __syncthreads();
    } else {
#pragma unroll
      for (u32 i = 0; i < FRAGMENTS; ++i)
        held[i] = query_fragment(q, rows, i / K_STEPS, i % K_STEPS);
    }
  }

  DEVICE Words4 at(u32 m, u32 k) const {
    const u32 i = m * K_STEPS + k;
    return QUERIES_IN_SHARED ? shared[i * WARP + lane_index()] : held[i];
  }
};

// Adds the products of step `k` for 16 tokens: `left` and `right` are operands
// for tokens 0 to 7 and 8 to 15.
DEVICE void score_step(float (&s)[M_TILES][2][4], const Queries &q, u32 k, const u32 (&left)[2],
                       const u32 (&right)[2]) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
    const Words4 rows = q.at(m, k);
    mma_cached(s[m][0], rows.w, left[0], left[1]);
    mma_cached(s[m][1], rows.w, right[0], right[1]);
  }
}

// The same for 8-bit keys, 16 of each token.
DEVICE void score_bytes(float (&s)[M_TILES][2][4], const Queries &q, u32 k, u32 left, u32 right) {
  score_step(s, q, k, {halves_of_bytes<0, 1>(left), halves_of_bytes<2, 3>(left)},
             {halves_of_bytes<0, 1>(right), halves_of_bytes<2, 3>(right)});
}

// s = q k^T for the 16 tokens of a slot: s[m][n] are the scores of tokens 8 n on.
DEVICE void score(float (&s)[M_TILES][2][4], const Queries &q, u32 slot) {
  // Matrices of ldmatrix: tokens 0 to 7 in two chunks side by side, then tokens
  // 8 to 15.
  const u32 row = lane_index() / 16 * 8 + lane_index() % 8, chunk = lane_index() / 8 % 2;
  const u32 from = slot + swizzled<ROW_CHUNKS>(row, chunk);
#pragma unroll
  for (u32 pair = 0; pair < ROW_CHUNKS / 2; ++pair) {
    u32 keys[4];
    ldmatrix_x4(keys, right_by_pairs<ROW_CHUNKS>(from, pair));
    if (CACHED_BYTES == 1) {
      score_bytes(s, q, 2 * pair, keys[0], keys[2]);
      score_bytes(s, q, 2 * pair + 1, keys[1], keys[3]);
    } else {
      score_step(s, q, pair, {keys[0], keys[1]}, {keys[2], keys[3]});
    }
  }
  if (ROW_CHUNKS % 2 == 1) {
    u32 keys[2];
    ldmatrix_x2(keys, slot + swizzled<ROW_CHUNKS>(lane_index() % 16, ROW_CHUNKS - 1));
    score_bytes(s, q, ROW_CHUNKS - 1, keys[0], keys[1]);
  }
}

// Leaves out of the scores of a step that begins at `token` those that the rows
// of this lane do not see.
DEVICE void mask(float (&s)[M_TILES][2][4], const Sight (&sights)[M_TILES][HALVES], u32 token) {
#pragma unroll
  for (u32 n = 0; n < 2; ++n)
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 at = token + n * 8 + lane_index() % 4 * 2 + i;
#pragma unroll
      for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
        for (u32 h = 0; h < HALVES; ++h)
          if (at >= sights[m][h].end || (WINDOWED && at < sights[m][h].begin))
            s[m][n][2 * h + i] = minus_infinity();
    }
}

// Takes the scores of a step into the softmax: turns them into weights, packed
// as the left operand of mma, and rescales what came before. Where all rows see
// the same, at least one token of the step counts and no maximum is left
// infinite.
DEVICE void weigh(State &state, u32 (&weights)[M_TILES][4], const float (&s)[M_TILES][2][4],
                  float scale) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
    weights[m][1] = weights[m][3] = 0;
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      Softmax &softmax = state.softmax[m][h];
      const float *left = &s[m][0][2 * h], *right = &s[m][1][2 * h];
      const float largest = max_of_quad(fmaxf(fmaxf(left[0], left[1]), fmaxf(right[0], right[1])));
      const float max = fmaxf(softmax.max, largest);
      const float shift = RAGGED_ROWS && max == minus_infinity() ? 0 : max * scale;
      const float rescale = ex2_approx(softmax.max * scale - shift);
      const float w[4] = {ex2_approx(left[0] * scale - shift), ex2_approx(left[1] * scale - shift),
                          ex2_approx(right[0] * scale - shift),
                          ex2_approx(right[1] * scale - shift)};
      softmax.max = max;
      softmax.sum = softmax.sum * rescale + ((w[0] + w[1]) + (w[2] + w[3]));
      weights[m][h] = pack_weights(w[0], w[1]);
      weights[m][2 + h] = pack_weights(w[2], w[3]);
#pragma unroll
      for (u32 n = 0; n < N_TILES; ++n) {
        state.o[m][n][2 * h] *= rescale;
        state.o[m][n][2 * h + 1] *= rescale;
      }
    }
  }
}

// Adds the products for n-tile `n`: `values` is the right operand.
DEVICE void accumulate_tile(State &state, const u32 (&weights)[M_TILES][4], u32 n,
                            const u32 (&values)[2]) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
    mma_cached(state.o[m][n], weights[m], values[0], values[1]);
}

// The same for 8-bit values, 16 of each token: those of tokens 0 to 7 and those
// of tokens 8 to 15. A transposed pair of tokens is two columns in four bytes.
DEVICE void accumulate_bytes(State &state, const u32 (&weights)[M_TILES][4], u32 n, u32 upper,
                             u32 lower) {
  accumulate_tile(state, weights, n, {halves_of_bytes<0, 2>(upper), halves_of_bytes<0, 2>(lower)});
  accumulate_tile(state, weights, n + 1,
                  {halves_of_bytes<1, 3>(upper), halves_of_bytes<1, 3>(lower)});
}

// o += weights * v for the 16 tokens of a slot.
DEVICE void accumulate(State &state, const u32 (&weights)[M_TILES][4], u32 slot) {
  // Matrices of ldmatrix: the two halves of the tokens in one chunk, then in
  // the chunk beside.
  const u32 row = lane_index() % 16, chunk = lane_index() / 16;
  const u32 from = slot + swizzled<ROW_CHUNKS>(row, chunk);
#pragma unroll
  for (u32 pair = 0; pair < ROW_CHUNKS / 2; ++pair) {
    u32 values[4];
    ldmatrix_x4_trans(values, right_by_pairs<ROW_CHUNKS>(from, pair));
    if (CACHED_BYTES == 1) {
      accumulate_bytes(state, weights, 4 * pair, values[0], values[1]);
      accumulate_bytes(state, weights, 4 * pair + 2, values[2], values[3]);
    } else {
      accumulate_tile(state, weights, 2 * pair, {values[0], values[1]});
      accumulate_tile(state, weights, 2 * pair + 1, {values[2], values[3]});
    }
  }
  if (ROW_CHUNKS % 2 == 1) {
    u32 values[2];
    ldmatrix_x2_trans(values, slot + swizzled<ROW_CHUNKS>(row, ROW_CHUNKS - 1));
    accumulate_bytes(state, weights, 2 * (ROW_CHUNKS - 1), values[0], values[1]);
  }
}

// Works through this warp's tokens of a piece.
DEVICE void attend(State &state, Queries &q, const Params &p, const Piece &piece, const Rows &rows,
                   u32 ring) {
  // Keys and values in turn take the slots in turn. A slot is filled again as
  // soon as the one after it has arrived: its own was then read by all lanes.
  u32 slot = ring, used = ring + (SLOTS - 1) * SLOT_BYTES;
  const auto next_slot = [&] {
    used = slot;
    slot = slot == ring + (SLOTS - 1) * SLOT_BYTES ? ring : slot + SLOT_BYTES;
  };
  const auto wait = [] {
    cp_async_wait_group<SLOTS - 2>();
    __syncwarp();
  };

  // Fill the ring but for one slot, and read the queries meanwhile.
  Fetch fetch(p, piece);
#pragma unroll 1
  for (u32 to = slot; to != used; to += 2 * SLOT_BYTES) {
    fetch.copy(p.k, to);
    fetch.copy(p.v, to + SLOT_BYTES);
    fetch.advance();
  }
  q.load(p.q, rows);

  // Start from nothing.
  Sight sights[M_TILES][HALVES];
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      state.softmax[m][h] = {minus_infinity(), 0};
      const u32 row = min_of(m * 16 + h * 8 + lane_index() / 4, rows.count - 1);
      sights[m][h] = sight_of(p, piece.length, (rows.first + row) / GROUP);
    }
#pragma unroll
    for (u32 n = 0; n < N_TILES; ++n)
#pragma unroll
      for (u32 i = 0; i < 4; ++i) state.o[m][n][i] = 0;
  }
  // All rows see the tokens of a step in between.
  const u32 seen_from = sight_of(p, piece.length, NEW_TOKENS - 1).begin;
  const u32 seen_to = sight_of(p, piece.length, 0).end;

  for (u32 done = warp_index() * STEP; done < piece.tokens; done += TILE) {
    // Keys
    wait();
    fetch.copy(p.k, used);
    float s[M_TILES][2][4] = {};
    score(s, q, slot);
    next_slot();
    const u32 token = piece.first_token + done;
    if (token + STEP > seen_to || (WINDOWED && token < seen_from)) mask(s, sights, token);

    // Softmax
    u32 weights[M_TILES][4];
    weigh(state, weights, s, rows.scale);

    // Values
    wait();
    fetch.copy(p.v, used);
    fetch.advance();
    accumulate(state, weights, slot);
    next_slot();
  }

  // Each copy has been waited for: the groups still under way are empty.
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
      state.softmax[m][h].sum = sum_of_quad(state.softmax[m][h].sum);
}

// --- From warps to a piece ---------------------------------------------------

// Writes four outputs of a row, divided by the sum of weights; zeros where
// there was no token.
DEVICE void write_output(const Params &p, const Piece &piece, const Rows &rows, u32 row,
                         u32 vector, Floats4 x, float sum) {
  float factor = factor_of(sum);
  if (CACHED_BYTES == 1)
    factor *= ld_global_nc_f32(p.v_scales + piece.request * p.kv_heads + piece.head);
  reinterpret_cast<Words2 *>(p.o)[rows.q_row(row) * VECTORS + vector] = pack_outputs(x, factor);
}

// Merges what the warps have of a piece, 16 rows at a time, and writes outputs,
// or partial ones where the sequence has further pieces.
DEVICE void merge(State &state, const Params &p, const Piece &piece, const Rows &rows, u8 *rings) {
  __shared__ Softmax of_warp[WARPS][16];
  __shared__ Softmax of_row[16];
  const auto values_of = [&](u32 warp) {
    return reinterpret_cast<float *>(rings + warp * RING_BYTES);
  };
  const u32 lane_row = lane_index() / 4;

#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
    const u32 tile_rows = min_of<u32>(16, rows.count - m * 16);
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
      if (lane_index() % 4 == 0) of_warp[warp_index()][h * 8 + lane_row] = state.softmax[m][h];
    __syncthreads();

    // Each warp scales its values to the largest score of all.
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 row = h * 8 + lane_row;
      Softmax all = {minus_infinity(), 0};
#pragma unroll
      for (u32 warp = 0; warp < WARPS; ++warp) all.max = fmaxf(all.max, of_warp[warp][row].max);
#pragma unroll
      for (u32 warp = 0; warp < WARPS; ++warp)
        all.sum += of_warp[warp][row].sum * weight_of(of_warp[warp][row].max, all.max, rows.scale);
      if (warp_index() == 0 && lane_index() % 4 == 0) of_row[row] = all;
      const float weight = weight_of(state.softmax[m][h].max, all.max, rows.scale);
      float *to = values_of(warp_index()) + row * MERGE_STRIDE;
      if (row < tile_rows) {
#pragma unroll
        for (u32 n = 0; n < N_TILES; ++n) {
          to[output_column(n, 0)] = state.o[m][n][2 * h] * weight;
          to[output_column(n, 1)] = state.o[m][n][2 * h + 1] * weight;
        }
      }
    }
    __syncthreads();

    // All threads add up.
    const u64 first_row = u64(piece.first_slot + piece.split) * ALL_ROWS + rows.first + m * 16;
    for (u32 i = threadIdx.x; i < tile_rows * VECTORS; i += THREADS) {
      const u32 row = i / VECTORS, vector = i % VECTORS;
      Floats4 sum = {};
#pragma unroll
      for (u32 warp = 0; warp < WARPS; ++warp) {
        const Floats4 part = *reinterpret_cast<const Floats4 *>(
            values_of(warp) + row * MERGE_STRIDE + vector * 4);
#pragma unroll
        for (u32 j = 0; j < 4; ++j) sum.x[j] += part.x[j];
      }
      if (piece.splits == 1)
        write_output(p, piece, rows, m * 16 + row, vector, sum, of_row[row].sum);
      else
        p.partials.outputs[(first_row + row) * VECTORS + vector] = sum;
    }
    if (piece.splits > 1 && threadIdx.x < tile_rows)
      p.partials.softmaxes[first_row + threadIdx.x] = of_row[threadIdx.x];
    __syncthreads();
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) attention_decode(const __grid_constant__ Params p) {
  // Rows are aligned to their size: the swizzle changes bits of the address.
  extern __shared__ __align__(256) u8 rings[];
  const u32 ring = shared_address(rings) + warp_index() * RING_BYTES;
  const u32 row_tile = blockIdx.x % ROW_TILES;
  for_each_piece(p.work, blockIdx.x / ROW_TILES, [&](const Piece &piece) {
    State state;
    Queries q;
    q.shared = reinterpret_cast<Words4 *>(rings + WARPS * RING_BYTES);
    const Rows rows(p, piece, row_tile);
    attend(state, q, p, piece, rows, ring);
    merge(state, p, piece, rows, rings);
    u32 *ticket = p.tickets + piece.first_slot * ROW_TILES + row_tile;
    if (piece.splits > 1 && is_last_block(ticket, piece.splits))
      combine<THREADS, WARPS * RING_BYTES, TILE_ROWS>(
          p.partials, piece, rows.first, rows.count, rows.scale, rings,
          [&](u32 row, u32 vector, Floats4 x, float sum) {
            write_output(p, piece, rows, row, vector, x, sum);
          });
  });
}
