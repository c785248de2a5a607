// Decode with multi-head latent attention (MLA, absorbed): the cached latents are keys
// and values, o = softmax(q k^T * scale) v for each query head. Products are wgmma
// instructions, tiles are loaded by tensor copies (TMA); sm_90a. Meant for many heads:
// attention_mla.cu does not pad rows to 64.
//
// q is [batch][new token][q head][KEY_DIM], o the same with KV_LORA_RANK, where KEY_DIM is
// KV_LORA_RANK + QK_ROPE_HEAD_DIM, the width of an absorbed key. The cache is
// [batch][token][record] or [page][token in page][record], where [batch][page of the
// request] is the page table. A record is KEY_DIM elements in 16 bits; or KV_LORA_RANK
// latents in E4M3, a scale for each quarter of them, and the rope elements in bf16. The
// latents of a token's key are also its value, so a tile is loaded once and read twice.
// A new token attends to the cached tokens up to itself. All heads of all new tokens are
// the rows of one matrix, 64 to a block; ROW_TILES blocks read the same tokens at the
// same time.
//
// In a block, one warpgroup loads and two compute. Tiles of 64 tokens arrive as panels
// of 64 columns in the two stages of a ring: elements of 16 bits by tensor copies, those
// of 8 bits through registers, where they are converted to f16 and multiplied by their
// scales. Tiles that have no stage yet are prefetched into L2, TILES_AHEAD of them: a stage
// then waits for L2 rather than for memory, and memory is busy while no stage is free.
// With SHARING, pairs of row tiles are clusters: each copies every second panel, to both
// blocks, so that a tile takes half of what L2 delivers to an SM.
//
// Warpgroup 0 owns the first tile of a split, warpgroup 1 the second, and so on; warpgroup w
// has the 256 columns of the outputs of all tiles from 256 w on. For a tile
//
//   its owner   scores = q k^T, panel by panel as they arrive; attention weights by
//               online softmax (in powers of two), written over the tile's last panel,
//               which was scored and is not part of the value; rescale factors of the
//               outputs to the new maximum
//   both        outputs = outputs * factor + weights * values, in their columns
//
// While one warpgroup computes its softmax, the other multiplies. With OVERTAKE the second
// warpgroup starts on the scores of its own tile even before the values of the first's tile;
// otherwise it does the values first, so that stages are free early.
//
// The last block of a sequence combines its splits; or with CLUSTER > 1 these are the blocks of
// clusters, with one split each, which combine them together (split_kv.cuh).
//
// Launch: ROW_TILES times as many blocks as the work list is made for, in clusters of
// CLUSTER or SHARING, THREADS threads, SHARED_BYTES of dynamic shared memory.
#include "cached.cuh"
#include "cluster.cuh"
#include "mbarrier.cuh"
#include "split_kv.cuh"
#include "tile.cuh"
#include "wgmma.cuh"

// Products of queries and keys, the rope panel's where its elements are not converted, and
// of attention weights and values.
WGMMA(MULTIPLIED, 64)
WGMMA(MULTIPLIED, 256)
#if defined(CACHED_E4M3) && !defined(ELEMENT_F16)
WGMMA(ELEMENT, 64)
#endif

// --- Shape -----------------------------------------------------------------

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 WARPGROUPS = 2;
constexpr u32 COMPUTING = WARPGROUPS * WARPGROUP;  // threads

constexpr u32 ALL_ROWS = Q_HEADS * NEW_TOKENS;
constexpr u32 ROWS = 64;      // of a block, padding included
constexpr u32 TILE = 64;      // tokens
constexpr u32 LEAST_BOX = 8;  // tokens: the rows of one swizzle atom

// A tile is one box, or several where pages are smaller than tiles.
constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_TOKENS = PAGED ? PAGE_SIZE : TILE;
constexpr u32 BOX = min_of(PAGE_TOKENS, TILE);

// Widths: KEY_DIM and VALUE_DIM are the host's names.
constexpr u32 KV_LORA_RANK = VALUE_DIM;
constexpr u32 QK_ROPE_HEAD_DIM = KEY_DIM - KV_LORA_RANK;

// A record with E4M3 latents: these, their scales, rope elements in bf16.
constexpr bool CONVERTS = CACHED_BYTES == 1;
constexpr u32 QUARTERS = 4;
constexpr u32 QUARTER_BYTES = KV_LORA_RANK / QUARTERS;
constexpr u32 SCALES_AT = KV_LORA_RANK;
constexpr u32 ROPE_AT = SCALES_AT + QUARTERS * sizeof(float);
constexpr u32 RECORD_BYTES =
    CONVERTS ? ROPE_AT + QK_ROPE_HEAD_DIM * sizeof(u16) : KEY_DIM * sizeof(u16);
// Records of a tile that are contiguous: the largest power of two that divides a page. What
// one instruction prefetches where tiles are copied, not long before the next copy.
constexpr u32 RUN = min_of(PAGE_TOKENS & (0u - PAGE_TOKENS), TILE);
constexpr u32 PREFETCHED_RUN = min_of(RUN, TILE / 2);

constexpr u32 PANEL_COLUMNS = 64;
constexpr u32 ROW_BYTES = PANEL_COLUMNS * sizeof(u16);
constexpr u32 PANEL_BYTES = TILE * ROW_BYTES;
constexpr u32 VALUE_PANELS = KV_LORA_RANK / PANEL_COLUMNS;
constexpr u32 KEY_PANELS = KEY_DIM / PANEL_COLUMNS;
// Panels of values, and columns of outputs, of a warpgroup.
constexpr u32 OWN_PANELS = VALUE_PANELS / WARPGROUPS;
constexpr u32 OWN_COLUMNS = KV_LORA_RANK / WARPGROUPS;
constexpr u32 WEIGHTS_PANEL = VALUE_PANELS;
constexpr u32 TILE_BYTES = KEY_PANELS * PANEL_BYTES;
constexpr u32 STAGES = 2;
constexpr u32 AHEAD = TILES_AHEAD;  // tiles
constexpr u32 VECTORS = KV_LORA_RANK / 4;
// Where blocks of a cluster receive each other's results.
constexpr u32 MOST_ROWS = min_of(ROWS, ALL_ROWS);
typedef Room<CLUSTER, MOST_ROWS, VECTORS> RoomOfCluster;

// Steps of descriptors: eight rows of a panel, and 16 of its columns or rows.
constexpr u32 ATOM_BYTES = 8 * ROW_BYTES;
constexpr u32 STEP = 16;
constexpr u32 STEPS = PANEL_COLUMNS / STEP;

// Registers of a thread by role; together as many as the block was launched with.
constexpr u32 COMPUTING_REGISTERS = CONVERTS ? 200 : SHARING > 1 || CLUSTER > 1 ? 232 : 240;
constexpr u32 LOADING_REGISTERS = CONVERTS ? 104 : SHARING > 1 || CLUSTER > 1 ? 40 : 24;

// Whether rows of one matrix may attend to different tokens.
constexpr bool RAGGED_ROWS = NEW_TOKENS > 1;

static_assert(THREADS == COMPUTING + WARPGROUP, "one warpgroup loads, the others compute");
static_assert(TILE == TILE_TOKENS, "the work list is cut at tiles");
static_assert(KEY_PANELS == VALUE_PANELS + 1, "attention weights replace the rope panel");
static_assert(TILE == PANEL_COLUMNS && TILE == ROWS, "attention weights are a panel");
static_assert(OWN_COLUMNS == 256, "one product has all columns of a warpgroup");
static_assert(ALL_ROWS <= ROW_TILES * ROWS && ALL_ROWS > (ROW_TILES - 1) * ROWS,
              "every block has rows");
static_assert(CONVERTS || BOX % LEAST_BOX == 0 && TILE % BOX == 0, "boxes tile a tile");
static_assert(CONVERTS || PAGE_TOKENS % BOX == 0, "boxes lie within pages");
static_assert(QUARTERS * 2 == VALUE_PANELS, "a quarter is two panels");
static_assert(RECORD_BYTES % CHUNK_BYTES == 0, "records begin at chunks");
static_assert(AHEAD > 0 || !CONVERTS, "records are prefetched before they are read");
static_assert(SHARING == 1 || SHARING == 2 && CLUSTER == 1 && !CONVERTS && ROW_TILES % 2 == 0,
              "row tiles that share copies are in pairs, and copy");
static_assert(SHARED_BYTES == (1 + STAGES) * TILE_BYTES, "the host reserves these");
static_assert(CLUSTER == 1 || sizeof(RoomOfCluster) <= SHARED_BYTES, "panels hold results");

// --- Parameters ------------------------------------------------------------

struct Params {
  TensorMap q;      // columns, rows of a request, requests
  TensorMap boxes;  // of BOX tokens: columns, tokens of a page or request, pages or requests
  TensorMap least;  // the same of LEAST_BOX tokens; both unused where elements are converted
  const u8 *kv;
  u16 *o;
  const u32 *page_table;  // null where the cache is contiguous
  const Split *work;
  Partials<ALL_ROWS, VECTORS> partials;
  u32 *tickets;      // [partial][ROW_TILES][CLUSTER]; zero between launches
  u32 request_rows;  // tokens of a request; entries of its page table when paged
  float scale;       // of scores, for powers of two
};

// --- Shared memory -----------------------------------------------------------

// Queries and tiles, panel after panel.
extern __shared__ __align__(1024) u8 panels[];

DEVICE u32 query_panel(u32 panel) { return shared_address(panels) + panel * PANEL_BYTES; }

// A tile by its number: tiles take stages and parities in turn, over all splits of a
// block.
struct Tile {
  u32 number;

  DEVICE u32 stage() const { return number % STAGES; }
  DEVICE u32 parity() const { return number / STAGES % 2; }
  DEVICE Tile after(u32 tiles) const { return {number + tiles}; }
  DEVICE u32 panel(u32 panel) const { return query_panel((1 + stage()) * KEY_PANELS + panel); }
};

// What a tile's owner publishes for each row: the maximum so far, and the factor that
// rescales earlier outputs to it.
struct alignas(8) Rescale {
  float max;
  float factor;
};

struct Shared {
  u64 full[STAGES][KEY_PANELS];   // panels have arrived
  // A warpgroup of each block that shares the tile has used its values; with both warpgroups,
  // the tile is free.
  u64 empty[STAGES][WARPGROUPS];
  u64 rescales_full[STAGES];      // `rescales` are written
  u64 weights_full[STAGES];       // attention weights are
  u64 queries_full;
  u64 queries_empty;
  Rescale rescales[STAGES][ROWS];
  float sums[WARPGROUPS][ROWS];  // of attention weights, at the end of a split
  ExchangeBarriers exchange;     // in clusters

  DEVICE void init() {
    for (u32 stage = 0; stage < STAGES; ++stage) {
      for (u32 panel = 0; panel < KEY_PANELS; ++panel)
        mbarrier_init(shared_address(&full[stage][panel]), CONVERTS ? WARPGROUP / WARP : 1);
      for (u32 group = 0; group < WARPGROUPS; ++group)
        mbarrier_init(shared_address(&empty[stage][group]), SHARING * WARPGROUP / WARP);
      mbarrier_init(shared_address(&rescales_full[stage]), WARPGROUP / WARP);
      mbarrier_init(shared_address(&weights_full[stage]), WARPGROUP / WARP);
    }
    mbarrier_init(shared_address(&queries_full), 1);
    mbarrier_init(shared_address(&queries_empty), COMPUTING / WARP);
    if (CLUSTER > 1)
      exchange.init(CLUSTER);
    else
      fence_mbarrier_init();
  }
};

// Arrives once for each warp, after all of its lanes.
DEVICE void arrive(u64 &barrier) {
  __syncwarp();
  if (lane_index() == 0) mbarrier_arrive(shared_address(&barrier));
}

// What the warpgroups that compute give each other in a cluster.
struct ExchangeOfBlock : ClusterExchange<CLUSTER, COMPUTING, MOST_ROWS, ALL_ROWS, VECTORS> {
  DEVICE ExchangeOfBlock(Shared &shared, const Split &split, u32 first_row)
      : ClusterExchange{split, shared.exchange, *reinterpret_cast<RoomOfCluster *>(panels),
                        first_row, min_of(ROWS, ALL_ROWS - first_row), 0} {}
};

// The barrier of the warpgroups that compute.
struct Computing {
  // With fewer the compiler spills.
  static constexpr u32 SPLITS_AT_ONCE = 4;
  DEVICE void operator()() const { bar_sync(1, COMPUTING); }
};

// A barrier for each of these warpgroups.
template <u32 group>
DEVICE void sync_warpgroup() {
  bar_sync(2 + group, WARPGROUP);
}

// --- Records --------------------------------------------------------------------

// Index of the record of a request's token.
DEVICE u32 record_index(const Params &p, u32 request, u32 token) {
  const u32 *page = p.page_table + u64(request) * p.request_rows + token / PAGE_TOKENS;
  return PAGED ? ld_global_nc_u32(page) * PAGE_TOKENS + token % PAGE_TOKENS
               : request * p.request_rows + token;
}

// Makes `split` the split in which the tile lies that is counted from its first tile on, into
// later splits, and `index` the tile's number there. False where the block has no such tile.
DEVICE bool find_tile(const Params &p, Split &split, u32 &index) {
  for (u32 tiles; index >= (tiles = ceil_div(split.tokens, TILE)); index -= tiles) {
    if (split.next == 0) return false;
    split = load_split(p.work, split.next);
  }
  return true;
}

// Prefetches contiguous records into L2: up to `run` from a token of the split on.
template <u32 run>
DEVICE void prefetch_run(const Params &p, const Split &split, u32 token) {
  if (token >= split.tokens) return;
  const u64 first = record_index(p, split.request, split.first_token + token);
  cp_async_bulk_prefetch(p.kv + first * RECORD_BYTES,
                         min_of(run, split.tokens - token) * RECORD_BYTES);
}

// --- The warp that loads -----------------------------------------------------------

// Run by one of its threads: copies queries and tiles as soon as there is room.
struct Loader {
  const Params &p;
  Shared &shared;
  u32 row_tile;
  Tile tile = {0};
  u32 splits = 0;

  // Copies the queries of a split when the split before has ended.
  DEVICE void queries(const Split &split) {
    wait(shared_address(&shared.queries_empty), (splits & 1) ^ 1);
    const u32 full = shared_address(&shared.queries_full);
    mbarrier_arrive_expect_tx(full, TILE_BYTES);
    for (u32 panel = 0; panel < KEY_PANELS; ++panel)
      cp_async_bulk_tensor_3d_load(query_panel(panel), p.q, panel * PANEL_COLUMNS,
                                   row_tile * ROWS, split.request, full);
    ++splits;
  }

  // Copies a box of a panel, to all blocks that share it.
  DEVICE void box(u32 to, const TensorMap &map, u32 column, u32 token, u32 group, u32 full) {
    if (SHARING > 1)
      cp_async_bulk_tensor_3d_multicast(to, map, column, token, group, full, (1 << SHARING) - 1);
    else
      cp_async_bulk_tensor_3d_load(to, map, column, token, group, full);
  }

  // Copies `count` boxes of `tokens` each, of the tile that begins at `token`: the values
  // of each warpgroup when it has used those before, and with the last of them the rope
  // panel. Of shared tiles this block's panels, though all arrive.
  template <u32 tokens>
  DEVICE void boxes(const TensorMap &map, const Split &split, u32 token, u32 count) {
    u32 page[TILE / BOX] = {};
    if (PAGED) {
#pragma unroll
      for (u32 i = 0; i < TILE / BOX; ++i)
        if (i * BOX < count * tokens)
          page[i] = ld_global_nc_u32(p.page_table + u64(split.request) * p.request_rows +
                                     (token + i * BOX) / PAGE_TOKENS);
    }
    for (u32 group = 0; group < WARPGROUPS; ++group) {
      wait(shared_address(&shared.empty[tile.stage()][group]), tile.parity() ^ 1);
      const u32 end = group + 1 == WARPGROUPS ? KEY_PANELS : (group + 1) * OWN_PANELS;
      for (u32 panel = group * OWN_PANELS; panel < end; ++panel) {
        const u32 full = shared_address(&shared.full[tile.stage()][panel]);
        mbarrier_arrive_expect_tx(full, count * tokens * ROW_BYTES);
        if (panel % SHARING != row_tile % SHARING) continue;
#pragma unroll
        for (u32 i = 0; i < TILE / tokens; ++i) {
          if (i >= count) break;
          const u32 at = token + i * tokens;
          box(tile.panel(panel) + i * tokens * ROW_BYTES, map, panel * PANEL_COLUMNS,
              PAGED ? at % PAGE_TOKENS : at, PAGED ? page[i * tokens / BOX] : split.request, full);
        }
      }
    }
  }

  // Copies a tile; of a split's last tile only the boxes that hold its tokens.
  DEVICE void next_tile(const Split &split, u32 index) {
    const u32 token = split.first_token + index * TILE, left = split.tokens - index * TILE;
    if (left >= TILE)
      boxes<BOX>(p.boxes, split, token, TILE / BOX);
    else
      boxes<LEAST_BOX>(p.least, split, token, ceil_div(left, LEAST_BOX));
    prefetch_after(split, index);
    ++tile.number;
  }

  // Prefetches what comes AHEAD tiles after one, and with the block's first tile what
  // comes before that and has no stage.
  DEVICE void prefetch_after(const Split &split, u32 index) const {
    if (AHEAD > 0) {
#pragma unroll 1
      for (u32 ahead = tile.number == 0 ? min_of(STAGES, AHEAD) : AHEAD; ahead <= AHEAD; ++ahead)
        prefetch(split, index + ahead);
    }
  }

  // Prefetches a tile, counted as `find_tile` does; the blocks that read it take turns at its
  // records.
  DEVICE void prefetch(Split split, u32 index) const {
    if (!find_tile(p, split, index)) return;
#pragma unroll 1
    for (u32 run = row_tile * PREFETCHED_RUN; run < TILE; run += ROW_TILES * PREFETCHED_RUN)
      prefetch_run<PREFETCHED_RUN>(p, split, index * TILE + run);
  }

  // Copies what a split needs. Its first tiles are copied while the split before ends;
  // its queries have to wait for that end.
  DEVICE void copy(const Split &split) {
    const u32 tiles = ceil_div(split.tokens, TILE), early = min_of(tiles, STAGES);
    for (u32 index = 0; index < early; ++index) next_tile(split, index);
    queries(split);
    for (u32 index = early; index < tiles; ++index) next_tile(split, index);
  }

  // Copies all splits of the block.
  DEVICE void run() {
    for_each_split(p.work, list_block<CLUSTER, ROW_TILES>(),
                   [&](const Split &split) { copy(split); });
  }
};

// --- The warpgroup that converts ----------------------------------------------------

// A thread's share of a tile: four tokens, 16 apart; 16 latents of each quarter of their
// records, which are two chunks of a panel; and one chunk of the rope panel. They are
// assigned such that eight lanes that store together use different banks: chunks of two
// neighbouring tokens, of the rope panel from its other half.
struct Share {
  static constexpr u32 TOKENS = 4;
  static constexpr u32 APART = TILE / TOKENS;

  DEVICE static u32 token() {
    return threadIdx.x % WARPGROUP / WARP * 4 + lane_index() / 16 * 2 + lane_index() / 4 % 2;
  }
  // The chunk of this thread in a part of 128 bytes of a record.
  DEVICE static u32 chunk() {
    return (lane_index() / 8 + lane_index() / 4) % 2 * 4 + lane_index() % 4;
  }
  // Offset in its panel of a chunk of 16-bit elements of the first token.
  DEVICE static u32 offset(u32 chunk) {
    return token() * ROW_BYTES + (chunk ^ token() % 8) * CHUNK_BYTES;
  }
};

// Indices of the records of a thread's tokens.
struct RecordIndices {
  static constexpr u32 NONE = ~0u;
  u32 of[Share::TOKENS];
};

// The same records: where this thread's elements of each begin, null where there is no
// record.
struct Records {
  const u8 *at[Share::TOKENS];
};

// One of the scales of each: that of quarter lane % 4.
struct Scales {
  float of[Share::TOKENS];
};

// A thread's elements of one part of the records.
struct Raw {
  Words4 elements[Share::TOKENS];
};

struct Convert {
  // Parts of a tile: its quarters and the rope panel; and those that are being loaded while one
  // is converted, which takes less than a load from L2.
  static constexpr u32 PARTS = QUARTERS + 1;
  static constexpr u32 PARTS_AHEAD = 2;
  static_assert(PARTS_AHEAD < PARTS, "they are of this tile and the next");

  const Params &p;
  Shared &shared;
  Loader queries;
  Tile tile = {0};

  // Loads the indices of this thread's records in a tile of the split.
  DEVICE RecordIndices look_up(const Split &split, u32 index) const {
    RecordIndices indices;
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      const u32 token = index * TILE + Share::token() + i * Share::APART;
      indices.of[i] = RecordIndices::NONE;
      if (token < split.tokens)
        indices.of[i] = record_index(p, split.request, split.first_token + token);
    }
    return indices;
  }

  // Finds the records.
  DEVICE Records find(const RecordIndices &indices) const {
    Records records;
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      records.at[i] = nullptr;
      if (indices.of[i] != RecordIndices::NONE)
        records.at[i] = p.kv + u64(indices.of[i]) * RECORD_BYTES + Share::chunk() * CHUNK_BYTES;
    }
    return records;
  }

  // Loads their scales.
  DEVICE Scales load_scales(const Records &records) const {
    // Computed here, once for each tile: there is no register to keep it.
    const i32 from_elements = SCALES_AT + held(lane_index()) % QUARTERS * sizeof(float) -
                              Share::chunk() * CHUNK_BYTES;
    Scales scales = {};
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      if (records.at[i] != nullptr)
        scales.of[i] =
            ld_global_nc_f32(reinterpret_cast<const float *>(records.at[i] + from_elements));
    return scales;
  }

  // Loads a part of the records; zeros where there is no record, since memory there may
  // hold NaN.
  DEVICE Raw load(const Records &records, u32 part) const {
    Raw raw = {};
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      if (records.at[i] != nullptr)
        raw.elements[i] = ld_global_nc_v4_kept(records.at[i] + part_at(part));
    return raw;
  }

  // Where a part begins in a record.
  DEVICE static constexpr u32 part_at(u32 part) {
    return part < QUARTERS ? part * QUARTER_BYTES : ROPE_AT;
  }

  // Writes a quarter as two panels of keys, times its scales.
  DEVICE void store(const Raw &raw, const u32 (&scales)[Share::TOKENS / 2], u32 part) const {
    const u32 panel = Share::chunk() / 4, chunk = Share::chunk() % 4 * 2;
    const u32 to = tile.panel(part * 2) + panel * PANEL_BYTES + Share::offset(chunk);
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i) {
      const u32 pair = __shfl_sync(ALL_LANES, scales[i / 2], part, QUARTERS);
      const u32 scale = __byte_perm(pair, pair, i % 2 ? 0x3232 : 0x1010);
      Words4 chunks[2];
#pragma unroll
      for (u32 j = 0; j < 4; ++j) {
        const u32 bytes = raw.elements[i].w[j];
        u32 *words = chunks[j / 2].w + j % 2 * 2;
        words[0] = mul_f16x2(f16x2_of_e4m3<0, 1>(bytes), scale);
        words[1] = mul_f16x2(f16x2_of_e4m3<2, 3>(bytes), scale);
      }
      st_shared_v4(to + i * Share::APART * ROW_BYTES, chunks[0]);
      st_shared_v4((to ^ CHUNK_BYTES) + i * Share::APART * ROW_BYTES, chunks[1]);
    }
  }

  // Writes the rope panel, which needs no conversion.
  DEVICE void store_rope(const Raw &raw) const {
    const u32 to = tile.panel(VALUE_PANELS) + Share::offset(Share::chunk());
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS; ++i)
      st_shared_v4(to + i * Share::APART * ROW_BYTES, raw.elements[i]);
  }

  // Prefetches a tile into L2, counted from the split's first tile on into later splits.
  DEVICE void prefetch(Split split, u32 index) const {
    const u32 run = threadIdx.x % WARPGROUP * RUN;
    if (run < TILE && find_tile(p, split, index)) prefetch_run<RUN>(p, split, index * TILE + run);
  }

  // Converts a tile whose first parts are being loaded: the values of each warpgroup when it
  // has used those before. Starts to load later parts before it writes one, at the end those of
  // the next tile.
  DEVICE void convert(Raw (&raw)[PARTS_AHEAD], Records &records, Scales &of_records,
                      const RecordIndices &next) const {
    const u32 stage = tile.stage();
    u32 scales[Share::TOKENS / 2];  // of two tokens each
#pragma unroll
    for (u32 i = 0; i < Share::TOKENS / 2; ++i)
      scales[i] = cvt_f16x2(of_records.of[2 * i], of_records.of[2 * i + 1]);
#pragma unroll
    for (u32 part = 0; part < PARTS; ++part) {
      if (part + PARTS_AHEAD == PARTS) records = find(next);
      if (part + 1 == PARTS) of_records = load_scales(records);
      const Raw after = load(records, (part + PARTS_AHEAD) % PARTS);
      if (part < QUARTERS && part * 2 % OWN_PANELS == 0)
        wait(shared_address(&shared.empty[stage][part * 2 / OWN_PANELS]), tile.parity() ^ 1);
      if (part < QUARTERS)
        store(raw[0], scales, part);
      else
        store_rope(raw[0]);
      fence_proxy_async_shared();
#pragma unroll
      for (u32 panel = part * 2; panel < min_of(part * 2 + 2, KEY_PANELS); ++panel)
        arrive(shared.full[stage][panel]);
#pragma unroll
      for (u32 i = 0; i + 1 < PARTS_AHEAD; ++i) raw[i] = raw[i + 1];
      raw[PARTS_AHEAD - 1] = after;
    }
  }

  // Converts what a split needs. Its first tiles are converted while the split before
  // ends; its queries have to wait for that end.
  DEVICE void split(const Split &split) {
    const u32 tiles = ceil_div(split.tokens, TILE);
    const u32 early = tile.number == 0 ? 0 : min_of(tiles, STAGES);
    Records records = find(look_up(split, 0));
    Scales scales = load_scales(records);
    Raw raw[PARTS_AHEAD];
#pragma unroll
    for (u32 part = 0; part < PARTS_AHEAD; ++part) raw[part] = load(records, part);
#pragma unroll 1
    for (u32 index = 0;; ++index) {
      if (index == early && threadIdx.x % WARPGROUP == 0) queries.queries(split);
      if (index == tiles) break;
      prefetch(split, index + AHEAD);
      convert(raw, records, scales, look_up(split, index + 1));
      ++tile.number;
    }
  }

  // Converts all splits of the block.
  DEVICE void run() {
    const u32 block = list_block<CLUSTER, ROW_TILES>();
    const Split first = load_split(p.work, block);
    for (u32 index = 0; index != AHEAD; ++index) prefetch(first, index);
    for_each_split(p.work, block, [&](const Split &of) { split(of); });
  }
};

// --- State of a warpgroup --------------------------------------------------------

// Of each matrix of 64 rows a warp has 16. Lane l has rows l / 4 and l / 4 + 8 of these,
// and of every eight columns 2 (l % 4) and the next.
constexpr u32 HALVES = 2;

DEVICE u32 lane_row(u32 half) {
  return warp_index() % (WARPGROUP / WARP) * 16 + half * 8 + lane_index() / 4;
}
DEVICE u32 lane_column(u32 block) { return block * 8 + lane_index() % 4 * 2; }

struct State {
  float max[HALVES];  // of all tiles
  float sum[HALVES];  // of this lane's attention weights, of tiles that the warpgroup owns
  float o[OWN_COLUMNS / 2];
};

// Converts the queries to f16 where latents are converted.
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

// Starts s = q k^T for a tile, panel by panel as they arrive.
DEVICE void start_scores(float (&s)[TILE / 2], Shared &shared, Tile tile) {
  pin(s);
  // In clusters the compiler would keep all descriptors of queries from one tile to the next,
  // for which there are no registers.
  const u32 first_query = CLUSTER > 1 ? held(query_panel(0)) : query_panel(0);
#pragma unroll
  for (u32 panel = 0; panel < KEY_PANELS; ++panel) {
    wait(shared_address(&shared.full[tile.stage()][panel]), tile.parity());
    wgmma_fence();
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
      const u32 offset = panel * PANEL_BYTES + step * STEP * sizeof(u16);
      const u64 queries = panel_descriptor(first_query, offset, 0, ATOM_BYTES);
      const u64 keys = panel_descriptor(tile.panel(0), offset, 0, ATOM_BYTES);
      if (panel < VALUE_PANELS)
        Wgmma<MULTIPLIED, 64>::ss(s, queries, keys, panel + step > 0);
      else
        Wgmma<ELEMENT, 64>::ss(s, queries, keys, true);
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
    Wgmma<MULTIPLIED, 256>::ss_trans(state.o, weights, values, true);
  }
}

// Waits for all products but those of the last `pending` groups. The products that
// accumulate into `d` must be among those waited for.
template <u32 pending, u32 count>
DEVICE void finish(float (&d)[count]) {
  wgmma_wait_group<pending>();
  pin(d);
}

// Masks the scores of a tile that begins at `token`: those of tokens from a row's `ends`
// on become minus infinity.
DEVICE void mask(float (&s)[TILE / 2], const u32 (&ends)[HALVES], u32 token) {
#pragma unroll
  for (u32 i = 0; i < TILE / 2; ++i)
    if (token + lane_column(i / 4) + i % 2 >= ends[i / 2 % 2]) s[i] = minus_infinity();
}

// Clears the values of a tile after its first `tokens`: memory there may hold NaN, which
// an attention weight of zero does not cancel.
DEVICE void clear_values(Tile tile, u32 tokens) {
  const u32 thread = threadIdx.x % WARPGROUP;
  constexpr u32 chunks = ROW_BYTES / sizeof(Words4), threads_of_row = chunks * VALUE_PANELS;
  const u32 panel = thread / chunks % VALUE_PANELS;
  for (u32 row = tokens + thread / threads_of_row; row < TILE; row += WARPGROUP / threads_of_row)
    st_shared_v4(tile.panel(panel) + row * ROW_BYTES + thread % chunks * sizeof(Words4), {});
}

// Of this thread's rows.
struct Rescales {
  Rescale of[HALVES];
};

// What is subtracted from a row's scaled scores.
DEVICE float shift_of(float max, float scale) {
  return RAGGED_ROWS && max == minus_infinity() ? 0 : max * scale;
}

// Adds the scores of a tile to the online softmax. Returns maxima and factors, and writes
// them for the other warpgroup, which rescales its outputs meanwhile.
DEVICE Rescales add_scores(const State &state, const float (&s)[TILE / 2], Shared &shared,
                           Tile tile, float scale) {
  Rescales rescales;
#pragma unroll
  for (u32 h = 0; h < HALVES; ++h) {
    float largest = state.max[h];
#pragma unroll
    for (u32 block = 0; block < TILE / 8; ++block)
      largest = fmaxf(largest, fmaxf(s[4 * block + 2 * h], s[4 * block + 2 * h + 1]));
    const float max = max_of_quad(largest);
    rescales.of[h] = {max, ex2_approx(state.max[h] * scale - shift_of(max, scale))};
    if (lane_index() % 4 == 0) shared.rescales[tile.stage()][lane_row(h)] = rescales.of[h];
  }
  arrive(shared.rescales_full[tile.stage()]);
  return rescales;
}

// Turns scores into attention weights, and writes them for both warpgroups.
DEVICE void write_weights(float (&s)[TILE / 2], const Rescales &rescales, Shared &shared,
                          Tile tile, float scale) {
#pragma unroll
  for (u32 h = 0; h < HALVES; ++h) {
    const float shift = shift_of(rescales.of[h].max, scale);
    const u32 row = lane_row(h);
    const u32 to = tile.panel(WEIGHTS_PANEL) + row * ROW_BYTES + lane_index() % 4 * sizeof(u32);
#pragma unroll
    for (u32 block = 0; block < TILE / 8; ++block) {
      float &left = s[4 * block + 2 * h], &right = s[4 * block + 2 * h + 1];
      left = ex2_approx(left * scale - shift);
      right = ex2_approx(right * scale - shift);
      st_shared(to + (block ^ row % 8) * sizeof(Words4), pack_weights(left, right));
    }
  }
  fence_proxy_async_shared();
  arrive(shared.weights_full[tile.stage()]);
}

// The function that `combine` calls: one type for both warpgroups, so that they share the
// shared memory of one instance.
struct WriteCombined {
  const Params &p;
  const Split &split;
  u32 first_row;

  DEVICE void operator()(u32 row, u32 vector, Floats4 outputs, float sum) const {
    const u64 o_row = u64(split.request) * ALL_ROWS + first_row + row;
    reinterpret_cast<Words2 *>(p.o)[o_row * VECTORS + vector] =
        pack_outputs(outputs, factor_of(sum));
  }
};

// --- A warpgroup that computes ------------------------------------------------------

template <u32 group>
struct Compute {
  // Whether this warpgroup computes the scores of its tiles before the values of the
  // other's, so that tensor cores have work during the other's softmax.
  static constexpr bool OVERTAKES = group == 1 && OVERTAKE;

  const Params &p;
  Shared &shared;
  State state;

  // Rescales the outputs so far to maxima that grew.
  DEVICE void rescale(const Rescales &to) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      state.max[h] = to.of[h].max;
      state.sum[h] *= to.of[h].factor;
    }
    // Also where all factors are one: at a branch the compiler would wait for scores that are
    // being multiplied (C7517).
#pragma unroll
    for (u32 i = 0; i < OWN_COLUMNS / 2; ++i) state.o[i] *= to.of[i / 2 % 2].factor;
  }

  // The same to those of the other warpgroup's tile, which has scored it.
  DEVICE void rescale_to(Tile tile) {
    wait(shared_address(&shared.rescales_full[tile.stage()]), tile.parity());
    Rescales rescales;
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) rescales.of[h] = shared.rescales[tile.stage()][lane_row(h)];
    rescale(rescales);
  }

  // Starts on the values of a tile.
  DEVICE void start_values(Tile tile) {
    wait(shared_address(&shared.weights_full[tile.stage()]), tile.parity());
    // For a tile of the other warpgroup, this one has not waited for the panels yet.
#pragma unroll 1
    for (u32 panel = 0; panel < OWN_PANELS; ++panel)
      wait(shared_address(&shared.full[tile.stage()][group * OWN_PANELS + panel]), tile.parity());
    start_outputs(state, tile, group);
  }

  // Releases this warpgroup's values of a tile, to every block that copies them. What threads have
  // written there, weights and zeros, a proxy fence has followed, and products that read it.
  DEVICE void release(Tile tile) {
    u64 &empty = shared.empty[tile.stage()][group];
    if (SHARING == 1) return arrive(empty);
    __syncwarp();
    if (lane_index() < SHARING)
      mbarrier_arrive_cluster_unordered(mapa(shared_address(&empty), lane_index()));
  }

  // Adds the values of a tile, to whose maxima outputs are rescaled.
  DEVICE void add(Tile tile) {
    start_values(tile);
    wgmma_commit_group();
    finish<0>(state.o);
    release(tile);
  }

  // Computes the scores of a tile that this warpgroup owns, and adds the tile before, the
  // other's; where it overtakes, it only starts on that.
  DEVICE void next(float (&s)[TILE / 2], Tile tile) {
    const Tile before = {tile.number - 1};
    if (OVERTAKES) {
      start_scores(s, shared, tile);
      wgmma_commit_group();
      rescale_to(before);
      start_values(before);
      wgmma_commit_group();
      finish<1>(s);
    } else {
      rescale_to(before);
      add(before);
      start_scores(s, shared, tile);
      wgmma_commit_group();
      finish<0>(s);
    }
  }

  // Adds the scores of a tile to the softmax, and its values to the outputs. Outputs are
  // rescaled beside the exponentials, or where it has overtaken when `before` is added to them.
  DEVICE void attend_to(float (&s)[TILE / 2], Tile tile, Tile before) {
    const Rescales rescales = add_scores(state, s, shared, tile, p.scale);
    if (!OVERTAKES) rescale(rescales);
    write_weights(s, rescales, shared, tile, p.scale);
    if (OVERTAKES) {
      finish<0>(state.o);
      release(before);
      rescale(rescales);
    }
    // Behind what the other warpgroup waits for.
    float sums[HALVES] = {};
#pragma unroll
    for (u32 i = 0; i < TILE / 2; ++i) sums[i / 2 % 2] += s[i];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) state.sum[h] += sums[h];
    add(tile);
  }

  // Attends to the tokens of `split`, whose first tile is `first`.
  DEVICE void attend(const Split &split, u32 first_row, Tile first) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) state.max[h] = minus_infinity(), state.sum[h] = 0;
#pragma unroll
    for (u32 i = 0; i < OWN_COLUMNS / 2; ++i) state.o[i] = 0;
    u32 ends[HALVES];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 token = min_of(first_row + lane_row(h), ALL_ROWS - 1) / Q_HEADS;
      ends[h] = split.length - (NEW_TOKENS - 1 - token);
    }

    const u32 tiles = ceil_div(split.tokens, TILE);
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
        const u32 token = split.first_token + index * TILE;
        const u32 left = split.tokens - index * TILE;
        if (token + TILE > split.length - (NEW_TOKENS - 1)) mask(s, ends, token);
        // All four warps have read the keys that attention weights and zeros overwrite.
        sync_warpgroup<group>();
        if (!CONVERTS && left < TILE) clear_values(tile, left);
        attend_to(s, tile, {tile.number - 1});
        if (index + WARPGROUPS >= tiles) break;
        next(s, first.after(index + WARPGROUPS));
      }
    }
    // The last tile, where the other warpgroup owns it.
    if (tiles > 0 && (tiles - 1) % WARPGROUPS != group) {
      rescale_to(first.after(tiles - 1));
      add(first.after(tiles - 1));
    }
  }

  // Writes outputs, or partial results where the sequence has further splits; in clusters gives
  // them to the blocks that combine them.
  DEVICE void write(const Split &split, u32 first_row) {
    // Each warpgroup has the sums of its own tiles. `held` makes the compiler compute their
    // addresses here: it would keep them over all tiles, for which there are no registers.
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      state.sum[h] = sum_of_quad(state.sum[h]);
      if (lane_index() % 4 == 0) shared.sums[group][held(lane_row(h))] = state.sum[h];
    }
    Computing{}();
    const ExchangeOfBlock exchange(shared, split, first_row);
    if (CLUSTER > 1) {
      // All products and copies of the block's one split have left the panels.
      if (group == 0) exchange.begin();
      exchange.wait_ready();
    }
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 row = first_row + lane_row(h);
      if (row >= ALL_ROWS) continue;
      const float sum = state.sum[h] + shared.sums[group ^ 1][held(lane_row(h))];
      const u32 column = group * OWN_COLUMNS + lane_column(0);
      if (CLUSTER > 1) {
        if (group == 0)
          for (u32 block = lane_index() % 4; block < CLUSTER; block += 4)
            exchange.give_softmax(held(lane_row(h)), block, Softmax{state.max[h], sum});
        auto given = exchange.row(held(lane_row(h)));
#pragma unroll
        for (u32 block = 0; block < OWN_COLUMNS / 8; ++block)
          given.give(column + block * 8,
                     Floats2{state.o[4 * block + 2 * h], state.o[4 * block + 2 * h + 1]});
      } else if (split.count == 1) {
        const float factor = factor_of(sum);
        u32 *to = reinterpret_cast<u32 *>(
            p.o + (u64(split.request) * ALL_ROWS + row) * KV_LORA_RANK + column);
#pragma unroll
        for (u32 block = 0; block < OWN_COLUMNS / 8; ++block)
          to[block * 4] = pack(state.o[4 * block + 2 * h] * factor,
                               state.o[4 * block + 2 * h + 1] * factor);
      } else {
        const u64 partial_row = u64(split.first_partial + split.index) * ALL_ROWS + row;
        Floats2 *to = reinterpret_cast<Floats2 *>(
            reinterpret_cast<float *>(p.partials.outputs) + partial_row * KV_LORA_RANK + column);
#pragma unroll
        for (u32 block = 0; block < OWN_COLUMNS / 8; ++block)
          to[block * 4] = {state.o[4 * block + 2 * h], state.o[4 * block + 2 * h + 1]};
        if (group == 0 && lane_index() % 4 == 0)
          p.partials.softmaxes[partial_row] = {state.max[h], sum};
      }
    }
  }

  // Computes all splits of the block; in clusters it has one, whose results are then on their way
  // to the blocks that combine them.
  DEVICE void run(u32 row_tile) {
    const u32 first_row = row_tile * ROWS;
    const u32 rows = min_of(ROWS, ALL_ROWS - first_row);
    Tile first = {0};
    u32 parity = 0;
    for_each_split(p.work, list_block<CLUSTER, ROW_TILES>(), [&](const Split &split) {
      wait(shared_address(&shared.queries_full), parity);
      convert_queries();
      attend(split, first_row, first);
      // All blocks have begun long ago.
      if (CLUSTER > 1) barrier_cluster_wait();
      write(split, first_row);
      u32 *ticket = ticket_of<CLUSTER, ROW_TILES>(p.tickets, split, row_tile);
      if (CLUSTER == 1 && split.count > 1 && is_last_block(ticket, split.count, Computing{}))
        // The shared memory of the queries is free.
        combine<COMPUTING, TILE_BYTES, ROWS>(p.partials, split, first_row, rows, p.scale, panels,
                                             WriteCombined{p, split, first_row}, Computing{});
      fence_proxy_async_shared();
      arrive(shared.queries_empty);
      first.number += ceil_div(split.tokens, TILE);
      parity ^= 1;
    });
  }
};

// Combines what the blocks of the cluster have given this one.
DEVICE void combine_results(const Params &p, Shared &shared, u32 row_tile) {
  const Split split = load_split(p.work, list_block<CLUSTER, ROW_TILES>());
  const u32 first_row = row_tile * ROWS, rows = min_of(ROWS, ALL_ROWS - first_row);
  const WriteCombined write = {p, split, first_row};
  ExchangeOfBlock(shared, split, first_row).combine(p.partials, p.scale, write);
  u32 *ticket = ticket_of<CLUSTER, ROW_TILES>(p.tickets, split, row_tile);
  if (split.count > CLUSTER && is_last_block(ticket, split.count / CLUSTER, Computing{}))
    combine_clusters<CLUSTER, COMPUTING, MOST_ROWS>(p.partials, split, first_row, rows, p.scale,
                                                    panels, write, Computing{});
}

KERNEL(THREADS, 1) attention_mla_wgmma(const __grid_constant__ Params p) {
  __shared__ Shared shared;
  if (threadIdx.x == 0) shared.init();
  if (threadIdx.x == COMPUTING) {
    prefetch_tensormap(p.q);
    if (!CONVERTS) prefetch_tensormap(p.boxes);
    if (!CONVERTS) prefetch_tensormap(p.least);
  }
  SHARING > 1 ? meet_cluster() : __syncthreads();
  // Those that exchange results wait before they do.
  if (CLUSTER > 1) barrier_cluster_arrive_relaxed();
  overlap_previous();

  const u32 row_tile = row_tile_of_block<CLUSTER, ROW_TILES>();
  const u32 group = threadIdx.x / WARPGROUP;
  if (group == 0) {
    setmaxnreg_inc<COMPUTING_REGISTERS>();
    Compute<0>{p, shared}.run(row_tile);
    if (CLUSTER > 1) combine_results(p, shared, row_tile);
  } else if (group == 1) {
    setmaxnreg_inc<COMPUTING_REGISTERS>();
    Compute<1>{p, shared}.run(row_tile);
    if (CLUSTER > 1) combine_results(p, shared, row_tile);
  } else {
    setmaxnreg_dec<LOADING_REGISTERS>();
    if (CONVERTS)
      Convert{p, shared, {p, shared, row_tile}}.run();
    else if (threadIdx.x == COMPUTING)
      Loader{p, shared, row_tile}.run();
    if (CLUSTER > 1) {
      __syncwarp();
      barrier_cluster_wait();
    }
  }
  // No block returns while another copies to it, or arrives at its barriers.
  if (SHARING > 1) sync_cluster();
}
