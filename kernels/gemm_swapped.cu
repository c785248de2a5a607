// c = a * b^T for few rows of activations a, each called a token: c [token][n], a [token][k],
// weights b [n][k] of 16, 8 or 4 bits (weights.cuh), summed in f32. Products are wgmma
// instructions, tiles are loaded by tensor copies (TMA); sm_90a.
//
// The operands are swapped: c^T = b * a^T. Weights are the rows of the tensor cores' 64 x N
// products and tokens their columns, so that 16 tokens are padded to 16 and not to 64. A
// block has ROWS rows of weights and TOKENS tokens.
//
// The kernel is memory bound: what matters is that all SMs stream weights, read once. The
// columns of a tile are divided among the blocks of a cluster. In the end each block gives
// every other its sums of that block's share of the tile, and adds those that it is given, in
// the order of columns: the result is always the same to the last bit, and no partial sums go
// through memory. Sums are stored to the other block's rings, asynchronously, and an mbarrier
// there counts their bytes. So blocks wait for data and not for one another, and need no fence:
// a barrier of the cluster that orders memory waits for all accesses to memory of each warp.
//
// In a block, one thread loads and GROUPS warpgroups compute, 64 rows each. Weights arrive in
// units of STAGE_COLUMNS, a line of memory of each row or a scale group, and activations in
// panels of 64 columns, in rings of their own. Activations come from L2, whose latency is as
// long as a unit: their ring has to be about as deep as that of weights. Tiles of rows begin
// at different units, so that the blocks in flight ask for different lines of activations,
// and for weights at different offsets from a power of two.
//
// SHARING blocks (1 or 2) of a cluster have tiles of rows above one another and the same columns:
// each loads half of their activations and multicasts that to both, so that activations take
// half of what L2 delivers. A stage of activations is empty when both have read it.
//
// Weights of 16 bits are multiplied as they lie. Smaller ones are loaded and converted into
// the registers of the left operand, one panel while the products of the panel before run.
// With 4 bits sums are kept in units of the scales of a group: before the products of the
// next group they are changed to its scales, in f32. That takes as many instructions as
// adding the scaled sums of each group, and half as many registers. Scales of rows are
// applied at the end.
//
// With 256 tokens a unit takes the tensor cores about as long as it takes memory in 16 bits,
// so smaller weights are then bound by the tensor cores and not by memory.
//
// Launch: a cluster of `splits` times SHARING blocks for SHARING tiles, THREADS threads,
// SHARED_BYTES of dynamic shared memory. Every block has at least one unit.
#include "cluster.cuh"
#include "divisor.cuh"
#include "mbarrier.cuh"
#include "weights.cuh"
#include "wgmma.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 GROUP_ROWS = 64;  // of weights, of a warpgroup
constexpr u32 ROWS = GROUPS * GROUP_ROWS;
constexpr u32 COMPUTING = GROUPS * WARPGROUP;  // threads
constexpr u32 READERS = COMPUTING / WARP;      // warps that read a unit

// Where sums take most registers, a warpgroup loads, whose registers others take.
constexpr bool REALLOCATES = THREADS == COMPUTING + WARPGROUP;
constexpr u32 COMPUTING_REGISTERS = 232;
constexpr u32 LOADING_REGISTERS = 40;

// Activations lie in panels of 64 columns: rows of 128 bytes, swizzled.
constexpr u32 PANEL_COLUMNS = 64;
constexpr u32 PANEL_ROW_BYTES = PANEL_COLUMNS * ELEMENT_BYTES;
constexpr u32 X_PANEL_BYTES = TOKENS * PANEL_ROW_BYTES;
constexpr u32 PANELS = STAGE_COLUMNS / PANEL_COLUMNS;  // of a unit
constexpr u32 X_BOX_ROWS = TOKENS / SHARING;           // that a block loads

// Weights of a unit: rows of 128 bytes, swizzled too; with 4 bits, 1024 bytes for each 16
// rows.
constexpr bool CONVERTS = STAGE_COLUMNS > PANEL_COLUMNS;
constexpr u32 GROUP_BYTES = GROUP_ROWS / LINE_ROWS * LINE_BYTES;
constexpr u32 WEIGHT_BYTES = GROUPS * GROUP_BYTES;
constexpr u32 SCALE_BYTES = GROUP_SCALES ? ROWS * sizeof(u16) : 0;

// Steps of descriptors: eight rows, and the 16 columns of a product.
constexpr u32 ATOM_BYTES = 8 * PANEL_ROW_BYTES;
constexpr u32 STEP_BYTES = 16 * ELEMENT_BYTES;
constexpr u32 STEPS = PANEL_COLUMNS / 16;

// The rings, one behind the other: weights, activations, scales of groups.
constexpr u32 X_AT = WEIGHT_STAGES * WEIGHT_BYTES;
constexpr u32 SCALES_AT = X_AT + X_STAGES * X_PANEL_BYTES;
constexpr u32 RINGS_BYTES = SCALES_AT + WEIGHT_STAGES * SCALE_BYTES;
// Units by which weights are ahead of activations: as far as the rings allow.
constexpr u32 LEAD = WEIGHT_STAGES - X_STAGES / PANELS;

WGMMA(ELEMENT, TOKENS)
typedef Wgmma<ELEMENT, TOKENS> Products;

// Sums are exchanged and written in fragments of 16 rows by 8 tokens, of which a lane has four
// sums. A warp has those of its rows; number `warp` has the first tokens, and `READERS` more
// are the same rows with the next.
constexpr u32 FRAGMENT_TOKENS = 8, FRAGMENT_ROWS = 16, FRAGMENT_SUMS = 4;
constexpr u32 FRAGMENT_BYTES = WARP * FRAGMENT_SUMS * sizeof(float);
constexpr u32 FRAGMENTS = TOKENS / FRAGMENT_TOKENS;  // of a warp
// At the end they lie where the rings were, those of all blocks for this block's share, which
// is rounded up.
constexpr u32 MOST_SPLITS = 8;
constexpr u32 SUMS_BYTES = (FRAGMENTS * READERS + MOST_SPLITS - 1) * FRAGMENT_BYTES;

// Barriers of threads of the block.
constexpr u32 READ = 1, BEGUN = 2;

// What a warp adds at once: up to four loads in flight. Of two splits each has half.
constexpr u32 FRAGMENTS_AT_ONCE = min_of<u32>(FRAGMENTS / 2, 4);

static_assert(THREADS == COMPUTING + WARP || REALLOCATES && GROUPS == 2,
              "a warp loads, or a warpgroup whose registers suffice for two others");
static_assert(X_STAGES % PANELS == 0 && X_STAGES / PANELS <= WEIGHT_STAGES,
              "activations of whole units, behind their weights");
static_assert(LEAD < WEIGHT_STAGES, "activations follow before their unit is waited for");
static_assert(X_STAGES >= (CONVERTS ? 2 * PANELS : 2),
              "a unit is waited for before another is done");
static_assert(SHARING == 1 || SHARING == 2 && X_BOX_ROWS % 8 == 0,
              "halves of activations begin at multiples of their pattern");
static_assert(WEIGHT_STAGES >= 2, "a unit is copied while another is multiplied");
static_assert(WEIGHT_BYTES % ATOM_BYTES == 0 && X_PANEL_BYTES % ATOM_BYTES == 0,
              "swizzled tiles begin at multiples of their pattern");
static_assert(SHARED_BYTES >= RINGS_BYTES && SHARED_BYTES >= SUMS_BYTES,
              "the host reserves these");

// --- Parameters ------------------------------------------------------------

struct Params {
  TensorMap weights;  // columns, rows; with 4 bits bytes, lines of a stripe of 16 rows, stripes
  TensorMap x;        // columns, tokens
  TensorMap scales;   // rows, groups; unused unless groups have scales
  const float *row_scales;  // null unless rows have scales
  u16 *y;
  u32 m;
  u32 n;
  Divisor splits;  // of columns: blocks of a cluster for each of its tiles
  Divisor cluster;  // blocks of a cluster
  Divisor token_tiles;
  u32 units;  // of columns, of each split
  u32 longer;  // splits that have one more
  u32 rotation;  // units by which the tiles of rows begin later than those before
  u32 starts;  // a power of two, at most `units`: how many of them are begun with
};

// --- Rings -------------------------------------------------------------------

extern __shared__ __align__(1024) u8 rings[];

DEVICE u32 weights_at(u32 stage) { return shared_address(rings) + stage * WEIGHT_BYTES; }
DEVICE u32 x_at(u32 stage) { return shared_address(rings) + X_AT + stage * X_PANEL_BYTES; }
DEVICE u32 scales_at(u32 stage) { return shared_address(rings) + SCALES_AT + stage * SCALE_BYTES; }

struct Shared {
  u64 weights_full[WEIGHT_STAGES];
  u64 weights_empty[WEIGHT_STAGES];
  u64 x_full[X_STAGES];
  u64 x_empty[X_STAGES];
  u64 ready;     // all blocks of the tile have read their rings
  u64 received;  // the sums of all of them for this block's share

  DEVICE void init(u32 splits) {
    for (u32 stage = 0; stage < WEIGHT_STAGES; ++stage) {
      mbarrier_init(shared_address(&weights_full[stage]), 1);
      mbarrier_init(shared_address(&weights_empty[stage]), READERS);
    }
    for (u32 stage = 0; stage < X_STAGES; ++stage) {
      mbarrier_init(shared_address(&x_full[stage]), 1);
      mbarrier_init(shared_address(&x_empty[stage]), SHARING * READERS);
    }
    mbarrier_init(shared_address(&ready), splits);
    mbarrier_init(shared_address(&received), 1);
    fence_mbarrier_init();
  }
};

// A place in a ring, and the parity of its phase.
template <u32 stages>
struct Place {
  u32 stage = 0;
  u32 parity = 0;

  DEVICE void next() {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

// Arrives once for each warp, after all of its lanes.
DEVICE void arrive(u64 &barrier) {
  __syncwarp();
  if (lane_index() == 0) mbarrier_arrive(shared_address(&barrier));
}

// --- Work ----------------------------------------------------------------------

// What a block multiplies.
struct Work {
  u32 row;    // first of weights
  u32 token;  // first
  u32 rank;   // of the split
  u32 member; // of the blocks that share activations
  u32 first;  // unit
  u32 end;
  u32 start;  // the unit to begin with; after the last comes the first
  u32 group;  // of rows, of this thread's warpgroup; GROUPS of the thread that loads

  DEVICE Work(const Params &p) {
    // From one lane, so that the compiler knows that a warp's lanes go the same way, and keeps
    // descriptors in uniform registers.
    group = __shfl_sync(ALL_LANES, warp_index(), 0) / (WARPGROUP / WARP);
    // Divisions without a divisor that the host knows would keep the first copies waiting.
    const u32 tile = p.cluster.quotient(blockIdx.x), block = blockIdx.x - tile * p.cluster.by;
    rank = block / SHARING;
    member = block % SHARING;
    const u32 tile_row = p.token_tiles.quotient(tile);
    row = (tile_row * SHARING + member) * ROWS;
    token = (tile - tile_row * p.token_tiles.by) * TOKENS;
    first = rank * p.units + min_of(rank, p.longer);
    end = first + p.units + (rank < p.longer ? 1 : 0);
    start = first + (tile_row * p.rotation & p.starts - 1);
  }

  // Rank in the cluster of a split of a member's tile.
  DEVICE u32 cluster_rank(u32 split, u32 of) const { return split * SHARING + of; }
};

// The units of a block in order.
struct Unit {
  const Work &work;
  u32 number;

  DEVICE Unit(const Work &of) : work(of), number(of.start) {}

  DEVICE void next() { number = number + 1 == work.end ? work.first : number + 1; }
};

// Frees a stage of activations in every block that fills it.
DEVICE void free_x(Shared &shared, const Work &work, u32 stage) {
  if (SHARING == 1) return arrive(shared.x_empty[stage]);
  __syncwarp();
  const u32 empty = shared_address(&shared.x_empty[stage]), lane = lane_index();
  if (lane < SHARING)
    mbarrier_arrive_cluster_unordered(mapa(empty, work.cluster_rank(work.rank, lane)));
}

// Copies a unit of weights as soon as there is room.
DEVICE void copy_weights(const Params &p, Shared &shared, const Work &work, u32 unit,
                         Place<WEIGHT_STAGES> &w) {
  const u32 full = shared_address(&shared.weights_full[w.stage]);
  wait(shared_address(&shared.weights_empty[w.stage]), w.parity ^ 1);
  mbarrier_arrive_expect_tx(full, WEIGHT_BYTES + SCALE_BYTES);
  if (LINE_ROWS > 1)
    cp_async_bulk_tensor_3d_load(weights_at(w.stage), p.weights, 0, unit * 8,
                                 work.row / LINE_ROWS, full);
  else
    cp_async_bulk_tensor_2d_load(weights_at(w.stage), p.weights, unit * STAGE_COLUMNS, work.row,
                                 full);
  if (GROUP_SCALES)
    cp_async_bulk_tensor_2d_load(scales_at(w.stage), p.scales, work.row, unit, full);
  w.next();
}

// Copies the activations of a unit as soon as there is room.
DEVICE void copy_activations(const Params &p, Shared &shared, const Work &work, u32 unit,
                             Place<X_STAGES> &x) {
  for (u32 panel = 0; panel < PANELS; ++panel) {
    const u32 full = shared_address(&shared.x_full[x.stage]);
    wait(shared_address(&shared.x_empty[x.stage]), x.parity ^ 1);
    mbarrier_arrive_expect_tx(full, X_PANEL_BYTES);
    const u32 column = unit * STAGE_COLUMNS + panel * PANEL_COLUMNS;
    if (SHARING > 1) {
      const u32 first = work.member * X_BOX_ROWS;
      const u16 both = ((1 << SHARING) - 1) << work.cluster_rank(work.rank, 0);
      cp_async_bulk_tensor_2d_multicast(x_at(x.stage) + first * PANEL_ROW_BYTES, p.x, column,
                                        work.token + first, full, both);
    } else {
      cp_async_bulk_tensor_2d_load(x_at(x.stage), p.x, column, work.token, full);
    }
    x.next();
  }
}

// Run by one thread: copies a block's weights and activations as soon as there is room.
// What lies outside of the matrices is filled with zeros.
DEVICE void load(const Params &p, Shared &shared, const Work &work) {
  Place<WEIGHT_STAGES> w;
  Place<X_STAGES> x;
  Unit of_weights(work), of_x(work);
  const u32 units = work.end - work.first;
  // A ring of them while the launch before ends. Other threads wait for the first activations
  // before they write.
  u32 ahead = 0;
  if (FETCHES_AHEAD)
    for (; ahead < min_of<u32>(units, WEIGHT_STAGES); ++ahead)
      copy_weights(p, shared, work, of_weights.number, w), of_weights.next();
  overlap_after_weights();
  for (u32 i = 0; i < units + LEAD; ++i) {
    if (ahead <= i && i < units)
      copy_weights(p, shared, work, of_weights.number, w), of_weights.next();
    if (i + 1 > LEAD) copy_activations(p, shared, work, of_x.number, x), of_x.next();
  }
}

// --- Products ------------------------------------------------------------------

// Sums of a warpgroup's rows for all tokens, laid out as wgmma.cuh says.
typedef float Sums[TOKENS / 2];

// The left operands of a panel.
typedef u32 Operands[STEPS][4];

DEVICE u32 warp_of_group() { return warp_index() % (WARPGROUP / WARP); }

// The activations of a product: 16 columns of a panel.
DEVICE u64 x_descriptor(u32 stage, u32 step) {
  return panel_descriptor(x_at(stage), step * STEP_BYTES, 0, ATOM_BYTES);
}

// Units of weights in 16 bits that are multiplied while the next is waited for. Up to 128 tokens
// memory takes more than twice as long for a unit as the tensor cores: its stages are free as soon
// as it is multiplied, and not only when the next has come. With more, tensor cores that wait
// would add to the time.
constexpr u32 RUNNING = TOKENS > 128 ? 1 : 0;

// Multiplies weights of 16 bits where they lie.
DEVICE void multiply_plain(Sums &sums, Shared &shared, const Work &work) {
  Place<WEIGHT_STAGES> w;
  Place<X_STAGES> x;
  [[maybe_unused]] u32 w_before = 0, x_before = 0;
  for (u32 unit = work.first; unit < work.end; ++unit) {
    wait(shared_address(&shared.weights_full[w.stage]), w.parity);
    wait(shared_address(&shared.x_full[x.stage]), x.parity);
    wgmma_fence();
#pragma unroll
    for (u32 step = 0; step < STEPS; ++step) {
      const u64 weights = panel_descriptor(weights_at(w.stage) + work.group * GROUP_BYTES,
                                           step * STEP_BYTES, 0, ATOM_BYTES);
      Products::ss(sums, weights, x_descriptor(x.stage, step), true);
    }
    wgmma_commit_group();
    wgmma_wait_group<RUNNING>();
    if (RUNNING == 0) {
      arrive(shared.weights_empty[w.stage]);
      free_x(shared, work, x.stage);
    } else if (unit > work.first) {
      arrive(shared.weights_empty[w_before]);
      free_x(shared, work, x_before);
    }
    w_before = w.stage, x_before = x.stage;
    w.next(), x.next();
  }
  if (RUNNING > 0) wgmma_wait_group<0>();
}

// Converts this lane's operands of a panel of a unit in 8 bits. A product's 16 columns are a
// chunk of a row, and lane t of four has the pairs t and t + 4 of it.
DEVICE void convert_bytes(Operands &a, u32 weights, u32 panel) {
  const u32 row = warp_of_group() * 16 + lane_index() / 4;
  const u32 lane =
      weights + row * LINE_BYTES + row % 8 * CHUNK_BYTES + lane_index() % 4 * sizeof(u16);
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step) {
    const u32 upper = lane ^ (panel * STEPS + step) * CHUNK_BYTES;
    const u32 lower = upper + 8 * LINE_BYTES;
    a[step][0] = operand_of_bytes<0, 1>(ld_shared_u16(upper));
    a[step][1] = operand_of_bytes<0, 1>(ld_shared_u16(lower));
    a[step][2] = operand_of_bytes<0, 1>(ld_shared_u16(upper + CHUNK_BYTES / 2));
    a[step][3] = operand_of_bytes<0, 1>(ld_shared_u16(lower + CHUNK_BYTES / 2));
  }
}

// Converts this lane's operands of a panel of a unit in 4 bits: a tile of 16 rows for each
// warp (src/weights.rs). Activations are not shuffled, so a lane takes other columns than
// those that lie in its own 16 bytes: of the chunk of the lane with its rows and a product's
// columns, it has the pair t of either half. Word t / 2 of a half has the pairs t and its
// neighbour.
DEVICE void convert_nibbles(Operands &a, u32 weights, u32 panel) {
  const u32 row = lane_index() / 4, t = lane_index() % 4;
  const u32 line = row / 2, chunk = row % 2 * 4 ^ line;
  const u32 lane = weights + warp_of_group() * LINE_BYTES + line * BANKS_BYTES +
                   chunk * CHUNK_BYTES + t / 2 * sizeof(u32);
  const u32 pairs = t % 2 == 0 ? 0x6240 : 0x7351;
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step) {
    const u32 from = (lane ^ (panel * 4 + step) * CHUNK_BYTES) + panel * 4 * BANKS_BYTES;
    const u32 nibbles =
        __byte_perm(ld_shared_u32(from), ld_shared_u32(from + CHUNK_BYTES / 2), pairs);
    a[step][0] = operand_of_nibbles<0>(nibbles);
    a[step][1] = operand_of_nibbles<1>(nibbles);
    a[step][2] = operand_of_nibbles<2>(nibbles);
    a[step][3] = operand_of_nibbles<3>(nibbles);
  }
}

DEVICE void convert(Operands &a, u32 stage, u32 group, u32 panel) {
  const u32 weights = weights_at(stage) + group * GROUP_BYTES;
  if (GROUP_SCALES)
    convert_nibbles(a, weights, panel);
  else
    convert_bytes(a, weights, panel);
  // Here and not where they are used, which is after a wait for products that run meanwhile.
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step) pin(a[step]);
}

// Starts the products of a panel.
DEVICE void start(Sums &sums, Operands &a, u32 x_stage) {
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step) pin(a[step]);
  wgmma_fence();
#pragma unroll
  for (u32 step = 0; step < STEPS; ++step)
    Products::rs(sums, a[step], x_descriptor(x_stage, step), true);
  wgmma_commit_group();
}

// The scales of a lane's rows that sums are in units of.
struct SumsUnit {
  float scales[2] = {1, 1};

  // Takes the scales of another group: what sums are to be multiplied by. A scale of zero is
  // replaced by one so small that products vanish beside it.
  DEVICE void change(float (&factors)[2], u32 stage, u32 group) {
    const u32 row = group * GROUP_ROWS + warp_of_group() * 16 + lane_index() / 4;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
      const float scale =
          cvt_f32_f16(ld_shared_u16(scales_at(stage) + (row + half * 8) * sizeof(u16)));
      const float next = scale == 0 ? TINY : scale;
      factors[half] = scales[half] * rcp_approx(next);
      scales[half] = next;
    }
  }

 private:
  static constexpr float TINY = 5.4210109e-20f;  // 2^-64
};

// Multiplies the sums of a lane's rows.
DEVICE void multiply(Sums &sums, const float (&factors)[2]) {
#pragma unroll
  for (u32 i = 0; i < TOKENS / 2; ++i) sums[i] *= factors[i / 2 % 2];
}

// Multiplies weights of 8 and 4 bits: the products of a unit's first panel run while the
// second is converted, those of the second while the first panel of the next unit is.
DEVICE void multiply_converted(Sums &sums, Shared &shared, const Work &work) {
  Place<WEIGHT_STAGES> w;
  Place<X_STAGES> x;
  Operands first, second;
  SumsUnit unit;
  float factors[2];
  wait(shared_address(&shared.weights_full[w.stage]), w.parity);
  convert(first, w.stage, work.group, 0);
  if (GROUP_SCALES) unit.change(factors, w.stage, work.group);
  wait(shared_address(&shared.x_full[x.stage]), x.parity);
#pragma unroll 1
  for (u32 left = work.end - work.first;; --left) {
    start(sums, first, x.stage);
    convert(second, w.stage, work.group, 1);
    arrive(shared.weights_empty[w.stage]);
    w.next();
    const u32 x_of_first = x.stage;
    x.next();
    wait(shared_address(&shared.x_full[x.stage]), x.parity);
    start(sums, second, x.stage);
    if (left == 1) break;
    wgmma_wait_group<1>();
    free_x(shared, work, x_of_first);
    wait(shared_address(&shared.weights_full[w.stage]), w.parity);
    convert(first, w.stage, work.group, 0);
    if (GROUP_SCALES) unit.change(factors, w.stage, work.group);
    const u32 x_of_second = x.stage;
    x.next();
    // Before the products' end, so that the compiler converts before it too.
    wait(shared_address(&shared.x_full[x.stage]), x.parity);
    wgmma_wait_group<0>();
    pin(sums);
    free_x(shared, work, x_of_second);
    if (GROUP_SCALES) multiply(sums, factors);
    pin(sums);
  }
  wgmma_wait_group<0>();
  pin(sums);
  if (GROUP_SCALES) multiply(sums, unit.scales);
}

// --- Results -------------------------------------------------------------------

// The fragments that a block writes, of its tile's that have tokens.
struct Share {
  u32 each;   // of a block; the last blocks may have fewer, or none
  u32 first;
  u32 count;

  DEVICE Share(const Params &p, const Work &work) {
    const u32 tokens = min_of<u32>(TOKENS, p.m - work.token);
    const u32 all = ceil_div(tokens, FRAGMENT_TOKENS) * READERS;
    each = p.splits.quotient(all + p.splits.by - 1);
    first = min_of(work.rank * each, all);
    count = min_of(each, all - first);
  }
};

// The same rows of all fragments of a warp: their first, and the scales of this lane's two.
struct Rows {
  u32 first;
  float scales[2] = {1, 1};

  DEVICE Rows(const Params &p, const Work &work, const Share &share) {
    first = work.row + (share.first + warp_index()) % READERS * FRAGMENT_ROWS;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
      const u32 row = first + lane_index() / 4 + half * 8;
      if (ROW_SCALES && row < p.n) scales[half] = ld_global_nc_f32(p.row_scales + row);
    }
  }
};

// Rounds a fragment and writes what is in the matrix. Lanes have two tokens of two rows: they
// are exchanged so that each has four rows of a token, and that four lanes write the 32 bytes
// of a sector of memory.
DEVICE void write_fragment(const Params &p, u32 first_token, const Rows &rows,
                           const float *sums) {
  const float *const scales = rows.scales;
  const u32 upper = movmatrix_trans(ROW_SCALES ? pack(sums[0] * scales[0], sums[1] * scales[0])
                                               : pack(sums[0], sums[1]));
  const u32 lower = movmatrix_trans(ROW_SCALES ? pack(sums[2] * scales[1], sums[3] * scales[1])
                                               : pack(sums[2], sums[3]));
  const bool odd = lane_index() % 2;
  const u32 other = __shfl_xor_sync(ALL_LANES, odd ? upper : lower, 1);
  const Words2 packed = {odd ? other : upper, odd ? lower : other};
  const u32 token = first_token + lane_index() / 4;
  const u32 row = rows.first + lane_index() % 4 / 2 * 4 + (odd ? 8 : 0);
  if (token >= p.m || row >= p.n) return;
  u16 *const to = p.y + u64(token) * p.n + row;
  if (p.n % 4 == 0) {
    *reinterpret_cast<Words2 *>(to) = packed;
  } else {
    // Rows of y start anywhere.
    for (u32 i = 0; i < 4 && row + i < p.n; ++i) to[i] = packed.w[i / 2] >> i % 2 * 16;
  }
}

// Writes the sums of a block that has a tile to itself.
DEVICE void write_alone(const Params &p, const Work &work, const Rows &rows, const Sums &sums) {
#pragma unroll
  for (u32 i = 0; i < FRAGMENTS; ++i)
    write_fragment(p, work.token + i * FRAGMENT_TOKENS, rows, sums + i * FRAGMENT_SUMS);
}

// This lane's sums of a fragment of a share, of one split.
DEVICE Floats4 *received_sums(const Params &p, u32 fragment, u32 split) {
  return reinterpret_cast<Floats4 *>(rings) + (fragment * p.splits.by + split) * WARP +
         lane_index();
}

// Says to all blocks of the tile, this one among them, that its rings have been read.
DEVICE void say_ready(const Params &p, Shared &shared, const Work &work, const Share &share) {
  bar_sync(READ, COMPUTING);
  if (threadIdx.x == 0)
    mbarrier_arrive_expect_tx(shared_address(&shared.received),
                              share.count * p.splits.by * FRAGMENT_BYTES);
  if (threadIdx.x < p.splits.by)
    mbarrier_arrive_cluster_unordered(
        mapa(shared_address(&shared.ready), work.cluster_rank(threadIdx.x, work.member)));
}

// Gives every block its share of this one's sums.
DEVICE void give(const Params &p, Shared &shared, const Work &work, const Share &share,
                 const Sums &sums) {
  u32 owner = warp_index() / share.each, fragment = warp_index() % share.each;
  const u32 owners = READERS / share.each, fragments = READERS % share.each;
  wait(shared_address(&shared.ready), 0);
#pragma unroll
  for (u32 i = 0; i < FRAGMENTS; ++i) {
    if (i > 0 && work.token + i * FRAGMENT_TOKENS >= p.m) return;
    const u32 to = work.cluster_rank(owner, work.member);
    st_async_v4(mapa(shared_address(received_sums(p, fragment, work.rank)), to),
                sums + i * FRAGMENT_SUMS, mapa(shared_address(&shared.received), to));
    owner += owners, fragment += fragments;
    if (fragment >= share.each) fragment -= share.each, ++owner;
  }
}

// Adds the sums of all blocks for this one's share, in the order of columns, and writes them. A
// warp has several fragments in flight.
DEVICE void write_share(const Params &p, Shared &shared, const Work &work, const Share &share,
                        const Rows &rows) {
  wait(shared_address(&shared.received), 0);
#pragma unroll 1
  for (u32 from = warp_index(); from < share.count; from += FRAGMENTS_AT_ONCE * READERS) {
    float sums[FRAGMENTS_AT_ONCE][FRAGMENT_SUMS] = {};
#pragma unroll 1
    for (u32 split = 0; split < p.splits.by; ++split) {
      Floats4 received[FRAGMENTS_AT_ONCE] = {};
#pragma unroll
      for (u32 i = 0; i < FRAGMENTS_AT_ONCE; ++i)
        if (from + i * READERS < share.count)
          received[i] = *received_sums(p, from + i * READERS, split);
#pragma unroll
      for (u32 i = 0; i < FRAGMENTS_AT_ONCE; ++i)
#pragma unroll
        for (u32 k = 0; k < FRAGMENT_SUMS; ++k) sums[i][k] += received[i].x[k];
    }
#pragma unroll
    for (u32 i = 0; i < FRAGMENTS_AT_ONCE; ++i) {
      const u32 fragment = from + i * READERS;
      if (fragment < share.count)
        write_fragment(
            p, work.token + (share.first + fragment) / READERS * FRAGMENT_TOKENS, rows, sums[i]);
    }
  }
}

// What the warps that compute do.
DEVICE void compute(const Params &p, Shared &shared, const Work &work) {
  Sums sums = {};
  pin(sums);
  if (CONVERTS)
    multiply_converted(sums, shared, work);
  else
    multiply_plain(sums, shared, work);
  pin(sums);
  const Share share(p, work);
  const Rows rows(p, work, share);
  if (p.splits.by == 1) return write_alone(p, work, rows, sums);
  say_ready(p, shared, work, share);
  give(p, shared, work, share, sums);
  write_share(p, shared, work, share, rows);
}

KERNEL(THREADS, BLOCKS_PER_SM) gemm_swapped(const __grid_constant__ Params p) {
  overlap_previous();
  __shared__ Shared shared;
  if (threadIdx.x == COMPUTING) {
    prefetch_tensormap(p.weights);
    prefetch_tensormap(p.x);
    shared.init(p.splits.by);
  }
  __syncwarp();
  // The thread that loads waits for no other, unless it copies to other blocks: those must have
  // begun.
  const bool loads = threadIdx.x >= COMPUTING, in_cluster = p.cluster.by > 1;
  if (in_cluster) barrier_cluster_arrive_relaxed();
  if (loads)
    bar_arrive(BEGUN, THREADS);
  else
    bar_sync(BEGUN, THREADS);
  if (SHARING > 1 || in_cluster && !loads) barrier_cluster_wait();

  const Work work(p);
  if (work.group < GROUPS) {
    if (REALLOCATES) setmaxnreg_inc<COMPUTING_REGISTERS>();
    compute(p, shared, work);
  } else {
    if (REALLOCATES) setmaxnreg_dec<LOADING_REGISTERS>();
    if (threadIdx.x == COMPUTING) load(p, shared, work);
    __syncwarp();
    if (SHARING == 1 && in_cluster) barrier_cluster_wait();
  }
  if (SHARING > 1) {
    // Others say to this block's mbarriers until their end that they have read activations.
    sync_cluster();
  }
}
