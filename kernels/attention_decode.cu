// Attention of the new tokens of each request, one or a few, to its cached
// tokens: o = softmax(q k^T / sqrt(HEAD_DIM)) v for each query head.
//
// q and o are [batch][new token][q head][dim]; k and v are
// [batch][kv head][token][dim], or [page][kv head][token in page][dim], or with
// TOKEN_FIRST [page][token in page][kv head][dim], where [batch][page of the
// request] is the page table. A new token attends to the cached tokens up to
// itself (new tokens are in the cache), with a sliding window only to the last
// `window` of them. The GROUP query heads that share a KV head, of all new tokens,
// are the rows of one matrix, padded to 16 or 32, so that the cache is read once
// for any group size. More rows than a block holds are divided among ROW_TILES
// blocks that read the same tokens at the same time, all but one from L2.
//
// Blocks divide the cache by a work list (split-KV); the last block of a
// sequence combines the partial results of all, or with CLUSTER > 1 the splits of a
// sequence are the blocks of clusters, which combine them together. Within a block a warp owns 16
// tokens of every tile: it copies them into a ring of its own, does not wait for
// other warps, keeps an online softmax (in powers of two) of its tokens, and merges
// with the other warps only at the end of a split. The kernel is memory bound: the
// tensor cores are mostly idle, and what matters is the bytes in flight,
// (STAGES - 1) / STAGES of the rings.
//
// Launch: ROW_TILES times as many blocks as the work list is made for, in clusters of
// CLUSTER, THREADS threads, SHARED_BYTES of dynamic shared memory.
#include "cached.cuh"
#include "last_block.cuh"
#include "split_kv.cuh"
#include "tile.cuh"

// --- Shape -----------------------------------------------------------------

constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : 1;
// Whether rows of one matrix may attend to different tokens.
constexpr bool RAGGED_ROWS = NEW_TOKENS > 1 || WINDOWED;

constexpr u32 WARPS = THREADS / WARP;
constexpr u32 STEP = 16;  // tokens of a tile that one warp owns
constexpr u32 TILE = WARPS * STEP;

constexpr u32 ALL_ROWS = GROUP * NEW_TOKENS;
constexpr u32 TILE_ROWS = ceil_div<u32>(ALL_ROWS, ROW_TILES);
constexpr u32 M_TILES = ceil_div<u32>(TILE_ROWS, 16);
// Lane l has rows l / 4 and l / 4 + 8 of a matrix; with up to 8 rows the latter are
// all padding.
constexpr u32 HALVES = TILE_ROWS > 8 ? 2 : 1;
constexpr u32 K_STEPS = HEAD_DIM / 16;
constexpr u32 N_TILES = HEAD_DIM / 8;

// Queries and outputs of 32 rows of 128, or of 16 rows of 256, do not fit in registers.
constexpr bool QUERIES_IN_SHARED = M_TILES * K_STEPS > 8;
constexpr u32 QUERY_BYTES = QUERIES_IN_SHARED ? M_TILES * 16 * HEAD_DIM * sizeof(u16) : 0;

constexpr u32 ROW_BYTES = HEAD_DIM * CACHED_BYTES;
constexpr u32 ROW_CHUNKS = ROW_BYTES / CHUNK_BYTES;
constexpr u32 STAGE_CHUNKS = STEP * ROW_CHUNKS;
constexpr u32 STAGE_BYTES = STAGE_CHUNKS * CHUNK_BYTES;
constexpr u32 RING_BYTES = STAGES * STAGE_BYTES;

// Warps exchange their results, of 16 rows at a time, where the rings were; rows are padded so
// that eight of them fall into different banks.
constexpr u32 MERGE_STRIDE = HEAD_DIM + 8;
constexpr u32 MERGE_BYTES = 16 * MERGE_STRIDE * sizeof(float);
constexpr u32 VECTORS = HEAD_DIM / 4;  // of four floats, in a row
// Behind them blocks of a cluster receive each other's.
constexpr u32 ROOM_AT = WARPS * MERGE_BYTES;
constexpr u32 MOST_MERGED = min_of<u32>(16, TILE_ROWS);
typedef Room<CLUSTER, MOST_MERGED, VECTORS> RoomOfCluster;

static_assert(TILE == TILE_TOKENS, "the work list is cut at tiles");
static_assert(HEAD_DIM % 16 == 0, "rows are steps of the tensor cores");
static_assert(M_TILES <= 2, "accumulators fit the registers");
static_assert((TILE_ROWS * (ROW_TILES - 1)) < ALL_ROWS, "every block has rows");
static_assert(STAGES % 2 == 1 && STAGES >= 3, "keys and values take turns in each stage");
static_assert(SHARED_BYTES >= WARPS * RING_BYTES + QUERY_BYTES, "the host reserves these");
static_assert(SHARED_BYTES >= ROOM_AT + (CLUSTER > 1 ? sizeof(RoomOfCluster) : 0),
              "and what blocks of a cluster give each other");
static_assert(CLUSTER <= 16, "blocks of a cluster");

// --- Parameters ------------------------------------------------------------

struct Params {
  const u8 *k;
  const u8 *v;
  const u32 *page_table;  // null where the cache is contiguous
  const float *k_scales;  // [batch][kv head]; null for 16-bit keys and values
  const float *v_scales;
  const u16 *q;
  u16 *o;
  const Split *work;
  Partials<ALL_ROWS, VECTORS> partials;
  u32 *tickets;  // [partial][ROW_TILES][CLUSTER]; zero between launches
  u32 kv_heads;
  u32 request_rows;  // tokens of a request; entries of its page table when paged
  float scale;       // softmax scale, for powers of two: log2(e) / sqrt(HEAD_DIM)
  u32 window;        // where WINDOWED: tokens that a new token attends to
};

// --- Rows and the tokens they attend to ----------------------------------------

// The rows of a sequence (one request and one KV head) that a block works on.
struct Rows {
  u32 first;  // of ALL_ROWS
  u32 count;
  u64 first_q_row;   // row of q and o that is row 0 of the sequence
  u32 token_stride;  // rows of q from one new token to the next
  // Scales of 8-bit keys and values. They are loaded with the first pages, and nothing needs
  // them before the first keys have arrived.
  float key_scale;
  float value_scale;

  DEVICE Rows(const Params &p, const Split &split, u32 row_tile)
      : first(row_tile * TILE_ROWS),
        count(ROW_TILES == 1 ? ALL_ROWS : min_of(TILE_ROWS, ALL_ROWS - first)),
        first_q_row((u64(split.request) * NEW_TOKENS * p.kv_heads + split.head) * GROUP),
        token_stride(p.kv_heads * GROUP),
        key_scale(1),
        value_scale(1) {
    if (CACHED_BYTES == 1) {
      const u32 sequence = split.request * p.kv_heads + split.head;
      key_scale = ld_global_nc_f32(p.k_scales + sequence);
      value_scale = ld_global_nc_f32(p.v_scales + sequence);
    }
  }

  // The scale of scores, for powers of two.
  DEVICE float scale(const Params &p) const { return p.scale * key_scale; }

  // The row of q and o that is row `row` of the block.
  DEVICE u64 q_row(u32 row) const {
    const u32 of_all = first + row;
    return first_q_row + u64(of_all / GROUP) * token_stride + of_all % GROUP;
  }
};

// The tokens that a row attends to.
struct KeyRange {
  u32 begin;
  u32 end;
};

// The cached tokens that new token number `token` of a request attends to.
DEVICE KeyRange visible_keys(const Params &p, u32 length, u32 token) {
  const u32 end = length - (NEW_TOKENS - 1 - token);
  return {WINDOWED && end > p.window ? end - p.window : 0, end};
}

// --- Copies ----------------------------------------------------------------

// A warp's cursor over its tokens of a split: copies keys and values of the step
// ahead into the ring.
struct Loader {
  // Whether the rows of a step are evenly spaced in memory.
  static constexpr bool RUNS = !PAGED || PAGE_TOKENS % STEP == 0;
  // Lanes that hold the page numbers of a step, and steps whose numbers a warp holds.
  static constexpr u32 ENTRIES = RUNS ? 1 : STEP;
  static constexpr u32 TURNS = WARP / ENTRIES;

  const u32 *table;  // the request's part of the page table
  u64 first_row;     // contiguous: row of the request's first token
  u32 kv_heads;
  u32 head;
  u32 token;       // first of the step to copy
  u32 begin;       // first that any row attends to
  u32 end;         // of the split
  u32 turn;        // of TURNS
  u32 pages;       // page number of this lane's row
  u32 next_pages;  // the same for the next TURNS steps

  DEVICE Loader(const Params &p, const Split &split)
      : table(p.page_table + u64(split.request) * p.request_rows),
        first_row((u64(split.request) * p.kv_heads + split.head) * p.request_rows),
        kv_heads(p.kv_heads),
        head(split.head),
        token(split.first_token + warp_index() * STEP),
        begin(visible_keys(p, split.length, 0).begin),
        end(split.first_token + split.tokens),
        turn(0),
        pages(look_up(token)),
        next_pages(look_up(token + TURNS * TILE)) {}

  // Loads a page number for each lane, of TURNS steps from `first` on. Numbers are loaded a
  // whole round before copies need them.
  DEVICE u32 look_up(u32 first) const {
    const u32 row = first + lane_index() / ENTRIES * TILE + lane_index() % ENTRIES;
    return PAGED && row < end ? ld_global_nc_u32(table + row / PAGE_TOKENS) : 0;
  }

  // Byte offset of a row of the step in k and in v.
  DEVICE u64 offset(u32 row) const {
    const u32 at = token + row;
    if (!PAGED) return (first_row + at) * ROW_BYTES;
    const u64 page_of_row =
        __shfl_sync(ALL_LANES, pages, turn * ENTRIES + (RUNS ? 0 : row));
    const u32 place = at % PAGE_TOKENS;
    return (TOKEN_FIRST ? (page_of_row * PAGE_TOKENS + place) * kv_heads + head
                        : (page_of_row * kv_heads + head) * PAGE_TOKENS + place) *
           ROW_BYTES;
  }

  // Copies the step's rows of a tensor to a stage. Rows that no query attends to are
  // filled with zeros, since memory there may hold NaN.
  DEVICE void copy(const u8 *tensor, u32 stage) const {
    if (token + STEP <= end && (!WINDOWED || token >= begin)) {
      const u8 *run = RUNS ? tensor + offset(0) : nullptr;
      const u64 stride = TOKEN_FIRST ? kv_heads * ROW_BYTES : ROW_BYTES;
#pragma unroll
      for (u32 i = 0; i < ceil_div(STAGE_CHUNKS, WARP); ++i) {
        const u32 number = i * WARP + lane_index();
        const u32 row = number / ROW_CHUNKS, chunk = number % ROW_CHUNKS;
        const u8 *from = RUNS ? (TOKEN_FIRST ? run + row * stride + chunk * CHUNK_BYTES
                                             : run + number * CHUNK_BYTES)
                              : tensor + offset(row % STEP) + chunk * CHUNK_BYTES;
        if (STAGE_CHUNKS % WARP == 0 || number < STAGE_CHUNKS)
          cp_async_16(stage + swizzled<ROW_CHUNKS>(row, chunk), from);
      }
    } else if (token < end) {
#pragma unroll 1
      for (u32 first = 0; first < STAGE_CHUNKS; first += WARP) {
        const u32 number = first + lane_index();
        const u32 row = number / ROW_CHUNKS, chunk = number % ROW_CHUNKS;
        const u8 *from = tensor + offset(row % STEP) + chunk * CHUNK_BYTES;
        const bool attended = token + row < end && (!WINDOWED || token + row >= begin);
        if (STAGE_CHUNKS % WARP == 0 || number < STAGE_CHUNKS)
          cp_async_16(stage + swizzled<ROW_CHUNKS>(row, chunk), attended ? from : tensor,
                      attended ? CHUNK_BYTES : 0);
      }
    }
    cp_async_commit_group();
  }

  DEVICE void advance() {
    token += TILE;
    if (PAGED && ++turn == TURNS) {
      turn = 0;
      pages = next_pages;
      next_pages = look_up(token + TURNS * TILE);
    }
  }
};

// --- Attention of one warp to its tokens of a split -------------------------------

// The softmax of a warp's tokens so far, and the values weighted by it. Of each
// row of its matrices a lane has two columns of every 8: see output_column.
struct State {
  Softmax softmax[M_TILES][HALVES];  // sums over this lane's columns only
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

// The queries: in registers where these suffice, else in shared memory, in the order
// in which lanes load them.
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

// Adds the products of step `k` for 16 tokens: `left` and `right` are the operands of
// tokens 0 to 7 and 8 to 15.
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

// s = q k^T for the 16 tokens of a stage: s[m][n] are the scores of the 8 tokens from
// 8 n on.
DEVICE void score(float (&s)[M_TILES][2][4], const Queries &q, u32 stage) {
  // Matrices of ldmatrix: tokens 0 to 7 in two chunks side by side, then tokens
  // 8 to 15.
  const u32 row = lane_index() / 16 * 8 + lane_index() % 8, chunk = lane_index() / 8 % 2;
  const u32 from = stage + swizzled<ROW_CHUNKS>(row, chunk);
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
    ldmatrix_x2(keys, stage + swizzled<ROW_CHUNKS>(lane_index() % 16, ROW_CHUNKS - 1));
    score_bytes(s, q, ROW_CHUNKS - 1, keys[0], keys[1]);
  }
}

// Masks the scores of a step that begins at `token`: those of tokens that the rows of
// this lane do not attend to become minus infinity.
DEVICE void mask(float (&s)[M_TILES][2][4], const KeyRange (&visible)[M_TILES][HALVES], u32 token) {
#pragma unroll
  for (u32 n = 0; n < 2; ++n)
#pragma unroll
    for (u32 i = 0; i < 2; ++i) {
      const u32 at = token + n * 8 + lane_index() % 4 * 2 + i;
#pragma unroll
      for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
        for (u32 h = 0; h < HALVES; ++h)
          if (at >= visible[m][h].end || (WINDOWED && at < visible[m][h].begin))
            s[m][n][2 * h + i] = minus_infinity();
    }
}

// Adds the scores of a step to the online softmax: turns them into attention weights,
// packed as the left operand of mma, and rescales the outputs so far. Where all rows
// attend to the same tokens, at least one token of the step is not masked and the
// maximum is finite.
DEVICE void online_softmax(State &state, u32 (&weights)[M_TILES][4],
                           const float (&s)[M_TILES][2][4], float scale) {
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

// The same for 8-bit values, 16 of each token: `upper` holds tokens 0 to 7, `lower`
// tokens 8 to 15. A transposed pair of tokens is two columns in four bytes.
DEVICE void accumulate_bytes(State &state, const u32 (&weights)[M_TILES][4], u32 n, u32 upper,
                             u32 lower) {
  accumulate_tile(state, weights, n, {halves_of_bytes<0, 2>(upper), halves_of_bytes<0, 2>(lower)});
  accumulate_tile(state, weights, n + 1,
                  {halves_of_bytes<1, 3>(upper), halves_of_bytes<1, 3>(lower)});
}

// o += weights * v for the 16 tokens of a stage.
DEVICE void accumulate(State &state, const u32 (&weights)[M_TILES][4], u32 stage) {
  // Matrices of ldmatrix: the two halves of the tokens in one chunk, then in the next
  // chunk.
  const u32 row = lane_index() % 16, chunk = lane_index() / 16;
  const u32 from = stage + swizzled<ROW_CHUNKS>(row, chunk);
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
    ldmatrix_x2_trans(values, stage + swizzled<ROW_CHUNKS>(row, ROW_CHUNKS - 1));
    accumulate_bytes(state, weights, 2 * (ROW_CHUNKS - 1), values[0], values[1]);
  }
}

// Attends to this warp's tokens of a split.
DEVICE void attend(State &state, Queries &q, const Params &p, const Split &split, const Rows &rows,
                   Loader loader, u32 ring) {
  // Keys and values alternate, and take the stages in turn. A stage is filled again as
  // soon as the data of the next stage have arrived: all lanes have then read it.
  u32 stage = ring, used = ring + (STAGES - 1) * STAGE_BYTES;
  const auto next_stage = [&] {
    used = stage;
    stage = stage == ring + (STAGES - 1) * STAGE_BYTES ? ring : stage + STAGE_BYTES;
  };
  const auto wait = [] {
    cp_async_wait_group<STAGES - 2>();
    __syncwarp();
  };

  // Fill all stages but one, and load the queries meanwhile.
#pragma unroll 1
  for (u32 to = stage; to != used; to += 2 * STAGE_BYTES) {
    loader.copy(p.k, to);
    loader.copy(p.v, to + STAGE_BYTES);
    loader.advance();
  }
  q.load(p.q, rows);

  // Initial state.
  KeyRange visible[M_TILES][HALVES];
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      state.softmax[m][h] = {minus_infinity(), 0};
      const u32 row = min_of(m * 16 + h * 8 + lane_index() / 4, rows.count - 1);
      visible[m][h] = visible_keys(p, split.length, (rows.first + row) / GROUP);
    }
#pragma unroll
    for (u32 n = 0; n < N_TILES; ++n)
#pragma unroll
      for (u32 i = 0; i < 4; ++i) state.o[m][n][i] = 0;
  }
  // Steps between these two need no mask: all rows attend to all of their tokens.
  const u32 all_from = visible_keys(p, split.length, NEW_TOKENS - 1).begin;
  const u32 all_to = visible_keys(p, split.length, 0).end;

  const float scale = rows.scale(p);
  for (u32 done = warp_index() * STEP; done < split.tokens; done += TILE) {
    // Keys
    wait();
    loader.copy(p.k, used);
    float s[M_TILES][2][4] = {};
    score(s, q, stage);
    next_stage();
    const u32 token = split.first_token + done;
    if (token + STEP > all_to || (WINDOWED && token < all_from)) mask(s, visible, token);

    // Softmax
    u32 weights[M_TILES][4];
    online_softmax(state, weights, s, scale);

    // Values
    wait();
    loader.copy(p.v, used);
    loader.advance();
    accumulate(state, weights, stage);
    next_stage();
  }

  // All copies have been waited for: the groups still pending are empty.
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
      state.softmax[m][h].sum = sum_of_quad(state.softmax[m][h].sum);
}

// --- Merging the warps of a block -------------------------------------------------

// Writes four outputs of a row, divided by the sum of the attention weights; zeros
// where there was no token.
DEVICE void write_output(const Params &p, const Rows &rows, u32 row, u32 vector, Floats4 x,
                         float sum) {
  const float factor = factor_of(sum) * rows.value_scale;
  reinterpret_cast<Words2 *>(p.o)[rows.q_row(row) * VECTORS + vector] = pack_outputs(x, factor);
}

// Merges the results of the warps for a split, 16 rows at a time, and writes outputs, or
// partial results where the sequence has further splits; or exchanges them in the cluster.
DEVICE void merge(State &state, const Params &p, const Split &split, const Rows &rows, u8 *rings,
                  ExchangeBarriers &barriers) {
  __shared__ Softmax of_warp[WARPS][16];
  __shared__ Softmax of_row[16];
  const auto values_of = [&](u32 warp) {
    return reinterpret_cast<float *>(rings + warp * MERGE_BYTES);
  };
  const u32 lane_row = lane_index() / 4;
  const float scale = rows.scale(p);

#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) {
    const u32 tile_rows = min_of<u32>(16, rows.count - m * 16);
    const ClusterExchange<CLUSTER, THREADS, MOST_MERGED, ALL_ROWS, VECTORS> exchange = {
        split, barriers, *reinterpret_cast<RoomOfCluster *>(rings + ROOM_AT),
        rows.first + m * 16, tile_rows, m};
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
      if (lane_index() % 4 == 0) of_warp[warp_index()][h * 8 + lane_row] = state.softmax[m][h];
    __syncthreads();
    if (CLUSTER > 1) exchange.begin();

    // Each warp rescales its outputs to the maximum over all warps.
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 row = h * 8 + lane_row;
      Softmax all = {minus_infinity(), 0};
#pragma unroll
      for (u32 warp = 0; warp < WARPS; ++warp) all.max = fmaxf(all.max, of_warp[warp][row].max);
#pragma unroll
      for (u32 warp = 0; warp < WARPS; ++warp)
        all.sum += of_warp[warp][row].sum * weight_of(of_warp[warp][row].max, all.max, scale);
      if (warp_index() == 0 && lane_index() % 4 == 0) of_row[row] = all;
      const float weight = weight_of(state.softmax[m][h].max, all.max, scale);
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

    // All threads add up the warps' outputs.
    if (CLUSTER > 1) exchange.wait_ready();
    const u64 first_row = u64(split.first_partial + split.index) * ALL_ROWS + rows.first + m * 16;
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
      if (CLUSTER > 1)
        exchange.row(row).give(vector * 4, sum);
      else if (split.count == 1)
        write_output(p, rows, m * 16 + row, vector, sum, of_row[row].sum);
      else
        p.partials.outputs[(first_row + row) * VECTORS + vector] = sum;
    }
    if (CLUSTER > 1) {
#pragma unroll 1
      for (u32 i = threadIdx.x; i < tile_rows * CLUSTER; i += THREADS)
        exchange.give_softmax(i / CLUSTER, i % CLUSTER, of_row[i / CLUSTER]);
      exchange.combine(p.partials, scale, [&](u32 row, u32 vector, Floats4 x, float sum) {
        write_output(p, rows, m * 16 + row, vector, x, sum);
      });
    } else {
      if (split.count > 1 && threadIdx.x < tile_rows)
        p.partials.softmaxes[first_row + threadIdx.x] = of_row[threadIdx.x];
      __syncthreads();
    }
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) attention_decode(const __grid_constant__ Params p) {
  // The first split and its pages: no launch writes the work list or page tables.
  Split split = load_split(p.work, list_block<CLUSTER, ROW_TILES>());
  Loader loader(p, split);
  __shared__ ExchangeBarriers barriers;
  if (CLUSTER > 1) barriers.announce(CLUSTER);
  overlap_previous();

  // Rows are aligned to their size: the swizzle changes bits of the address.
  extern __shared__ __align__(256) u8 rings[];
  const u32 ring = shared_address(rings) + warp_index() * RING_BYTES;
  const u32 row_tile = row_tile_of_block<CLUSTER, ROW_TILES>();
  while (true) {
    const Rows rows(p, split, row_tile);
    State state;
    Queries q;
    q.shared = reinterpret_cast<Words4 *>(rings + WARPS * RING_BYTES);
    attend(state, q, p, split, rows, loader, ring);
    // The next split and its pages are on their way while this one ends. In clusters a block has
    // one.
    const bool ends = CLUSTER > 1 || split.next == 0;
    Split next = split;
    if (!ends) next = load_split(p.work, split.next);
    // All blocks have begun long ago.
    if (CLUSTER > 1) barrier_cluster_wait();
    merge(state, p, split, rows, rings, barriers);
    if (!ends) loader = Loader(p, next);
    u32 *ticket = ticket_of<CLUSTER, ROW_TILES>(p.tickets, split, row_tile);
    if (CLUSTER == 1 && split.count > 1 && is_last_block(ticket, split.count))
      combine<THREADS, WARPS * RING_BYTES, TILE_ROWS>(
          p.partials, split, rows.first, rows.count, rows.scale(p), rings,
          [&](u32 row, u32 vector, Floats4 x, float sum) {
            write_output(p, rows, row, vector, x, sum);
          });
    if (CLUSTER > 1 && split.count > CLUSTER && is_last_block(ticket, split.count / CLUSTER)) {
#pragma unroll 1
      for (u32 done = 0; done < rows.count; done += 16)
        combine_clusters<CLUSTER, THREADS, MOST_MERGED>(
            p.partials, split, rows.first + done, min_of<u32>(16, rows.count - done),
            rows.scale(p), rings, [&](u32 row, u32 vector, Floats4 x, float sum) {
              write_output(p, rows, done + row, vector, x, sum);
            });
    }
    if (ends) break;
    split = next;
  }
}
