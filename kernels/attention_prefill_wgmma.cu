// Attention of many new tokens per request, O = softmax(Q K^T / sqrt(d)) V, in bf16 or
// f16, or of queries, keys and values in e4m3 (FP8), with an online softmax in f32. Products
// are wgmma instructions, tiles are loaded by tensor copies (TMA); sm_90a. The overlap of
// products with the softmax is that of Shah et al., "FlashAttention-3", 2024.
//
// Q is [head][token][HEAD_DIM], O the same with V_HEAD_DIM, where heads are numbered across
// requests; K and V are [KV head][key][HEAD_DIM and V_HEAD_DIM], or [page][KV head of a
// request][key of the page][...] with either order of head and key, where [request][page of
// the request] is the page table. New token r attends to the keys up to number r + reach, or
// the last `window` of them.
//
// Of requests of several lengths (RAGGED) Q and O are [token of all requests][head of a
// request][...]. Rows of a block beyond its request's tokens belong to the next request: they
// are loaded and computed with the others, and not stored. K and V have room for the longest
// request; what is in it beyond a request's keys is masked.
//
// A block computes ROWS tokens of a head at a time, 64 in each of CONSUMERS warpgroups, over
// tiles of KEYS keys from the last one to the first, so that those to be masked come first.
// One thread of a further warpgroup copies: queries, which stay in shared memory; and keys
// and values, each through a ring of STAGES tiles. Tiles are panels of 128 bytes of columns
// with swizzled rows. A row of 96 elements in 16 bits takes two panels, the second half empty.
//
// Products of 8 bits take operands only whose rows run along the sum, so tiles of values in
// e4m3 are transposed, from their ring to another one, by the three warps beside the thread
// that copies. What they make of 16 keys lies in the order in which a lane has the scores of
// keys; what they make of 16 columns, so that neighbouring rows are stored together. Both
// orders cost nothing elsewhere: weights stay in the lanes that have their scores, and a lane
// has four outputs side by side.
//
// A warpgroup has scores, attention weights and outputs in registers. At a tile it starts
//
//   scores of the tile   = Q K^T
//   outputs             += weights of the tile before * its V
//
// and while the latter run, the scores become weights. Where several warpgroups take turns
// (TURNS), each starts its products when the one before has started its own, so that
// the softmax of one runs under the products of the others.
//
// Outputs are rescaled when a maximum has grown, or, with LAZY_BITS, only when it has grown
// by a factor of more than 2^LAZY_BITS, which is rare. Weights in e4m3 are up to
// 2^WEIGHT_BITS, so that those of 2^-17 of the largest are not rounded to zero.
//
// Tensor cores bind: a tile takes KEYS HEAD_DIM / 16 + KEYS V_HEAD_DIM / 16 clocks of a
// warpgroup, its exponentials 4 KEYS. With a head of 64 elements both take the same time. In
// e4m3 products take half as long: with 128 elements they take as long as exponentials, and
// shared memory, which operands, transposed tiles and copies share, is as busy.
//
// Launch: a block for every SM, or fewer, each with a list of items (the rows of one head)
// made by the host; THREADS threads, SHARED_BYTES of dynamic shared memory.
#include "element.cuh"
#include "mbarrier.cuh"
#include "prompt.cuh"
#include "reduce.cuh"
#include "wgmma.cuh"

// Products of queries and keys, and of attention weights and values.
#if FP8
#define OPERAND E4m3
#else
#define OPERAND ELEMENT
#endif
WGMMA(OPERAND, KEYS)
#if KEYS != V_HEAD_DIM
WGMMA(OPERAND, V_HEAD_DIM)
#endif

// --- Shape -----------------------------------------------------------------

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 COMPUTING = CONSUMERS * WARPGROUP;  // threads
constexpr u32 GROUP_ROWS = 64;
constexpr u32 ROWS = CONSUMERS * GROUP_ROWS;

// Keys and values of a tile are one box, or several where pages are smaller than tiles.
constexpr bool PAGED = PAGE_SIZE != 0;
constexpr u32 PAGE_KEYS = PAGED ? PAGE_SIZE : KEYS;
constexpr u32 BOX = min_of<u32>(PAGE_KEYS, KEYS);
constexpr u32 BOXES = KEYS / BOX;

constexpr u32 OPERAND_BYTES = FP8 ? 1 : 2;
constexpr u32 ROW_BYTES = 128;
constexpr u32 PANEL_COLUMNS = ROW_BYTES / OPERAND_BYTES;
constexpr u32 PANELS = ceil_div<u32>(HEAD_DIM, PANEL_COLUMNS);
constexpr u32 V_PANELS = ceil_div<u32>(V_HEAD_DIM, PANEL_COLUMNS);
constexpr u32 Q_PANEL_BYTES = ROWS * ROW_BYTES;
constexpr u32 KV_PANEL_BYTES = KEYS * ROW_BYTES;
constexpr u32 Q_BYTES = PANELS * Q_PANEL_BYTES;
constexpr u32 K_BYTES = PANELS * KV_PANEL_BYTES;
constexpr u32 V_BYTES = V_PANELS * KV_PANEL_BYTES;
// Values transposed: a row of keys for each column.
constexpr u32 TRANSPOSED_PANEL_BYTES = V_HEAD_DIM * ROW_BYTES;
constexpr u32 TRANSPOSED_BYTES =
    FP8 ? ceil_div<u32>(KEYS, PANEL_COLUMNS) * TRANSPOSED_PANEL_BYTES : 0;

// Steps of descriptors: eight rows of a panel, and 32 bytes of its columns, or as many rows.
constexpr u32 ATOM_BYTES = 8 * ROW_BYTES;
constexpr u32 STEP = 32 / OPERAND_BYTES;
constexpr u32 STEPS_OF_PANEL = PANEL_COLUMNS / STEP;

// Weights are multiplied with 2 to this.
constexpr u32 WEIGHT_BITS = FP8 ? 8 : 0;

// Warps that transpose.
constexpr u32 TRANSPOSING = 3;

// Registers of a thread by role; together as many as the block was launched with.
constexpr u32 COMPUTING_REGISTERS = CONSUMERS == 2 ? 232 : 160;
constexpr u32 COPYING_REGISTERS = CONSUMERS == 2 ? 40 : 32;

static_assert(THREADS == COMPUTING + WARPGROUP, "one warpgroup copies, the others compute");
static_assert(CONSUMERS == 2 || CONSUMERS == 3, "registers are divided among these");
static_assert(KEYS % STEP == 0, "products take so many keys at a time");
static_assert(HEAD_DIM % STEP == 0 && V_HEAD_DIM % STEP == 0, "and so many columns");
static_assert(!FP8 || LAZY_BITS == 0, "weights are at most 448");
static_assert(KEYS % BOX == 0 && PAGE_KEYS % BOX == 0, "boxes tile tiles and pages");
static_assert(BOX * ROW_BYTES % ATOM_BYTES == 0, "boxes begin where swizzles do");
static_assert(SHARED_BYTES == Q_BYTES + STAGES * (K_BYTES + V_BYTES + TRANSPOSED_BYTES),
              "the host reserves these");

// --- Parameters ------------------------------------------------------------

struct Params {
  TensorMap q;  // columns, tokens, heads; the tokens of all requests with RAGGED
  TensorMap k;  // columns, keys, KV heads; or keys of a page, KV heads of a request, pages
  TensorMap v;
  u16 *o;
  const Item *work;  // item number b is the first of block b
  const u32 *page_table;  // null where keys and values are contiguous
  float scale;  // log2(e) / sqrt(HEAD_DIM): scores become exponents of two
  u32 window;   // a token attends to the last so many of its keys
  Prompt prompt;      // of every request, or the longest that there could be
  u32 q_heads;        // of a request
  u32 kv_heads;
  u32 request_pages;  // entries of its page table
  u32 unused;
  // In f32, of all queries, keys and values; null where they are taken as they are.
  const float *q_scale;
  const float *k_scale;
  const float *v_scale;
};

DEVICE float scale_of(const float *scale) {
  return scale == nullptr ? 1 : ld_global_nc_f32(scale);
}

// Keys that a token attends to.
struct Keys {
  u32 begin;
  u32 end;
};

DEVICE Keys attended(const Params &p, const Prompt &prompt, u32 token) {
  const u32 end = min_of(prompt.context, token + prompt.reach);
  return {end - min_of(end, p.window), end};
}

// Tiles that any token of an item attends to.
struct Tiles {
  u32 begin;
  u32 end;
};

DEVICE Tiles tiles_of(const Params &p, const Prompt &prompt, u32 token) {
  const u32 last = min_of(token + ROWS, prompt.new_tokens) - 1;
  return {attended(p, prompt, token).begin / KEYS,
          ceil_div<u32>(attended(p, prompt, last).end, KEYS)};
}

// The prompt of an item. Where all are equal it is read from where the parameters are.
DEVICE const Prompt &prompt_of(const Params &p, const Item &item) {
  return RAGGED ? item.prompt : p.prompt;
}

// --- Shared memory -----------------------------------------------------------

// Queries, then the rings of keys, of values, and of values transposed.
extern __shared__ __align__(1024) u8 tiles[];

// A tile by its number, counted over all items of a block; tiles take stages and parities in
// turn.
struct Turn {
  u32 number;

  DEVICE u32 stage() const { return number % STAGES; }
  DEVICE u32 parity() const { return number / STAGES % 2; }
  DEVICE u32 keys() const { return shared_address(tiles) + Q_BYTES + stage() * K_BYTES; }
  DEVICE u32 values() const {
    return shared_address(tiles) + Q_BYTES + STAGES * K_BYTES + stage() * V_BYTES;
  }
  DEVICE u32 transposed() const {
    return shared_address(tiles) + Q_BYTES + STAGES * (K_BYTES + V_BYTES) +
           stage() * TRANSPOSED_BYTES;
  }
};

struct Shared {
  u64 k_full[STAGES];  // keys have arrived
  u64 k_empty[STAGES];
  u64 v_full[STAGES];
  u64 v_empty[STAGES];
  u64 transposed_full[STAGES];
  u64 transposed_empty[STAGES];
  u64 q_full;  // queries have arrived, and `item` is theirs
  u64 q_empty;
  Item item;

  DEVICE void init() {
    for (u32 stage = 0; stage < STAGES; ++stage) {
      mbarrier_init(shared_address(&k_full[stage]), 1);
      mbarrier_init(shared_address(&v_full[stage]), 1);
      mbarrier_init(shared_address(&k_empty[stage]), COMPUTING / WARP);
      mbarrier_init(shared_address(&v_empty[stage]), FP8 ? TRANSPOSING : COMPUTING / WARP);
      if (!FP8) continue;
      mbarrier_init(shared_address(&transposed_full[stage]), TRANSPOSING);
      mbarrier_init(shared_address(&transposed_empty[stage]), COMPUTING / WARP);
    }
    mbarrier_init(shared_address(&q_full), 1);
    mbarrier_init(shared_address(&q_empty), COMPUTING / WARP);
    fence_mbarrier_init();
  }
};

// Arrives once for each warp, after all of its lanes.
DEVICE void arrive(u64 &barrier) {
  __syncwarp();
  if (lane_index() == 0) mbarrier_arrive(shared_address(&barrier));
}

constexpr u32 NO_HEAD = ~0u;

// --- The thread that copies ----------------------------------------------------

struct Copier {
  const Params &p;
  Shared &shared;
  Turn k = {0};
  Turn v = {0};
  u32 items = 0;

  // Copies the queries of an item.
  DEVICE void queries(const Item &item) const {
    const u32 full = shared_address(&shared.q_full);
    mbarrier_arrive_expect_tx(full, Q_BYTES);
#pragma unroll
    for (u32 panel = 0; panel < PANELS; ++panel)
      cp_async_bulk_tensor_3d_load(shared_address(tiles) + panel * Q_PANEL_BYTES, p.q,
                                   panel * PANEL_COLUMNS, item.prompt.row + item.token,
                                   item.head, full);
  }

  // Copies a tile of keys, or of values, to `to` when it is `empty`. Of the pages of a
  // request only those that it has are copied.
  template <u32 panels>
  DEVICE void copy_tile(const TensorMap &map, const Item &item, u32 tile, u32 to, Turn turn,
                        u64 &empty, u64 &full_barrier) const {
    const u32 first = tile * KEYS, full = shared_address(&full_barrier);
    const u32 context = prompt_of(p, item).context;
    const u32 boxes = PAGED ? min_of(BOXES, ceil_div(context - first, BOX)) : 1;
    u32 page[BOXES] = {};
    if (PAGED) {
#pragma unroll
      for (u32 i = 0; i < BOXES; ++i)
        if (i < boxes)
          page[i] = ld_global_nc_u32(p.page_table +
                                     u64(item.kv_head / p.kv_heads) * p.request_pages +
                                     (first + i * BOX) / PAGE_KEYS);
    }
    wait(shared_address(&empty), turn.parity() ^ 1);
    mbarrier_arrive_expect_tx(full, boxes * panels * BOX * ROW_BYTES);
#pragma unroll
    for (u32 i = 0; i < BOXES; ++i) {
      if (i >= boxes) break;
      const u32 at = to + i * BOX * ROW_BYTES;
#pragma unroll
      for (u32 panel = 0; panel < panels; ++panel) {
        if (PAGED)
          cp_async_bulk_tensor_4d_load(at + panel * KV_PANEL_BYTES, map, panel * PANEL_COLUMNS,
                                       (first + i * BOX) % PAGE_KEYS, item.kv_head % p.kv_heads,
                                       page[i], full);
        else
          cp_async_bulk_tensor_3d_load(at + panel * KV_PANEL_BYTES, map, panel * PANEL_COLUMNS,
                                       first, item.kv_head, full);
      }
    }
  }

  DEVICE void next_keys(const Item &item, u32 tile) {
    copy_tile<PANELS>(p.k, item, tile, k.keys(), k, shared.k_empty[k.stage()],
                      shared.k_full[k.stage()]);
    ++k.number;
  }

  DEVICE void next_values(const Item &item, u32 tile) {
    copy_tile<V_PANELS>(p.v, item, tile, v.values(), v, shared.v_empty[v.stage()],
                        shared.v_full[v.stage()]);
    ++v.number;
  }

  // Waits until the queries before have been used, all of their scores computed.
  DEVICE void wait_for_queries() {
    wait(shared_address(&shared.q_empty), (items & 1) ^ 1);
    ++items;
  }

  // Copies what an item needs, in the order of its use, and loads the item after it. Its
  // first keys are copied while the item before ends.
  DEVICE Item copy(const Item &item) {
    const Tiles all = tiles_of(p, prompt_of(p, item), item.token);
    u32 tile = all.end - 1;
    next_keys(item, tile);
    wait_for_queries();
    shared.item = item;
    queries(item);
    for (; tile > all.begin; --tile) {
      next_keys(item, tile - 1);
      next_values(item, tile);
    }
    // Arrives while the last values wait for a stage.
    const Item next = Item::load(p.work + item.next);
    next_values(item, tile);
    return next;
  }

  // Copies all items of the block.
  DEVICE void run() {
    prefetch_tensormap(p.q);
    prefetch_tensormap(p.k);
    prefetch_tensormap(p.v);
    Item item = Item::load(p.work + blockIdx.x);
    while (true) {
      const Item next = copy(item);
      if (item.next == 0) break;
      item = next;
    }
    wait_for_queries();
    shared.item.head = NO_HEAD;
    mbarrier_arrive(shared_address(&shared.q_full));
  }
};

// Clears the values of a tile from key `begin` on, by so many threads of which this is one.
template <u32 threads>
DEVICE void clear_keys(u32 values, u32 begin, u32 thread) {
  constexpr u32 chunks = ROW_BYTES / sizeof(Words4);
  const u32 to = values + thread % chunks * sizeof(Words4);
  for (u32 row = begin + thread / chunks; row < KEYS; row += threads / chunks)
#pragma unroll
    for (u32 panel = 0; panel < V_PANELS; ++panel)
      st_shared_v4(to + panel * KV_PANEL_BYTES + row * ROW_BYTES, {});
}

// --- The warps that transpose ------------------------------------------------------

#if FP8
static_assert(CONSUMERS == 2, "the warps that transpose need registers of a third");

// Two registers of pairs of columns of two keys each, as those of one column of four keys.
DEVICE u32 first_column(u32 a, u32 b) { return __byte_perm(a, b, 0x6420); }
DEVICE u32 second_column(u32 a, u32 b) { return __byte_perm(a, b, 0x7531); }

struct Transposer {
  const Params &p;
  Shared &shared;
  u32 warp;  // of those that transpose
  Turn turn = {0};

  // Clears the values of an item's last tile after the context.
  DEVICE void clear(const Prompt &prompt, u32 tile) const {
    const u32 begin = prompt.context - tile * KEYS;
    if (!(PAGED || RAGGED) || begin >= KEYS) return;
    clear_keys<TRANSPOSING * WARP>(turn.values(), begin, warp * WARP + lane_index());
    bar_sync(2 + CONSUMERS, TRANSPOSING * WARP);
  }

  // Transposes blocks of 32 keys and 16 columns. Matrices of eight keys are loaded with their
  // columns in pairs; of each pair the first columns make eight rows, the second the next
  // eight. Rows of a matrix are eight in a row of panels' rows, so that no bank is asked twice.
  DEVICE void transpose() const {
    constexpr u32 blocks = V_HEAD_DIM / 16, chunk_bytes = 16, chunks = ROW_BYTES / chunk_bytes;
    // Blocks whose loads are in flight together, as many as there are registers for.
    constexpr u32 together = 4;
    static_assert(blocks % together == 0, "these have the same keys");
    const u32 within = lane_index() % 8, matrix = lane_index() / 8;
    for (u32 i = warp; i < KEYS / 32 * blocks / together; i += TRANSPOSING) {
      const u32 key = i * together / blocks * 32, first = i * together % blocks;
      u32 pairs[together][4];
#pragma unroll
      for (u32 j = 0; j < together; ++j) {
        const u32 panel = (first + j) / chunks, chunk = (first + j) % chunks;
        ldmatrix_x4_trans(pairs[j], turn.values() + panel * KV_PANEL_BYTES +
                                        (key + matrix * 8 + within) * ROW_BYTES +
                                        (chunk ^ within) * chunk_bytes);
      }
      const u32 of_keys = key / 16 + matrix / 2;
      const u32 to = turn.transposed() + of_keys / chunks * TRANSPOSED_PANEL_BYTES +
                     (of_keys % chunks ^ within) * chunk_bytes +
                     (matrix % 2 * 8 + within) * ROW_BYTES;
#pragma unroll
      for (u32 j = 0; j < together; ++j) {
        const u32(&of)[4] = pairs[j];
        const u32 rows[4] = {first_column(of[0], of[1]), second_column(of[0], of[1]),
                             first_column(of[2], of[3]), second_column(of[2], of[3])};
        stmatrix_x4(to + (first + j) * 16 * ROW_BYTES, rows);
      }
    }
  }

  // Transposes the values of all items of the block.
  DEVICE void run() {
    Item item = Item::load(p.work + blockIdx.x);
    while (true) {
      const Prompt &prompt = prompt_of(p, item);
      const Tiles all = tiles_of(p, prompt, item.token);
      for (u32 tile = all.end; tile-- > all.begin; ++turn.number) {
        const u32 stage = turn.stage();
        wait(shared_address(&shared.v_full[stage]), turn.parity());
        clear(prompt, tile);
        wait(shared_address(&shared.transposed_empty[stage]), turn.parity() ^ 1);
        transpose();
        fence_proxy_async_shared();
        arrive(shared.transposed_full[stage]);
        arrive(shared.v_empty[stage]);
      }
      if (item.next == 0) break;
      item = Item::load(p.work + item.next);
    }
  }
};
#endif

// --- A warpgroup that computes ------------------------------------------------------

// Of its 64 rows a warp has 16. Lane l has rows l / 4 and l / 4 + 8 of these, and of every
// eight columns 2 (l % 4) and the next.
constexpr u32 HALVES = 2;

DEVICE u32 lane_row(u32 half) {
  return warp_index() % (WARPGROUP / WARP) * 16 + half * 8 + lane_index() / 4;
}
DEVICE u32 lane_column(u32 block) { return block * 8 + lane_index() % 4 * 2; }

typedef float Scores[KEYS / 2];
typedef float Outputs[V_HEAD_DIM / 2];
// Attention weights as operands.
typedef u32 Weights[KEYS / STEP][4];

// Starts s = q k^T.
DEVICE void start_scores(Scores &s, u32 queries, u32 keys) {
  pin(s);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < HEAD_DIM / STEP; ++step) {
    const u32 panel = step / STEPS_OF_PANEL, within = step % STEPS_OF_PANEL * STEP * OPERAND_BYTES;
    Wgmma<OPERAND, KEYS>::ss(
        s, panel_descriptor(queries, panel * Q_PANEL_BYTES + within, 0, ATOM_BYTES),
        panel_descriptor(keys, panel * KV_PANEL_BYTES + within, 0, ATOM_BYTES), step > 0);
  }
  wgmma_commit_group();
}

// Starts o += weights * values, those of a tile.
DEVICE void start_outputs(Outputs &o, Weights &weights, Turn turn) {
  pin(o);
#pragma unroll
  for (u32 step = 0; step < KEYS / STEP; ++step) pin(weights[step]);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < KEYS / STEP; ++step) {
#if FP8
    const u32 panel = step / STEPS_OF_PANEL, within = step % STEPS_OF_PANEL * STEP;
    Wgmma<OPERAND, V_HEAD_DIM>::rs(
        o, weights[step],
        panel_descriptor(turn.transposed(), panel * TRANSPOSED_PANEL_BYTES + within, 0,
                         ATOM_BYTES),
        true);
#else
    Wgmma<OPERAND, V_HEAD_DIM>::rs_trans(
        o, weights[step],
        panel_descriptor(turn.values(), step * STEP * ROW_BYTES, KV_PANEL_BYTES, ATOM_BYTES),
        true);
#endif
  }
  wgmma_commit_group();
}

// Waits for all products but those of the last `pending` groups. The products that
// accumulate into `d` must be among those waited for.
template <u32 pending, u32 count>
DEVICE void finish(float (&d)[count]) {
  wgmma_wait_group<pending>();
  pin(d);
}

struct Consumer {
  const Params &p;
  Shared &shared;
  u32 group;    // number of this warpgroup
  u32 queries;  // address of its rows
  float score_scale;  // of queries and keys, with FP8
  Turn turn = {0};
  float max[HALVES];  // of the scores of this lane's rows
  float sum[HALVES];  // of their attention weights in this lane's columns
  Outputs o;

  // Makes scores exponents of two.
  DEVICE float scale() const { return FP8 ? score_scale : p.scale; }

  // Turns of warpgroups to start products.
  DEVICE void begin_turn() const {
    if (TURNS) bar_sync(1 + group, 2 * WARPGROUP);
  }
  DEVICE void end_turn() const {
    if (TURNS) bar_arrive(1 + (group + 1 == CONSUMERS ? 0 : group + 1), 2 * WARPGROUP);
  }

  // Masks the scores of keys from `key` on that this lane's rows do not attend to. `token`
  // is its first row's.
  DEVICE void mask(Scores &s, const Prompt &prompt, u32 token, u32 key) const {
    i32 begin[HALVES], end[HALVES];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const Keys keys = attended(p, prompt, token + h * 8);
      const u32 first = key + lane_column(0);
      begin[h] = i32(keys.begin - first), end[h] = i32(keys.end - first);
    }
#pragma unroll
    for (u32 i = 0; i < KEYS / 2; ++i) {
      const i32 column = i / 4 * 8 + i % 2;
      if (column < begin[i / 2 % 2] || column >= end[i / 2 % 2]) s[i] = minus_infinity();
    }
  }

  // Online softmax: turns scores into attention weights, and returns what rescales earlier
  // outputs to the new maxima. Several chains of operations run side by side.
  struct Factors {
    float of[HALVES];
  };
  DEVICE Factors online_softmax(Scores &s) {
    constexpr u32 CHAINS = 2;
    Factors factors;
    float shift[HALVES], largest[HALVES][CHAINS];
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
#pragma unroll
      for (u32 i = 0; i < CHAINS; ++i) largest[h][i] = s[2 * h + i];
#pragma unroll
    for (u32 i = 4; i < KEYS / 2; ++i)
      largest[i / 2 % 2][i % 2] = fmaxf(largest[i / 2 % 2][i % 2], s[i]);
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      float new_max = fmaxf(max[h], max_of_quad(fmaxf(largest[h][0], largest[h][1])));
      // Weights may exceed one, up to 2^LAZY_BITS: what they are divided by does too.
      if (LAZY_BITS > 0 && (new_max - max[h]) * scale() <= LAZY_BITS) new_max = max[h];
      // A row may attend to none of the tiles so far.
      shift[h] = new_max == minus_infinity() ? 0 : new_max * scale();
      factors.of[h] = ex2_approx(max[h] * scale() - shift[h]);
      max[h] = new_max;
      if (FP8) shift[h] -= WEIGHT_BITS;
    }
    float sums[HALVES][CHAINS] = {};
#pragma unroll
    for (u32 i = 0; i < KEYS / 2; ++i) {
      s[i] = ex2_approx(s[i] * scale() - shift[i / 2 % 2]);
      sums[i / 2 % 2][i % 2] += s[i];
    }
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h)
      sum[h] = sum[h] * factors.of[h] + (sums[h][0] + sums[h][1]);
    return factors;
  }

  // Attention weights as operands: a lane has two neighbours of every eight keys, in 8 bits
  // those of two times eight as four.
  DEVICE static void convert(Weights &weights, const Scores &s) {
#if FP8
#pragma unroll
    for (u32 i = 0; i < KEYS / 8; ++i) {
      const float *const x = s + i / 2 * 8 + i % 2 * 2;
      weights[i / 4][i % 4] = cvt_e4m3x2(x[0], x[1]) | u32(cvt_e4m3x2(x[4], x[5])) << 16;
    }
#else
#pragma unroll
    for (u32 i = 0; i < KEYS / 4; ++i) weights[i / 4][i % 4] = pack(s[2 * i], s[2 * i + 1]);
#endif
  }

  DEVICE void wait_for_keys() const {
    wait(shared_address(&shared.k_full[turn.stage()]), turn.parity());
  }
  // Values as products take them.
  DEVICE void wait_for_values(Turn of) const {
    u64 *const full = FP8 ? shared.transposed_full : shared.v_full;
    wait(shared_address(full + of.stage()), of.parity());
  }
  DEVICE void release_values(Turn of) const {
    arrive((FP8 ? shared.transposed_empty : shared.v_empty)[of.stage()]);
  }

  // Clears the values of an item's last tile after the context, where its last page, or the
  // room for the longest request, ends later, or a page was not copied: memory there may hold
  // NaN, which a weight of zero does not cancel. The warpgroups share the work.
  DEVICE void clear_values(const Prompt &prompt, u32 tile) const {
    const u32 begin = prompt.context - tile * KEYS;
    if (FP8 || !(PAGED || RAGGED) || begin >= KEYS) return;
    wait_for_values(turn);
    clear_keys<COMPUTING>(turn.values(), begin, threadIdx.x);
    fence_proxy_async_shared();
    bar_sync(1 + CONSUMERS, COMPUTING);
  }

  // Attends to the keys of an item.
  DEVICE void attend(const Item &item) {
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) max[h] = minus_infinity(), sum[h] = 0;
#pragma unroll
    for (u32 i = 0; i < V_HEAD_DIM / 2; ++i) o[i] = 0;
    const Prompt &prompt = prompt_of(p, item);
    const Tiles all = tiles_of(p, prompt, item.token);
    const u32 first = item.token + group * GROUP_ROWS;
    // Keys that all rows attend to.
    const u32 begin = attended(p, prompt, first + GROUP_ROWS - 1).begin;
    const u32 end = attended(p, prompt, first).end;
    u32 tile = all.end - 1;
    Scores s;
    Weights weights;
    auto weigh = [&] {
      arrive(shared.k_empty[turn.stage()]);
      if (tile == all.begin) arrive(shared.q_empty);
      const u32 key = tile * KEYS;
      if (key < begin || key + KEYS > end) mask(s, prompt, first + lane_row(0), key);
      return online_softmax(s);
    };

    wait_for_keys();
    start_scores(s, queries, turn.keys());
    clear_values(prompt, tile);
    finish<0>(s);
    weigh();
    convert(weights, s);
    for (; tile > all.begin;) {
      const Turn before = turn;
      --tile, ++turn.number;
      wait_for_keys();
      begin_turn();
      start_scores(s, queries, turn.keys());
      wait_for_values(before);
      start_outputs(o, weights, before);
      end_turn();
      finish<1>(s);
      const Factors factors = weigh();
      finish<0>(o);
      release_values(before);
      if (LAZY_BITS == 0 || __any_sync(ALL_LANES, factors.of[0] != 1 || factors.of[1] != 1))
#pragma unroll
        for (u32 i = 0; i < V_HEAD_DIM / 2; ++i) o[i] *= factors.of[i / 2 % 2];
      convert(weights, s);
    }
    wait_for_values(turn);
    start_outputs(o, weights, turn);
    finish<0>(o);
    release_values(turn);
    ++turn.number;
  }

  // Writes the outputs of an item. Neighbouring lanes exchange halves of two blocks of eight
  // columns, so that the lanes of a row write 32 bytes without gaps; with FP8 they have them.
  DEVICE void write(const Item &item) const {
    const bool odd = lane_index() % 2 != 0;
    const Prompt &prompt = prompt_of(p, item);
#pragma unroll
    for (u32 h = 0; h < HALVES; ++h) {
      const u32 token = item.token + group * GROUP_ROWS + lane_row(h);
      const float factor = rcp_approx(sum_of_quad(sum[h])) * (FP8 ? scale_of(p.v_scale) : 1);
      const u64 row = RAGGED ? u64(prompt.row + token) * p.q_heads + item.head
                             : u64(item.head) * prompt.new_tokens + token;
      u16 *const to =
          p.o + row * V_HEAD_DIM + (FP8 ? lane_column(0) : odd ? 6 : 0) + lane_column(0);
#pragma unroll
      for (u32 i = 0; i < V_HEAD_DIM / 16; ++i) {
        const float *const x = o + 8 * i + 2 * h;
#if FP8
        const Words2 words = {pack(x[0] * factor, x[4] * factor),
                              pack(x[1] * factor, x[5] * factor)};
#else
        const u32 left = pack(x[0] * factor, x[1] * factor);
        const u32 right = pack(x[4] * factor, x[5] * factor);
        const u32 other = __shfl_xor_sync(ALL_LANES, odd ? left : right, 1);
        const Words2 words = {odd ? other : left, odd ? right : other};
#endif
        if (token < prompt.new_tokens) *reinterpret_cast<Words2 *>(to + i * 16) = words;
      }
    }
  }

  // Computes all items of the block.
  DEVICE void run() {
    // The first turn is the first warpgroup's.
    if (group == CONSUMERS - 1) end_turn();
    for (u32 parity = 0;; parity ^= 1) {
      wait(shared_address(&shared.q_full), parity);
      const Item item = shared.item;
      if (item.head == NO_HEAD) break;
      attend(item);
      write(item);
    }
    // The last warpgroup ended its last turn.
    if (group == 0) begin_turn();
  }
};

KERNEL(THREADS, 1) attention_prefill_wgmma(const __grid_constant__ Params p) {
  __shared__ Shared shared;
  if (threadIdx.x == 0) shared.init();
  __syncthreads();

  // The same in all lanes: the compiler keeps what follows from it in uniform registers.
  const u32 group = __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0);
  if (group < CONSUMERS) {
    setmaxnreg_inc<COMPUTING_REGISTERS>();
    const u32 queries = shared_address(tiles) + group * GROUP_ROWS * ROW_BYTES;
    const float scale = FP8 ? p.scale * scale_of(p.q_scale) * scale_of(p.k_scale) : 0;
    Consumer{p, shared, group, queries, scale}.run();
  } else {
    setmaxnreg_dec<COPYING_REGISTERS>();
    if (threadIdx.x == COMPUTING) Copier{p, shared}.run();
#if FP8
    const u32 warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP, 0) - COMPUTING / WARP;
    if (warp > 0) Transposer{p, shared, warp - 1}.run();
#endif
  }
}
