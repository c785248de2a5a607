// Attention of the new tokens of each request to its cached tokens, with the
// latents of multi-head latent attention as keys and values (absorbed MLA):
// o = softmax(q k^T * scale) v for each query head. Products by warpgroup, tiles by
// tensor copies; sm_90a. For many heads: attention_mla.cu does without padding to 64.
//
// q is [batch][new token][q head][KEY_DIM], o the same with VALUE_DIM, and the cache
// [batch][token][record] or [page][token in page][record] with pages found through
// [batch][page of the request]. A record is KEY_DIM numbers in 16 bits; or the first
// VALUE_DIM of them in E4M3, a scale for each quarter of these, and the rest in bf16.
// The first VALUE_DIM numbers of a token's key are also its value, so a tile is fetched
// once and read twice. A new token attends to the cached ones up to itself. All heads
// of all new tokens are rows of one matrix, 64 to a block; ROW_TILES blocks read the
// same tokens at the same time.
//
// Of a block, a warpgroup fetches and two compute. Tiles of 64 tokens come in panels
// of 64 columns to two places of a ring: numbers of 16 bits as tensor copies, those of
// 8 bits through registers, where they become f16 and are multiplied by their scales.
// L2 is asked for the latter tiles ahead, so that memory has as much to do as if they
// were copied. Warpgroup 0 owns the first tile of a piece, 1 the second, and so on;
// warpgroup w has columns 256 w on of the outputs of all tiles. For a tile
//
//   its owner   scores = q k^T, panel by panel as they come; weights by softmax
//               (online, in powers of two); weights over the tile's last panel, which
//               is no value and was scored; how outputs shrink to the new maximum
//   both        outputs = outputs * shrink + weights * values, in their columns
//
// While one warpgroup is at its softmax, the other multiplies. Where tensor cores
// bind, with several row tiles, the second even starts on the scores of its own tile
// before the values of the first's; else it does the values first, so that places
// are free early and memory, which binds, never waits.
//
// Launch: ROW_TILES times as many blocks as the work list is made for, THREADS
// threads, SHARED_BYTES of dynamic shared memory.
#include "cached.cuh"
#include "mbarrier.cuh"
#include "split_kv.cuh"
#include "tile.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 WARPGROUPS = 2;
constexpr u32 COMPUTING = WARPGROUPS * WARPGROUP;  // threads

constexpr u32 ALL_ROWS = Q_HEADS * NEW_TOKENS;
constexpr u32 ROWS = 64;      // of a block, padding included
constexpr u32 TILE = 64;      // tokens
constexpr u32 LEAST_BOX = 8;  // tokens: rows that a swizzle spans

// Where pages are smaller than tiles, a tile is several boxes.
constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : TILE;
constexpr u32 BOX = min_of(PAGE_TOKENS, TILE);

// A record with E4M3 numbers: these, scales, what is bf16.
constexpr bool CONVERTS = CACHED_BYTES == 1;
constexpr u32 QUARTERS = 4;
constexpr u32 QUARTER_BYTES = VALUE_DIM / QUARTERS;
constexpr u32 SCALES_AT = VALUE_DIM;
constexpr u32 REST_AT = SCALES_AT + QUARTERS * sizeof(float);
constexpr u32 RECORD_BYTES = REST_AT + (KEY_DIM - VALUE_DIM) * sizeof(u16);
// Of a tile's records, so many lie side by side: the largest power of two in a page.
constexpr u32 RUN = min_of(PAGE_TOKENS & (0u - PAGE_TOKENS), TILE);

constexpr u32 PANEL_COLUMNS = 64;
constexpr u32 ROW_BYTES = PANEL_COLUMNS * sizeof(u16);
constexpr u32 PANEL_BYTES = TILE * ROW_BYTES;
constexpr u32 VALUE_PANELS = VALUE_DIM / PANEL_COLUMNS;
constexpr u32 KEY_PANELS = KEY_DIM / PANEL_COLUMNS;
// Panels of values, and columns of outputs, of a warpgroup.
constexpr u32 OWN_PANELS = VALUE_PANELS / WARPGROUPS;
constexpr u32 OWN_COLUMNS = VALUE_DIM / WARPGROUPS;
constexpr u32 WEIGHTS_PANEL = VALUE_PANELS;
constexpr u32 TILE_BYTES = KEY_PANELS * PANEL_BYTES;
constexpr u32 PLACES = 2;
constexpr u32 VECTORS = VALUE_DIM / 4;

// Eight rows of a panel, and 16 of its columns or rows: steps of descriptors.
constexpr u32 ATOM_BYTES = 8 * ROW_BYTES;
constexpr u32 STEP = 16;
constexpr u32 STEPS = PANEL_COLUMNS / STEP;

// Registers of a thread: as many for all as a thread has at first.
constexpr u32 COMPUTING_REGISTERS = CONVERTS ? 200 : 240;
constexpr u32 FETCHING_REGISTERS = CONVERTS ? 104 : 24;

// Whether rows of one matrix may see different tokens.
constexpr bool RAGGED_ROWS = NEW_TOKENS > 1;

static_assert(THREADS == COMPUTING + WARPGROUP, "a warpgroup fetches, the others compute");
static_assert(TILE == TILE_TOKENS, "the work list is cut at tiles");
static_assert(KEY_PANELS == VALUE_PANELS + 1, "weights replace what is no value");
static_assert(TILE == PANEL_COLUMNS && TILE == ROWS, "weights are a panel");
static_assert(OWN_COLUMNS == 256, "a product's columns are all of a warpgroup");
static_assert(ALL_ROWS <= ROW_TILES * ROWS && ALL_ROWS > (ROW_TILES - 1) * ROWS,
              "every block has rows");
static_assert(CONVERTS || BOX % LEAST_BOX == 0 && TILE % BOX == 0, "boxes tile a tile");
static_assert(CONVERTS || PAGE_TOKENS % BOX == 0, "boxes lie within pages");
static_assert(QUARTERS * 2 == VALUE_PANELS, "a quarter is two panels");
static_assert(RECORD_BYTES % CHUNK_BYTES == 0, "records begin at chunks");
static_assert(TILES_AHEAD > 0 || !CONVERTS, "L2 is asked before records are read");
static_assert(SHARED_BYTES == (1 + PLACES) * TILE_BYTES, "the host reserves these");

// --- Parameters ------------------------------------------------------------

struct Params {
  TensorMap q;      // columns, rows of a request, requests
  TensorMap boxes;  // of BOX tokens: columns, tokens of a page or request, pages or requests
  TensorMap least;  // the same of LEAST_BOX tokens; neither where numbers are converted
  const u8 *kv;
  u16 *o;
  const u32 *page_table;  // null when contiguous
  const Piece *work;
  Partials<ALL_ROWS, VECTORS> partials;
  u32 *tickets;      // [slot][ROW_TILES]; zero between launches
  u32 request_rows;  // tokens of a request; entries of its page table when paged
  float scale;       // of scores, to powers of two
};

// --- Shared memory -----------------------------------------------------------

// Queries and tiles, panel after panel.
extern __shared__ __align__(1024) u8 panels[];

DEVICE u32 query_panel(u32 panel) { return shared_address(panels) + panel * PANEL_BYTES; }

// A tile by its number: tiles take places and change parities in turn, over all of a
// block's pieces.
struct Tile {
  u32 number;

  DEVICE u32 place() const { return number % PLACES; }
  DEVICE u32 parity() const { return number / PLACES % 2; }
  DEVICE Tile after(u32 tiles) const { return {number + tiles}; }
  DEVICE u32 panel(u32 panel) const { return query_panel((1 + place()) * KEY_PANELS + panel); }
};

// What a tile's owner tells of each row: largest score so far, and 2 to the power of
// how much less it was before.
struct alignas(8) Rescale {
  float max;
  float factor;
};

struct Shared {
  u64 full[PLACES][KEY_PANELS];   // panels have come
  u64 empty[PLACES][WARPGROUPS];  // a warpgroup's values are used; with both, all is
  u64 weighed[PLACES];            // weights and `rescales` are there
  u64 queries_full;
  u64 queries_empty;
  Rescale rescales[PLACES][ROWS];
  float sums[WARPGROUPS][ROWS];  // of weights, at the end of a piece

  DEVICE void init() {
    for (u32 place = 0; place < PLACES; ++place) {
      for (u32 panel = 0; panel < KEY_PANELS; ++panel)
        mbarrier_init(shared_address(&full[place][panel]), CONVERTS ? WARPGROUP / WARP : 1);
      for (u32 group = 0; group < WARPGROUPS; ++group)
        mbarrier_init(shared_address(&empty[place][group]), WARPGROUP / WARP);
      mbarrier_init(shared_address(&weighed[place]), WARPGROUP / WARP);
    }
    mbarrier_init(shared_address(&queries_full), 1);
    mbarrier_init(shared_address(&queries_empty), COMPUTING / WARP);
    fence_mbarrier_init();
  }
};

// Arrives once for each warp, after all of its lanes.
DEVICE void arrive(u64 &barrier) {
  __syncwarp();
  if (lane_index() == 0) mbarrier_arrive(shared_address(&barrier));
}

// The barrier of those who compute.
struct Computing {
  DEVICE void operator()() const { bar_sync(1, COMPUTING); }
};

// The barriers of warpgroups that compute.
template <u32 group>
DEVICE void sync_warpgroup() {
  bar_sync(2 + group, WARPGROUP);
}

// --- The warp that fetches ------------------------------------------------------

// One thread of it: copies queries and tiles as soon as there is room.
struct Fetch {
  const Params &p;
  Shared &shared;
  Tile tile = {0};
  u32 pieces = 0;

  // Copies the queries of a piece when the one before has ended.
  DEVICE void queries(const Piece &piece, u32 first_row) {
    wait(shared_address(&shared.queries_empty), (pieces & 1) ^ 1);
    const u32 full = shared_address(&shared.queries_full);
    mbarrier_arrive_expect_tx(full, TILE_BYTES);
    for (u32 panel = 0; panel < KEY_PANELS; ++panel)
      cp_async_bulk_tensor_3d_load(query_panel(panel), p.q, panel * PANEL_COLUMNS, first_row,
                                   piece.request, full);
    ++pieces;
  }

  // Copies `count` boxes of `tokens` each, of the tile that begins at `token`: a
  // warpgroup's values when its last ones are used, and with the last of them the rest
  // of the keys.
  template <u32 tokens>
  DEVICE void boxes(const TensorMap &map, const Piece &piece, u32 token, u32 count) {
    u32 page[TILE / BOX] = {};
    if (PAGED) {
#pragma unroll
      for (u32 i = 0; i < TILE / BOX; ++i)
        if (i * BOX < count * tokens)
          page[i] = ld_global_nc_u32(p.page_table + u64(piece.request) * p.request_rows +
                                     (token + i * BOX) / PAGE_TOKENS);
    }
    for (u32 group = 0; group < WARPGROUPS; ++group) {
      wait(shared_address(&shared.empty[tile.place()][group]), tile.parity() ^ 1);
      const u32 end = group + 1 == WARPGROUPS ? KEY_PANELS : (group + 1) * OWN_PANELS;
      for (u32 panel = group * OWN_PANELS; panel < end; ++panel) {
        const u32 full = shared_address(&shared.full[tile.place()][panel]);
        mbarrier_arrive_expect_tx(full, count * tokens * ROW_BYTES);
#pragma unroll
        for (u32 i = 0; i < TILE / tokens; ++i) {
          if (i >= count) break;
          const u32 at = token + i * tokens;
          cp_async_bulk_tensor_3d_load(tile.panel(panel) + i * tokens * ROW_BYTES, map,
                                       panel * PANEL_COLUMNS, PAGED ? at % PAGE_TOKENS : at,
                                       PAGED ? page[i * tokens / BOX] : piece.request, full);
        }
      }
    }
  }

  // Copies a tile: of a piece's last one only what holds its tokens.
  DEVICE void next_tile(const Piece &piece, u32 index) {
    const u32 token = piece.first_token + index * TILE, left = piece.tokens - index * TILE;
    if (left >= TILE)
      boxes<BOX>(p.boxes, piece, token, TILE / BOX);
    else
      boxes<LEAST_BOX>(p.least, piece, token, ceil_div(left, LEAST_BOX));
    ++tile.number;
  }

  // Copies what a piece needs. Its first tiles come while the piece before ends, for
  // which its queries wait.
  DEVICE void copy(const Piece &piece, u32 first_row) {
    const u32 tiles = ceil_div(piece.tokens, TILE), early = min_of(tiles, PLACES);
    for (u32 index = 0; index < early; ++index) next_tile(piece, index);
    queries(piece, first_row);
    for (u32 index = early; index < tiles; ++index) next_tile(piece, index);
  }

  // Copies all pieces of the block.
  DEVICE void run(u32 row_tile) {
    for_each_piece(p.work, blockIdx.x / ROW_TILES,
                   [&](const Piece &piece) { copy(piece, row_tile * ROWS); });
  }
};

// --- The warpgroup that converts --------------------------------------------------

// Of the tile, a thread has four tokens, 16 from one to the next, and of each quarter
// 16 numbers, which are two chunks of a panel; of the panel behind, one chunk. Lanes
// have them such that eight which store together find different banks.
struct Share {
  static constexpr u32 TOKENS = 4;
  static constexpr u32 APART = TILE / TOKENS;

  DEVICE static u32 token() {
    return threadIdx.x % WARPGROUP / WARP * 4 + lane_index() / 16 * 2 + lane_index() / 4 % 2;
  }
  // Of a record's part of 128 bytes.
  DEVICE static u32 chunk() { return lane_index() / 8 % 2 * 4 + lane_index() % 4; }
  // Where a chunk of 16-bit numbers of the first token lies in its panel.
  DEVICE static u32 place(u32 chunk) {
    return token() * ROW_BYTES + (chunk ^ token() % 8) * CHUNK_BYTES;
  }
};

// Numbers of the records of a thread's tokens.
struct Numbers {
  static constexpr u32 NONE = ~0u;
  u32 of[Share::TOKENS];
};

// The same records: where this thread's numbers of each begin, null where there is none,
// and one of its scales, that of quarter lane % 4.
struct Records {
  const u8 *at[Share::TOKENS];
  float scale[Share::TOKENS];
};

// What a thread has of a part of them.
struct Raw {
  Words4 numbers[Share::TOKENS];
};

struct Convert {
  // Parts of a tile: its quarters and the panel behind.
  static constexpr u32 PARTS = QUARTERS + 1;

  const Params &p;
  Shared &shared;
  Fetch queries;
  Tile tile = {0};

  // Number of a request's record.
  DEVICE u32 number(u32 request, u32 token) const {
    const u32 *page = p.page_table + u64(request) * p.request_rows + token / PAGE_TOKENS;
    return PAGED ? ld_global_nc_u32(page) * PAGE_TOKENS + token % PAGE_TOKENS
                 : request * p.request_rows + token;
  }

  // Asks for the numbers of this thread's records in a tile of the piece.
  DEVICE Numbers look_up(const Piece &piece, u32 index) const {
    Numbers numbers;
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      const u32 token = index * TILE + Share::token() + i * Share::APART;
      numbers.of[i] = Numbers::NONE;
      if (token < piece.tokens) numbers.of[i] = number(piece.request, piece.first_token + token);
    }
    return numbers;
  }

  // Finds them, and asks for scales.
  DEVICE Records find(const Numbers &numbers) const {
    Records records;
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      records.at[i] = nullptr;
      records.scale[i] = 0;
      if (numbers.of[i] == Numbers::NONE) continue;
      const u8 *record = p.kv + u64(numbers.of[i]) * RECORD_BYTES;
      records.at[i] = record + Share::chunk() * CHUNK_BYTES;
      records.scale[i] = ld_global_nc_f32(reinterpret_cast<const float *>(record + SCALES_AT) +
                                          lane_index() % QUARTERS);
    }
    return records;
  }

  // Asks for a part of records; zeros where there are none, since what lies there may
  // be no number.
  DEVICE Raw load(const Records &records, u32 part) const {
    Raw raw = {};
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      if (records.at[i] != nullptr)
        raw.numbers[i] = ld_global_nc_v4_kept(records.at[i] + part_at(part));
    return raw;
  }

  // Where a part begins in a record.
  DEVICE static constexpr u32 part_at(u32 part) {
    return part < QUARTERS ? part * QUARTER_BYTES : REST_AT;
  }

  // Writes a quarter as two panels of keys, times its scales.
  DEVICE void store(const Raw &raw, const u32 (&scales)[Share::TOKENS], u32 part) const {
    const u32 panel = Share::chunk() / 4, chunk = Share::chunk() % 4 * 2;
    const u32 to = tile.panel(part * 2) + panel * PANEL_BYTES + Share::place(chunk);
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      const u32 scale = __shfl_sync(ALL_LANES, scales[i], part, QUARTERS);
      Words4 chunks[2];
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const u32 bytes = raw.numbers[i].w[j];
        u32 *words = chunks[j / 2].w + j % 2 * 2;
        words[0] = mul_f16x2(f16x2_of_e4m3<0, 1>(bytes), scale);
        words[1] = mul_f16x2(f16x2_of_e4m3<2, 3>(bytes), scale);
      }
      st_shared_v4(to + i * Share::APART * ROW_BYTES, chunks[0]);
      st_shared_v4((to ^ CHUNK_BYTES) + i * Share::APART * ROW_BYTES, chunks[1]);
    }
  }

  // Writes the panel behind the quarters as it is.
  DEVICE void store_rest(const Raw &raw) const {
    const u32 to = tile.panel(VALUE_PANELS) + Share::place(Share::chunk());
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      st_shared_v4(to + i * Share::APART * ROW_BYTES, raw.numbers[i]);
  }

  // Asks L2 for a tile, counted from the piece's first one on into the pieces after.
  DEVICE void prefetch(Piece piece, u32 index) const {
    const u32 run = threadIdx.x % WARPGROUP * RUN;
    if (run >= TILE) return;
    for (u32 tiles; index >= (tiles = ceil_div(piece.tokens, TILE)); index -= tiles) {
      if (piece.next == 0) return;
      piece = load_piece(p.work, piece.next);
    }
    const u32 token = index * TILE + run;
    if (token >= piece.tokens) return;
    const u64 first = number(piece.request, piece.first_token + token);
    cp_async_bulk_prefetch(p.kv + first * RECORD_BYTES,
                           min_of(RUN, piece.tokens - token) * RECORD_BYTES);
  }

  // Converts a tile, whose first part has been asked for: a warpgroup's values when its
  // last ones are used. Asks for each part before it writes the one before, in the end
  // for the first of the tile after.
  DEVICE void convert(Raw &raw, Records &records, const Numbers &next) const {
    const u32 place = tile.place();
    u32 scales[Share::TOKENS];
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      scales[i] = cvt_f16x2(records.scale[i], records.scale[i]);
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
      if (part + 1 == PARTS) records = find(next);
      const Raw after = load(records, (part + 1) % PARTS);
      if (part < QUARTERS && part * 2 % OWN_PANELS == 0)
        wait(shared_address(&shared.empty[place][part * 2 / OWN_PANELS]), tile.parity() ^ 1);
      if (part < QUARTERS)
        store(raw, scales, part);
      else
        store_rest(raw);
      fence_proxy_async_shared();
#pragma unroll
      for (u32 panel = part * 2; panel < min_of(part * 2 + 2, KEY_PANELS); ++panel)
        arrive(shared.full[place][panel]);
      raw = after;
    }
  }

  // Converts what a piece needs. Its first tiles are made while the piece before ends,
  // for which its queries wait.
  DEVICE void piece(const Piece &piece, u32 first_row) {
    const u32 tiles = ceil_div(piece.tokens, TILE);
    const u32 early = tile.number == 0 ? 0 : min_of(tiles, PLACES);
    Records records = find(look_up(piece, 0));
    Raw raw = load(records, 0);
#pragma unroll 1
    for (u32 index = 0;; ++index) {
      if (index == early && threadIdx.x % WARPGROUP == 0) queries.queries(piece, first_row);
      if (index == tiles) break;
      prefetch(piece, index + TILES_AHEAD);
      convert(raw, records, look_up(piece, index + 1));
      ++tile.number;
    }
  }

  // Converts all pieces of the block.
  DEVICE void run(u32 row_tile) {
    const u32 block = blockIdx.x / ROW_TILES;
    const Piece first = load_piece(p.work, block);
    for (u32 index = 0; index < TILES_AHEAD; ++index) prefetch(first, index);
    for_each_piece(p.work, block, [&](const Piece &of) { piece(of, row_tile * ROWS); });
  }
};

// --- What a warpgroup has of a piece ---------------------------------------------

// Of each matrix of 64 rows a warp has 16, and a lane rows l / 4 and l / 4 + 8 of
// these, of every eight columns 2 (l % 4) and the next.
constexpr u32 HALVES = 2;

DEVICE u32 lane_row(u32 half) {
  return warp_index() % (WARPGROUP / WARP) * 16 + half * 8 + lane_index() / 4;
}
DEVICE u32 lane_column(u32 block) { return block * 8 + lane_index() % 4 * 2; }

struct State {
  float max[HALVES];  // of all tiles
  float sum[HALVES];  // of weights: this lane's, of tiles that the warpgroup owns
  float o[OWN_COLUMNS / 2];
};

// Makes queries of what meets converted numbers, where there are such.
DEVICE void convert_queries() {
  if (!CONVERTS) return;
  const u32 first = query_panel(0) + threadIdx.x * CHUNK_BYTES;
#pragma unroll 4
  for (u32 at = 0; at < VALUE_PANELS * PANEL_BYTES; at += COMPUTING * CHUNK_BYTES) {
    Words4 chunk = ld_shared_v4(first + at);
#pragma unroll
    for (u32 i = 0; i < 4; ++i) chunk.w[i] = query_operand(chunk.w[i]);
    st_shared_v4(first + at, chunk);
  }
  fence_proxy_async_shared();
  Computing{}();
}

// Starts s = q k^T for a tile, panel by panel as they come.
DEVICE void start_scores(float (&s)[TILE / 2], Shared &shared, Tile tile) {
  pin(s);
#pragma unroll
  for (u32 panel = 0; panel < KEY_PANELS; ++panel) {
    wait(shared_address(&shared.full[tile.place()][panel]), tile.parity());
    wgmma_fence();
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
      const u32 offset = panel * PANEL_BYTES + step * STEP * sizeof(u16);
      const u64 queries = panel_descriptor(query_panel(0), offset, 0, ATOM_BYTES);
      const u64 keys = panel_descriptor(tile.panel(0), offset, 0, ATOM_BYTES);
      if (panel < VALUE_PANELS)
        wgmma_cached_m64n64k16(s, queries, keys, panel + step > 0);
      else
        wgmma_m64n64k16(s, queries, keys, true);
    }
  }
}

// Starts o += weights * values for a tile and the columns of warpgroup `group`.
DEVICE void start_outputs(State &state, Tile tile, u32 group) {
  pin(state.o);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step) {
    const u64 weights = panel_descriptor(tile.panel(WEIGHTS_PANEL), step * STEP * sizeof(u16),
                                         0, ATOM_BYTES);
    const u64 values = panel_descriptor(tile.panel(group * OWN_PANELS), step * STEP * ROW_BYTES,
                                        PANEL_BYTES, ATOM_BYTES);
    wgmma_cached_m64n256k16_trans(state.o, weights, values);
  }
}

// Waits for all products but those of the last `pending` groups, among them those
// into `d`.
template <u32 pending, u32 count>
DEVICE void finish(float (&d)[count]) {
  wgmma_wait_group<pending>();
  pin(d);
}

// Leaves out of the scores of a tile that begins at `token` what rows do not see:
// their tokens end at `ends`.
DEVICE void mask(float (&s)[TILE / 2], const u32 (&ends)[HALVES], u32 token) {
#pragma unroll
  for (u32 i = 0; i < TILE / 2; ++i)
    if (token + lane_column(i / 4) + i % 2 >= ends[i / 2 % 2]) s[i] = minus_infinity();
}

// Clears the values of a tile behind its first `tokens`: what lies there may be no
// number, and its weight, zero, would not hide that.
DEVICE void clear_values(Tile tile, u32 tokens) {
  const u32 thread = threadIdx.x % WARPGROUP;
  constexpr u32 chunks = ROW_BYTES / sizeof(Words4), threads_of_row = chunks * VALUE_PANELS;
  const u32 panel = thread / chunks % VALUE_PANELS;
  for (u32 row = tokens + thread / threads_of_row; row < TILE; row += WARPGROUP / threads_of_row)
    st_shared_v4(tile.panel(panel) + row * ROW_BYTES + thread % chunks * sizeof(Words4), {});
}

// Takes the scores of a tile into the softmax and leaves weights and how outputs
// shrink for both warpgroups. Returns sums of this lane's weights.
struct Sums {
  float of[HALVES];
};
DEVICE Sums weigh(const State &state, const float (&s)[TILE / 2], Shared &shared, Tile tile,
                  float scale) {
  Sums sums = {};
#pragma unroll
  for (u32 h = 0; h < HALVES; ++h) {
    float largest = state.max[h];
#pragma unroll
    for (u32 block = 0; block < TILE / 8; ++block)
      largest = fmaxf(largest, fmaxf(s[4 * block + 2 * h], s[4 * block + 2 * h + 1]));
    const float max = max_of_quad(largest);
    const float shift = RAGGED_ROWS && max == minus_infinity() ? 0 : max * scale;
    const u32 row = lane_row(h);
    if (lane_index() % 4 == 0)
      shared.rescales[tile.place()][row] = {max, ex2_approx(state.max[h] * scale - shift)};
    const u32 to = tile.panel(WEIGHTS_PANEL) + row * ROW_BYTES + lane_index() % 4 * sizeof(u32);
#pragma unroll
    for (u32 block = 0; block < TILE / 8; ++block) {
      const float left = ex2_approx(s[4 * block + 2 * h] * scale - shift);
      const float right = ex2_approx(s[4 * block + 2 * h + 1] * scale - shift);
      sums.of[h] += left + right;
      st_shared(to + (block ^ row % 8) * sizeof(Words4), pack_weights(left, right));
    }
  }
  return sums;
}

// What `combine` calls: the same for both warpgroups, which share its shared memory.
struct WriteCombined {
  const Params &p;
  const Piece &piece;
  u32 first_row;

  DEVICE void operator()(u32 row, u32 vector, Floats4 outputs, float sum) const {
    const u64 o_row = u64(piece.request) * ALL_ROWS + first_row + row;
    reinterpret_cast<Words2 *>(p.o)[o_row * VECTORS + vector] =
        pack_outputs(outputs, factor_of(sum));
  }
};

// --- A warpgroup's part of a piece -----------------------------------------------

template <u32 group>
struct Compute {
  // Whether the scores of this warpgroup's tiles come before the values of the other's:
  // where tensor cores bind rather than memory, so that they have work during the
  // other's softmax.
  static constexpr bool OVERTAKES = group == 1 && ROW_TILES > 1;

  const Params &p;
  Shared &shared;
  State state;

  // Shrinks what came before a tile to its maximum and starts on its values; `sums`
  // are of its weights where this warpgroup owns it.
  DEVICE void start_values(Tile tile, Sums sums) {
    wait(shared_address(&shared.weighed[tile.place()]), tile.parity());
    // Of a tile of the other's, this warpgroup has yet to see itself what has come.
#pragma unroll 1
    for (u32 panel = 0; panel < OWN_PANELS; ++panel)
      wait(shared_address(&shared.full[tile.place()][group * OWN_PANELS + panel]), tile.parity());
    float factor[HALVES];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const Rescale rescale = shared.rescales[tile.place()][lane_row(h)];
      state.max[h] = rescale.max;
      state.sum[h] = state.sum[h] * rescale.factor + sums.of[h];
      factor[h] = rescale.factor;
    }
#pragma unroll
    for (u32 i = 0; i < OWN_COLUMNS / 2; ++i) state.o[i] *= factor[i / 2 % 2];
    start_outputs(state, tile, group);
  }

  // Gives this warpgroup's values of a tile back.
  DEVICE void release(Tile tile) { arrive(shared.empty[tile.place()][group]); }

  // Adds all of a tile.
  DEVICE void add(Tile tile, Sums sums) {
    start_values(tile, sums);
    wgmma_commit_group();
    finish<0>(state.o);
    release(tile);
  }

  // Makes the scores of a tile that this warpgroup owns, and adds the other's tile
  // before; where it overtakes, only starts on that.
  DEVICE void next(float (&s)[TILE / 2], Tile tile) {
    const Tile before = {tile.number - 1};
    if (OVERTAKES) {
      start_scores(s, shared, tile);
      wgmma_commit_group();
      start_values(before, {});
      wgmma_commit_group();
      finish<1>(s);
    } else {
      add(before, {});
      start_scores(s, shared, tile);
      wgmma_commit_group();
      finish<0>(s);
    }
  }

  // Works through `piece`, whose first tile is `first`.
  DEVICE void attend(const Piece &piece, u32 first_row, Tile first) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) state.max[h] = minus_infinity(), state.sum[h] = 0;
#pragma unroll
    for (u32 i = 0; i < OWN_COLUMNS / 2; ++i) state.o[i] = 0;
    u32 ends[HALVES];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 token = min_of(first_row + lane_row(h), ALL_ROWS - 1) / Q_HEADS;
      ends[h] = piece.length - (NEW_TOKENS - 1 - token);
    }

    const u32 tiles = ceil_div(piece.tokens, TILE);
    if (group < tiles) {
      float s[TILE / 2];
      if (group == 0) {
        start_scores(s, shared, first);
        wgmma_commit_group();
        finish<0>(s);
      } else {
        next(s, first.after(1));
      }
      for (u32 index = group;; index += WARPGROUPS) {
        const Tile tile = first.after(index);
        const u32 token = piece.first_token + index * TILE;
        const u32 left = piece.tokens - index * TILE;
        if (token + TILE > piece.length - (NEW_TOKENS - 1)) mask(s, ends, token);
        // All four warps have read the keys that weights and zeros replace.
        sync_warpgroup<group>();
        if (!CONVERTS && left < TILE) clear_values(tile, left);
        const Sums sums = weigh(state, s, shared, tile, p.scale);
        fence_proxy_async_shared();
        arrive(shared.weighed[tile.place()]);
        if (OVERTAKES) {
          finish<0>(state.o);
          release(first.after(index - 1));
        }
        add(tile, sums);
        if (index + WARPGROUPS >= tiles) break;
        next(s, first.after(index + WARPGROUPS));
      }
    }
    // The last tile, where it is the other's.
    if (tiles > 0 && (tiles - 1) % WARPGROUPS != group)
      add(first.after(tiles - 1), {});
  }

  // Writes outputs, or partial ones where the sequence has further pieces.
  DEVICE void write(const Piece &piece, u32 first_row) {
    // Either warpgroup has weighed some of the tiles. Places of sums are found here: the
    // compiler would keep them over all tiles, for which there is no register.
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      state.sum[h] = sum_of_quad(state.sum[h]);
      if (lane_index() % 4 == 0) shared.sums[group][held(lane_row(h))] = state.sum[h];
    }
    Computing{}();
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 row = first_row + lane_row(h);
      if (row >= ALL_ROWS) continue;
      const float sum = state.sum[h] + shared.sums[group ^ 1][held(lane_row(h))];
      const u32 column = group * OWN_COLUMNS + lane_column(0);
      if (piece.splits == 1) {
        const float factor = factor_of(sum);
        u32 *to = reinterpret_cast<u32 *>(
            p.o + (u64(piece.request) * ALL_ROWS + row) * VALUE_DIM + column);
#pragma unroll
        for (u32 block = 0; block < OWN_COLUMNS / 8; ++block)
          to[block * 4] = pack(state.o[4 * block + 2 * h] * factor,
                               state.o[4 * block + 2 * h + 1] * factor);
      } else {
        const u64 slot_row = u64(piece.first_slot + piece.split) * ALL_ROWS + row;
        Floats2 *to = reinterpret_cast<Floats2 *>(
            reinterpret_cast<float *>(p.partials.outputs) + slot_row * VALUE_DIM + column);
#pragma unroll
        for (u32 block = 0; block < OWN_COLUMNS / 8; ++block)
          to[block * 4] = {state.o[4 * block + 2 * h], state.o[4 * block + 2 * h + 1]};
        if (group == 0 && lane_index() % 4 == 0)
          p.partials.softmaxes[slot_row] = {state.max[h], sum};
      }
    }
  }

  // Works through all pieces of the block.
  DEVICE void run(u32 row_tile) {
    const u32 first_row = row_tile * ROWS;
    const u32 rows = min_of(ROWS, ALL_ROWS - first_row);
    Tile first = {0};
    u32 parity = 0;
    for_each_piece(p.work, blockIdx.x / ROW_TILES, [&](const Piece &piece) {
      wait(shared_address(&shared.queries_full), parity);
      convert_queries();
      attend(piece, first_row, first);
      write(piece, first_row);
      u32 *ticket = p.tickets + piece.first_slot * ROW_TILES + row_tile;
      if (piece.splits > 1 && is_last_block(ticket, piece.splits, Computing{}))
        // The queries' place is free.
        combine<COMPUTING, TILE_BYTES, ROWS>(p.partials, piece, first_row, rows, p.scale, panels,
                                             WriteCombined{p, piece, first_row}, Computing{});
      fence_proxy_async_shared();
      arrive(shared.queries_empty);
      first.number += ceil_div(piece.tokens, TILE);
      parity ^= 1;
    });
  }
};

KERNEL(THREADS, 1) attention_mla_wgmma(const __grid_constant__ Params p) {
  __shared__ Shared shared;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();

  const u32 row_tile = blockIdx.x % ROW_TILES;
  const u32 group = threadIdx.x / WARPGROUP;
  if (group == 0) {
    setmaxnreg_inc<COMPUTING_REGISTERS>();
    Compute<0>{p, shared}.run(row_tile);
  } else if (group == 1) {
    setmaxnreg_inc<COMPUTING_REGISTERS>();
    Compute<1>{p, shared}.run(row_tile);
  } else {
    setmaxnreg_dec<FETCHING_REGISTERS>();
    if (CONVERTS)
      Convert{p, shared, {p, shared}}.run(row_tile);
    else if (threadIdx.x == COMPUTING)
      Fetch{p, shared}.run(row_tile);
  }
}
