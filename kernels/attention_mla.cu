// Decode with multi-head latent attention (MLA, absorbed): all query heads of a
// request attend to one cached record for each token. Its KV_LORA_RANK latents and
// QK_ROPE_HEAD_DIM rope elements are the key, its latents are also the value:
// o = softmax(q k^T * scale) k[.. KV_LORA_RANK].
//
// q is [batch][new token][q head][KV_LORA_RANK + QK_ROPE_HEAD_DIM], o is [batch][new
// token][q head][KV_LORA_RANK]; the cache is [batch][token][record], or [page][token
// in page][record], where [batch][page of the request] is the page table. A record
// is all elements in 16 bits; or the latents in E4M3, a scale for each QUARTER of
// them, and the rope elements in bf16. A new token attends to the cached tokens up
// to itself. The query heads of all new tokens are the rows of one matrix, padded
// to 16 or 32; more are divided among ROW_TILES blocks that read the same tokens
// at the same time, all but one from L2.
//
// Blocks divide the cache by a work list (split-KV); the last block of a sequence
// combines the partial results of all, or with CLUSTER > 1 the splits of a sequence are the
// blocks of clusters, which combine them together. A block copies tiles of tokens into a ring
// and uses each twice. For the scores, a warp takes a quarter of the columns and a
// half of the tile's tokens: its queries stay in registers, and the four partial
// sums of a score go to shared memory, where one thread adds them up and makes an
// attention weight of them. For the outputs, a warp takes an eighth of the columns
// and all of the tile's tokens. The scores of a tile and the outputs of the tile
// before it are computed between the same two barriers, attention weights between
// the next two. The kernel is memory bound: what matters is the bytes in flight,
// (STAGES - 2) / STAGES of the ring.
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

constexpr u32 KV_LORA_RANK = 512;
constexpr u32 QK_ROPE_HEAD_DIM = 64;
// Scale groups of the latents, and work of warps: a quarter of KV_LORA_RANK each.
constexpr u32 QUARTERS = 4;
constexpr u32 QUARTER = KV_LORA_RANK / QUARTERS;

// A record: latents, scales where the latents are E4M3, rope elements.
constexpr u32 SCALES_AT = KV_LORA_RANK * CACHED_BYTES;
constexpr u32 ROPE_AT = SCALES_AT + (CACHED_BYTES == 1 ? QUARTERS * sizeof(float) : 0);
constexpr u32 RECORD_BYTES = ROPE_AT + QK_ROPE_HEAD_DIM * sizeof(u16);
constexpr u32 RECORD_CHUNKS = RECORD_BYTES / CHUNK_BYTES;
constexpr u32 ROPE_CHUNK = ROPE_AT / CHUNK_BYTES;
constexpr u32 QUARTER_CHUNKS = QUARTER * CACHED_BYTES / CHUNK_BYTES;

constexpr u32 WARPS = THREADS / WARP;
constexpr u32 TILE = TILE_TOKENS;
constexpr u32 STAGE_BYTES = TILE * RECORD_BYTES;
constexpr u32 RING_BYTES = STAGES * STAGE_BYTES;

constexpr u32 ALL_ROWS = Q_HEADS * NEW_TOKENS;
constexpr u32 TILE_ROWS = ceil_div<u32>(ALL_ROWS, ROW_TILES);
constexpr u32 M_TILES = ceil_div<u32>(TILE_ROWS, 16);
constexpr u32 ROWS = M_TILES * 16;  // with padding

// Scores of a warp: its tokens, their n-tiles of 8, and steps over the latents.
constexpr u32 SCORED = TILE / (WARPS / QUARTERS);
constexpr u32 SCORE_TILES = SCORED / 8;
constexpr u32 K_STEPS = QUARTER / 16;

// Outputs of a warp: its columns.
constexpr u32 COLUMNS = KV_LORA_RANK / WARPS;
constexpr u32 COLUMN_CHUNKS = COLUMNS * CACHED_BYTES / CHUNK_BYTES;
constexpr u32 N_TILES = COLUMNS / 8;
constexpr u32 VECTORS = KV_LORA_RANK / 4;  // of four floats, in a row

// Attention weights of a row: a thread has those of two neighbouring tokens.
constexpr u32 PAIRS = TILE / 2;
constexpr u32 PASSES = ceil_div(ROWS * PAIRS, u32(THREADS));
// Attention weights times scales, for each quarter; one matrix where there are no scales.
constexpr u32 SCALINGS = CACHED_BYTES == 1 ? QUARTERS : 1;

// Padded rows: eight of them fall into different banks.
constexpr u32 SCORE_STRIDE = TILE + 8;
constexpr u32 MERGE_STRIDE = KV_LORA_RANK + 8;

// Where blocks of a cluster receive each other's outputs.
typedef Room<CLUSTER, TILE_ROWS, VECTORS> RoomOfCluster;

static_assert(WARPS == 2 * QUARTERS, "a quarter of the columns, a half of the tokens");
static_assert(TILE % 16 == 0 && PAIRS <= WARP, "one warp has all attention weights of a row");
static_assert(M_TILES <= 2, "queries and accumulators fit in registers");
static_assert(TILE_ROWS * (ROW_TILES - 1) < ALL_ROWS, "every block has rows");
static_assert(STAGES >= 3, "two tiles are in use, others in flight");
static_assert(ROWS * MERGE_STRIDE * sizeof(float) <= RING_BYTES, "the ring holds the outputs");
static_assert(CLUSTER == 1 || sizeof(RoomOfCluster) <= RING_BYTES, "and those of a cluster");

// --- Parameters ------------------------------------------------------------

struct Params {
  const u8 *kv;
  const u32 *page_table;  // null where the cache is contiguous
  const u16 *q;
  u16 *o;
  const Split *work;
  Partials<ALL_ROWS, VECTORS> partials;
  u32 *tickets;      // [partial][ROW_TILES][CLUSTER]; zero between launches
  u32 request_rows;  // tokens of a request; entries of its page table when paged
  float scale;       // of scores, for powers of two
};

// --- Rows and the tokens they attend to ----------------------------------------

// The rows of a request that a block works on; they are contiguous in q and in o.
struct Rows {
  u32 first;  // of ALL_ROWS
  u32 count;
  u64 first_q_row;

  DEVICE Rows(const Split &split, u32 row_tile)
      : first(row_tile * TILE_ROWS),
        count(ROW_TILES == 1 ? ALL_ROWS : min_of(TILE_ROWS, ALL_ROWS - first)),
        first_q_row(u64(split.request) * ALL_ROWS + first) {}

  // End of the tokens that a row attends to, in a request of `length` tokens.
  DEVICE u32 key_end(u32 row, u32 length) const {
    const u32 token = (first + min_of(row, count - 1)) / Q_HEADS;
    return length - (NEW_TOKENS - 1 - token);
  }
};

// What warps exchange through shared memory, beside the ring.
struct alignas(BANKS_BYTES) Exchange {
  // Attention weights as left operands, times the scales of each quarter: see chunk_offset.
  u16 weights[SCALINGS][ROWS][TILE];
  // Partial sums of scores, over a quarter of the columns each.
  float scores[QUARTERS][ROWS][SCORE_STRIDE];
  // Factors by which earlier outputs are rescaled to the new maxima.
  float rescale[ROWS];
  Softmax of_row[ROWS];
};

static_assert(SHARED_BYTES == RING_BYTES + sizeof(Exchange), "the host reserves these");

// --- Copies ----------------------------------------------------------------

// A cursor over the tokens of a split: copies the tile ahead into the ring. A
// warp copies every eighth record, so that its swizzle is always the same.
struct Loader {
  static constexpr u32 RECORDS = TILE / WARPS;  // of this warp, in a tile
  static constexpr u32 TURNS = WARP / RECORDS;  // tiles whose page numbers the lanes hold

  const u8 *kv;
  const u32 *table;  // the request's part of the page table
  u64 first_row;     // contiguous: row of the request's first token
  u32 token;         // first of the tile to copy
  u32 end;           // of the split
  u32 turn;          // of TURNS
  u32 pages;         // page number of this lane's record
  u32 next_pages;    // the same for the next TURNS tiles

  DEVICE Loader(const Params &p, const Split &split)
      : kv(p.kv),
        table(p.page_table + u64(split.request) * p.request_rows),
        first_row(u64(split.request) * p.request_rows),
        token(split.first_token),
        end(split.first_token + split.tokens),
        turn(0),
        pages(look_up(token)),
        next_pages(look_up(token + TURNS * TILE)) {}

  // Loads the page number of one of this warp's records in the tiles from `first` on.
  DEVICE u32 look_up(u32 first) const {
    const u32 at = first + lane_index() / RECORDS * TILE + lane_index() % RECORDS * WARPS +
                   warp_index();
    return PAGED && at < end ? ld_global_nc_u32(table + at / PAGE_TOKENS) : 0;
  }

  // Copies the tile to a stage. Records after the end are filled with zeros, since memory
  // there may hold NaN.
  DEVICE void copy(u32 stage) const {
    if (token < end) {
#pragma unroll
      for (u32 i = 0; i < RECORDS; ++i) {
        const u32 row = i * WARPS + warp_index(), at = token + row;
        u64 record = first_row + at;
        if (PAGED)
          record = u64(__shfl_sync(ALL_LANES, pages, turn * RECORDS + i)) * PAGE_TOKENS +
                   at % PAGE_TOKENS;
        const bool exists = at < end;
        const u8 *from = kv + (exists ? record * RECORD_BYTES : 0);
#pragma unroll
        for (u32 first = 0; first < RECORD_CHUNKS; first += WARP) {
          const u32 chunk = first + lane_index();
          if (first + WARP <= RECORD_CHUNKS || chunk < RECORD_CHUNKS)
            cp_async_16(stage + swizzled<RECORD_CHUNKS>(row, chunk), from + chunk * CHUNK_BYTES,
                        exists ? CHUNK_BYTES : 0);
        }
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

// --- Scores ------------------------------------------------------------------

// This warp's quarter of the queries as left operands of mma. Where the cache is E4M3
// latents are f16, which holds queries of bf16 up to 65504.
struct Queries {
  Words4 latents[K_STEPS][M_TILES];
  Words4 rope[M_TILES];

  DEVICE void load(const u16 *q, const Rows &rows) {
    const u32 quarter = warp_index() % QUARTERS, member = lane_index() % 4;
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
      for (u32 i = 0; i < 4; ++i) {
        const u32 row = m * 16 + i % 2 * 8 + lane_index() / 4;
        const u16 *from = q + (rows.first_q_row + row) * (KV_LORA_RANK + QK_ROPE_HEAD_DIM);
        const auto pair = [&](u32 column) {
          return row < rows.count
                     ? ld_global_nc_u32(reinterpret_cast<const u32 *>(from + column))
                     : 0;
        };
#pragma unroll
        for (u32 k = 0; k < K_STEPS; ++k)
          latents[k][m].w[i] = query_operand(pair(quarter * QUARTER + query_column(k, i)));
        rope[m].w[i] = pair(KV_LORA_RANK + quarter * 16 + member * 2 + i / 2 * 8);
      }
  }
};

typedef float Scores[SCORE_TILES][M_TILES][4];

// Adds the products of step `k` for eight tokens.
DEVICE void score_step(float (&s)[M_TILES][4], const Queries &q, u32 k, u32 left, u32 right) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) mma_cached(s[m], q.latents[k][m].w, left, right);
}

// s = q k^T over this warp's quarter of the columns, for its half of a tile.
DEVICE void score(Scores &s, const Queries &q, u32 stage) {
  const u32 quarter = warp_index() % QUARTERS;
  const u32 first = warp_index() / QUARTERS * SCORED, row = first + lane_index() % 8;

  // Matrices of ldmatrix: eight tokens in four chunks side by side.
  const u32 latents = stage + swizzled<RECORD_CHUNKS>(row, lane_index() / 8) +
                      quarter * QUARTER_CHUNKS * CHUNK_BYTES;
#pragma unroll
  for (u32 i = 0; i < QUARTER_CHUNKS / 4; ++i)
#pragma unroll
    for (u32 n = 0; n < SCORE_TILES; ++n) {
      u32 keys[4];
      ldmatrix_x4(keys, right_by_pairs<RECORD_CHUNKS>(latents, 2 * i) + n * 8 * RECORD_BYTES);
      if (CACHED_BYTES == 1) {
#pragma unroll
        for (u32 j = 0; j < 4; ++j)
          score_step(s[n], q, 4 * i + j, halves_of_bytes<0, 1>(keys[j]),
                     halves_of_bytes<2, 3>(keys[j]));
      } else {
        score_step(s[n], q, 2 * i, keys[0], keys[1]);
        score_step(s[n], q, 2 * i + 1, keys[2], keys[3]);
      }
    }

  // Scales of the tokens that this lane has scores of.
  if (CACHED_BYTES == 1) {
    const u32 scales = stage + (first + lane_index() % 4 * 2) * RECORD_BYTES + SCALES_AT +
                       quarter * sizeof(float);
#pragma unroll
    for (u32 n = 0; n < SCORE_TILES; ++n)
#pragma unroll
      for (u32 i = 0; i < 2; ++i) {
        const float scale = ld_shared_f32(scales + (n * 8 + i) * RECORD_BYTES);
#pragma unroll
        for (u32 m = 0; m < M_TILES; ++m) s[n][m][i] *= scale, s[n][m][2 + i] *= scale;
      }
  }

  // Rope: 16 columns.
  const u32 rope =
      stage + swizzled<RECORD_CHUNKS>(row, ROPE_CHUNK + 2 * quarter + lane_index() / 8 % 2);
#pragma unroll
  for (u32 n = 0; n < SCORE_TILES; ++n) {
    u32 keys[2];
    ldmatrix_x2(keys, rope + n * 8 * RECORD_BYTES);
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m) mma_m16n8k16(s[n][m], q.rope[m].w, keys[0], keys[1]);
  }
}

// Writes a warp's partial sums of scores where online_softmax adds them up.
DEVICE void store_scores(const Scores &s, Exchange &exchange) {
  const u32 first = warp_index() / QUARTERS * SCORED;
#pragma unroll
  for (u32 n = 0; n < SCORE_TILES; ++n)
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
      for (u32 h = 0; h < 2; ++h) {
        float *to = exchange.scores[warp_index() % QUARTERS][m * 16 + h * 8 + lane_index() / 4];
        *reinterpret_cast<Floats2 *>(to + first + n * 8 + lane_index() % 4 * 2) = {
            s[n][m][2 * h], s[n][m][2 * h + 1]};
      }
}

// --- Softmax -------------------------------------------------------------------

// The softmax of a row, shared by the lanes that have its attention weights.
struct RowSoftmax {
  Softmax softmax;  // the sum is over this thread's tokens only
  u32 end;          // of the tokens that the row attends to
};

// Row and pair of tokens of this thread in a pass. Where a pass has more threads than
// there are pairs, whole warps have none.
DEVICE u32 softmax_row(u32 pass) { return (pass * THREADS + threadIdx.x) / PAIRS; }
DEVICE u32 softmax_pair() { return threadIdx.x % PAIRS; }
DEVICE bool has_row(u32 pass) { return ROWS * PAIRS % THREADS == 0 || softmax_row(pass) < ROWS; }

// Writes the attention weights of two tokens of a row; with E4M3 times the tokens'
// scales, so that the latents need no scaling. A scale is 1/448 of a token's largest
// latent: f16 holds it at full precision down to latents of 0.03.
DEVICE void store_weights(Exchange &exchange, u32 row, float left, float right, u32 stage) {
  const u32 at = chunk_offset<TILE>(row, softmax_pair() / 4) + softmax_pair() % 4 * sizeof(u32);
  const u32 to = shared_address(exchange.weights) + at;
  if (CACHED_BYTES == 1) {
    const u32 scales = stage + softmax_pair() * 2 * RECORD_BYTES + SCALES_AT;
    const Words4 of_left = ld_shared_v4(scales), of_right = ld_shared_v4(scales + RECORD_BYTES);
#pragma unroll
    for (u32 i = 0; i < SCALINGS; ++i)
      st_shared(to + i * sizeof(exchange.weights[0]),
                pack_weights(left * __uint_as_float(of_left.w[i]),
                             right * __uint_as_float(of_right.w[i])));
  } else {
    st_shared(to, pack_weights(left, right));
  }
}

// Adds the scores of a tile that begins at `token` to the online softmax.
DEVICE void online_softmax(RowSoftmax (&softmaxes)[PASSES], Exchange &exchange, u32 token,
                           u32 stage, float scale) {
#pragma unroll
  for (u32 pass = 0; pass < PASSES; ++pass) {
    if (!has_row(pass)) return;
    const u32 row = softmax_row(pass), pair = softmax_pair();
    auto &[softmax, end] = softmaxes[pass];
    float s[2] = {};
#pragma unroll
    for (u32 quarter = 0; quarter < QUARTERS; ++quarter) {
      const Floats2 part =
          *reinterpret_cast<const Floats2 *>(&exchange.scores[quarter][row][pair * 2]);
      s[0] += part.x[0], s[1] += part.x[1];
    }
#pragma unroll
    for (u32 i = 0; i < 2; ++i)
      if (token + pair * 2 + i >= end) s[i] = minus_infinity();

    // Of several new tokens, some may attend to no token of the tile.
    const float max = fmaxf(softmax.max, max_of_lanes<PAIRS>(fmaxf(s[0], s[1])));
    const float shift = NEW_TOKENS > 1 && max == minus_infinity() ? 0 : max * scale;
    const float rescale = ex2_approx(softmax.max * scale - shift);
    const float left = ex2_approx(s[0] * scale - shift), right = ex2_approx(s[1] * scale - shift);
    softmax = {max, softmax.sum * rescale + (left + right)};
    store_weights(exchange, row, left, right, stage);
    if (pair == 0) exchange.rescale[row] = rescale;
  }
}

// --- Outputs -----------------------------------------------------------------

// This warp's columns of the weighted values, not divided by the sum.
typedef float Outputs[M_TILES][N_TILES][4];

// Adds the products for n-tile `n`: `upper` and `lower` are the right operand.
DEVICE void accumulate_tile(Outputs &o, const u32 (&weights)[M_TILES][4], u32 n, u32 upper,
                            u32 lower) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m) mma_cached(o[m][n], weights[m], upper, lower);
}

// o = o * rescale + weights * v for the tile in a stage.
DEVICE void accumulate(Outputs &o, const Exchange &exchange, u32 stage) {
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      const float rescale = exchange.rescale[m * 16 + h * 8 + lane_index() / 4];
#pragma unroll
      for (u32 n = 0; n < N_TILES; ++n) o[m][n][2 * h] *= rescale, o[m][n][2 * h + 1] *= rescale;
    }

  const u32 scaling = CACHED_BYTES == 1 ? warp_index() * COLUMNS / QUARTER : 0;
  const u32 weights_at = shared_address(exchange.weights[scaling]) + lane_offset_a<TILE>();
  // Matrices of ldmatrix: the two halves of 16 tokens in one chunk, then in the next
  // chunk.
  const u32 values_at = stage + swizzled<RECORD_CHUNKS>(lane_index() % 16, lane_index() / 16) +
                        warp_index() * COLUMN_CHUNKS * CHUNK_BYTES;
#pragma unroll
  for (u32 k = 0; k < TILE / 16; ++k) {
    u32 weights[M_TILES][4];
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
      ldmatrix_x4(weights[m], right_by(weights_at, k) + m * 16 * TILE * sizeof(u16));
#pragma unroll
    for (u32 pair = 0; pair < COLUMN_CHUNKS / 2; ++pair) {
      u32 v[4];
      ldmatrix_x4_trans(
          v, right_by_pairs<RECORD_CHUNKS>(values_at, pair) + k * 16 * RECORD_BYTES);
#pragma unroll
      for (u32 i = 0; i < 2; ++i) {
        const u32 upper = v[2 * i], lower = v[2 * i + 1];
        if (CACHED_BYTES == 1) {
          const u32 n = 4 * pair + 2 * i;
          accumulate_tile(o, weights, n, halves_of_bytes<0, 2>(upper),
                          halves_of_bytes<0, 2>(lower));
          accumulate_tile(o, weights, n + 1, halves_of_bytes<1, 3>(upper),
                          halves_of_bytes<1, 3>(lower));
        } else {
          accumulate_tile(o, weights, 2 * pair + i, upper, lower);
        }
      }
    }
  }
}

// --- Splits ------------------------------------------------------------------

// Attends to the tokens of a split; writes the softmaxes of its rows to the exchange.
DEVICE void attend(Outputs &o, const Params &p, const Split &split, const Rows &rows, u32 ring,
                   Exchange &exchange) {
  const auto stage_after = [&](u32 stage) {
    return stage == ring + (STAGES - 1) * STAGE_BYTES ? ring : stage + STAGE_BYTES;
  };
  // Tiles take the stages in turn. Scores are computed from the tile in `stage`, outputs
  // from the tile in `before`; the stage `used` is free and filled again.
  u32 stage = ring, before = ring + (STAGES - 1) * STAGE_BYTES, used = before - STAGE_BYTES;

  // Fill all stages but two, and load the queries meanwhile.
  Loader loader(p, split);
#pragma unroll 1
  for (u32 to = ring; to != used; to += STAGE_BYTES) {
    loader.copy(to);
    loader.advance();
  }
  Queries q;
  q.load(p.q, rows);

  // Initial state.
  RowSoftmax softmaxes[PASSES];
#pragma unroll
  for (u32 pass = 0; pass < PASSES; ++pass)
    softmaxes[pass] = {{minus_infinity(), 0}, rows.key_end(softmax_row(pass), split.length)};
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 n = 0; n < N_TILES; ++n)
#pragma unroll
      for (u32 i = 0; i < 4; ++i) o[m][n][i] = 0;

#pragma unroll 1
  for (u32 done = 0; done < split.tokens; done += TILE) {
    // Scores, and outputs of the tile before.
    cp_async_wait_group<STAGES - 3>();
    __syncthreads();
    loader.copy(used);
    loader.advance();
    Scores s = {};
    score(s, q, stage);
    store_scores(s, exchange);
    if (done > 0) accumulate(o, exchange, before);
    __syncthreads();

    // Attention weights.
    online_softmax(softmaxes, exchange, split.first_token + done, stage, p.scale);
    used = before, before = stage, stage = stage_after(stage);
  }
  __syncthreads();
  if (split.tokens > 0) accumulate(o, exchange, before);

  // All copies have been waited for: the groups still pending are empty.
#pragma unroll
  for (u32 pass = 0; pass < PASSES; ++pass) {
    if (!has_row(pass)) break;
    const Softmax softmax = softmaxes[pass].softmax;
    const float sum = sum_of_lanes<PAIRS>(softmax.sum);
    if (softmax_pair() == 0) exchange.of_row[softmax_row(pass)] = {softmax.max, sum};
  }
}

// Writes four outputs of a row, divided by the sum of the attention weights.
DEVICE void write_output(const Params &p, const Rows &rows, u32 row, u32 vector, Floats4 x,
                         float sum) {
  reinterpret_cast<Words2 *>(p.o)[(rows.first_q_row + row) * VECTORS + vector] =
      pack_outputs(x, factor_of(sum));
}

// Exchanges the outputs of a split with the other blocks of the cluster, by way of their rings,
// and writes this block's slice.
DEVICE void finish_in_cluster(const Outputs &o, const Params &p, const Split &split,
                              const Rows &rows, u8 *ring, ExchangeBarriers &barriers,
                              const Softmax *of_row) {
  const ClusterExchange<CLUSTER, THREADS, TILE_ROWS, ALL_ROWS, VECTORS> exchange = {
      split, barriers, *reinterpret_cast<RoomOfCluster *>(ring), rows.first, rows.count, 0};
  // All warps have read the ring.
  __syncthreads();
  exchange.begin();
  exchange.wait_ready();
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      const u32 row = m * 16 + h * 8 + lane_index() / 4;
      if (row >= rows.count) continue;
      auto given = exchange.row(row);
#pragma unroll
      for (u32 n = 0; n < N_TILES; n += 2) {
        // A lane has two columns and two of the next tile: with 8 bits, between these.
        const u32 column = warp_index() * COLUMNS + output_column(n, 0);
        const float *const x = o[m][n] + 2 * h, *const next = o[m][n + 1] + 2 * h;
        if (CACHED_BYTES == 1) {
          given.give(column, Floats4{x[0], next[0], x[1], next[1]});
        } else {
          given.give(column, Floats2{x[0], x[1]});
          given.give(column + 8, Floats2{next[0], next[1]});
        }
      }
    }
#pragma unroll 1
  for (u32 i = threadIdx.x; i < rows.count * CLUSTER; i += THREADS)
    exchange.give_softmax(i / CLUSTER, i % CLUSTER, of_row[i / CLUSTER]);
  exchange.combine(p.partials, p.scale, [&](u32 row, u32 vector, Floats4 x, float sum) {
    write_output(p, rows, row, vector, x, sum);
  });
}

// Writes the outputs of a split by way of the ring, as partial results where the
// sequence has further splits.
DEVICE void finish(const Outputs &o, const Params &p, const Split &split, const Rows &rows,
                   float *ring, const Exchange &exchange) {
  __syncthreads();
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
    for (u32 h = 0; h < 2; ++h) {
      const u32 row = m * 16 + h * 8 + lane_index() / 4;
      float *to = ring + row * MERGE_STRIDE + warp_index() * COLUMNS;
#pragma unroll
      for (u32 n = 0; n < N_TILES; ++n) {
        to[output_column(n, 0)] = o[m][n][2 * h];
        to[output_column(n, 1)] = o[m][n][2 * h + 1];
      }
    }
  __syncthreads();

  const u64 first_row = u64(split.first_partial + split.index) * ALL_ROWS + rows.first;
  for (u32 i = threadIdx.x; i < rows.count * VECTORS; i += THREADS) {
    const u32 row = i / VECTORS, vector = i % VECTORS;
    const Floats4 x = *reinterpret_cast<const Floats4 *>(ring + row * MERGE_STRIDE + vector * 4);
    if (split.count == 1)
      write_output(p, rows, row, vector, x, exchange.of_row[row].sum);
    else
      p.partials.outputs[(first_row + row) * VECTORS + vector] = x;
  }
  if (split.count > 1 && threadIdx.x < rows.count)
    p.partials.softmaxes[first_row + threadIdx.x] = exchange.of_row[threadIdx.x];
  __syncthreads();
}

KERNEL(THREADS, 1) attention_mla(const __grid_constant__ Params p) {
  // No launch writes the work list.
  const Split first = load_split(p.work, list_block<CLUSTER, ROW_TILES>());
  __shared__ ExchangeBarriers barriers;
  if (CLUSTER > 1) barriers.announce(CLUSTER);
  overlap_previous();

  // Records are aligned to the banks: the swizzle changes bits of the address.
  extern __shared__ __align__(128) u8 ring[];
  Exchange &exchange = *reinterpret_cast<Exchange *>(ring + RING_BYTES);
  const u32 row_tile = row_tile_of_block<CLUSTER, ROW_TILES>();
  for_each_split(p.work, first, [&](const Split &split) {
    const Rows rows(split, row_tile);
    Outputs o;
    attend(o, p, split, rows, shared_address(ring), exchange);
    if (CLUSTER > 1) {
      // All blocks have begun long ago. A block has one split.
      barrier_cluster_wait();
      finish_in_cluster(o, p, split, rows, ring, barriers, exchange.of_row);
    } else {
      finish(o, p, split, rows, reinterpret_cast<float *>(ring), exchange);
    }
    u32 *ticket = ticket_of<CLUSTER, ROW_TILES>(p.tickets, split, row_tile);
    const auto write = [&](u32 row, u32 vector, Floats4 x, float sum) {
      write_output(p, rows, row, vector, x, sum);
    };
    if (CLUSTER == 1 && split.count > 1 && is_last_block(ticket, split.count))
      combine<THREADS, RING_BYTES, TILE_ROWS>(p.partials, split, rows.first, rows.count, p.scale,
                                              ring, write);
    if (CLUSTER > 1 && split.count > CLUSTER && is_last_block(ticket, split.count / CLUSTER))
      combine_clusters<CLUSTER, THREADS, TILE_ROWS>(p.partials, split, rows.first, rows.count,
                                                    p.scale, ring, write);
  });
}
