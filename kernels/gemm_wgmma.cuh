// Products of tiles by warpgroups, for kernels that differ in what they multiply: how a
// block computes tiles of C = A * B^T, one after the other, sm_90a. Which tiles, of which
// rows of A and of B, a kernel's schedule says; A, B and C are matrices of any number of
// rows, of one problem or of many.
//
// One warp loads, two warpgroups multiply. Steps of 128 bytes of a row arrive as panels,
// swizzled by the copy engine, in the STAGES stages of a ring, whose mbarriers say that a
// stage is full (its bytes have arrived) or empty (all have read it). A warpgroup starts a
// step's products, then waits for those of the step before and frees its stage, so that the
// tensor cores always have work. The ring does not stop between tiles: while a tile is
// stored, the next one is loaded.
//
// Clusters take work in turn: always as many turns further on, or with DYNAMIC by a ticket when
// they begin what they have. Then work is begun in order, however unlike clusters run, so that
// those that read the same rows of A and of B do so at the same time, and one of them from DRAM.
//
// CLUSTER blocks (1 or 2) of a cluster compute neighbouring tiles at the same time; they
// have B in common (or A, with SHARES_A): each loads half of it and multicasts that to both.
// A stage is empty when the warpgroups of both blocks have read it.
//
// Sums are rounded, staged in shared memory by warp and stored by tensor copies, which run
// on during the next tile. With ENDS_ROWS a tile's last rows may be another's: those are not
// stored, and a warpgroup that has no others multiplies nothing where the schedule says so.
// With GATHERS the rows of A and of C lie anywhere, and a list says where: all of the loading
// warpgroup copies rows of A by cp.async, 16 bytes a thread, and sums are stored row by row.
// Where a tile's sum is split, partial sums are added by the block that finishes it last, in
// the order of k: the result is the same to the last bit, always.
#pragma once
#include "cluster.cuh"
#if !defined(ELEMENT_TF32)
#include "element.cuh"
#endif
#include "last_block.cuh"
#include "mbarrier.cuh"
#include "tile.cuh"
#include "wgmma.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 WARPGROUPS = 2;                       // that multiply
constexpr u32 MULTIPLYING = WARPGROUPS * WARPGROUP;  // threads
constexpr u32 THREADS = MULTIPLYING + WARPGROUP;

// Warpgroups divide the rows of a tile, or its columns where it has only 64 rows.
constexpr bool DIVIDES_COLUMNS = TILE_M == 64;
constexpr u32 GROUP_ROWS = DIVIDES_COLUMNS ? TILE_M : TILE_M / WARPGROUPS;
constexpr u32 GROUP_COLUMNS = DIVIDES_COLUMNS ? TILE_N / WARPGROUPS : TILE_N;
// Of 64 rows each: those of one product.
constexpr u32 PRODUCT_ROWS = 64;
constexpr u32 BLOCKS_M = GROUP_ROWS / PRODUCT_ROWS;

// A step along the sum: a panel's row of 128 bytes, in products of 32 bytes.
constexpr u32 ROW_BYTES = 128;
constexpr u32 STEP_K = ROW_BYTES / OPERAND_BYTES;
constexpr u32 PRODUCT_BYTES = 32;
constexpr u32 DEPTH = ROW_BYTES / PRODUCT_BYTES;
constexpr u32 ATOM_BYTES = 8 * ROW_BYTES;  // eight rows, the period of the swizzle

constexpr u32 A_BYTES = TILE_M * ROW_BYTES;
constexpr u32 B_BYTES = TILE_N * ROW_BYTES;
constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES;

// Rows of A and of B that this block loads; a cluster shares one of them.
constexpr u32 A_BOX_ROWS = SHARES_A ? TILE_M / CLUSTER : TILE_M;
constexpr u32 B_BOX_ROWS = SHARES_A ? TILE_N : TILE_N / CLUSTER;
constexpr u16 ALL_BLOCKS = (1 << CLUSTER) - 1;

// Products of tf32 have sums in f32 as their result, others in 16 bits.
#if defined(ELEMENT_TF32)
constexpr u32 C_BYTES = sizeof(float);
#else
constexpr u32 C_BYTES = ELEMENT_BYTES;
#endif

// A warp stages its 16 rows of C in panels of 128 bytes a row, two of them in turn.
constexpr u32 PANEL_COLUMNS = ROW_BYTES / C_BYTES;
constexpr u32 WARP_ROWS = 16;
constexpr u32 PANEL_BYTES = WARP_ROWS * ROW_BYTES;
constexpr u32 PANELS = 2;
constexpr u32 STAGING_BYTES = MULTIPLYING / WARP * PANELS * PANEL_BYTES;

// Registers of a thread by role; together as many as the block was launched with. Who gathers
// holds addresses of rows.
constexpr u32 MULTIPLYING_REGISTERS = GATHERS ? 224 : 232;
constexpr u32 LOADING_REGISTERS = GATHERS ? 56 : 40;

static_assert(GROUP_ROWS % PRODUCT_ROWS == 0, "a product has 64 rows");
static_assert(GROUP_COLUMNS % PANEL_COLUMNS == 0, "C is stored in whole panels");
static_assert(GROUP_COLUMNS == PRODUCT_COLUMNS, "one product has all columns of a warpgroup");
static_assert(A_BOX_ROWS <= 256 && B_BOX_ROWS <= 256, "a box has at most 256 rows");
static_assert(A_BOX_ROWS % 8 == 0 && B_BOX_ROWS % 8 == 0, "boxes begin at swizzle atoms");
static_assert(CLUSTER == 1 || CLUSTER == 2, "halves are multicast");
static_assert(CLUSTER == 2 || !SHARES_A, "one block shares nothing");
static_assert(STEP_K == 128 || !TWO_LEVELS, "a step has one scale of a row");
static_assert(!GATHERS || (ENDS_ROWS && CLUSTER == 1), "rows are gathered for one block");
static_assert(SHARED_BYTES == STAGES * STAGE_BYTES + STAGING_BYTES, "the host reserves these");

WGMMA(MULTIPLIED, PRODUCT_COLUMNS)
typedef Wgmma<MULTIPLIED, PRODUCT_COLUMNS> Product;
typedef Product::Sum Sum;
// Of a thread: in each block of 64 rows, rows lane / 4 and eight further of its warp's 16;
// of every eight columns two.
constexpr u32 BLOCK_SUMS = GROUP_COLUMNS / 2;
typedef Sum Sums[BLOCKS_M][BLOCK_SUMS];

// What a block computes at a time, as a schedule says it: the tile that begins at these rows
// of A, of B and of C and at this column of C, and which steps of its sum.
struct Work {
  u32 a_row;
  u32 b_row;
  u32 c_row;
  u32 c_column;
#if ENDS_ROWS
  u32 c_end;  // rows of C from there on are others'
  bool passes_over;  // a warpgroup whose rows all are others' multiplies nothing
#endif
  u32 first_step;
  u32 steps;   // at least one
  u32 split;   // of the tile's sum, in the order of k
  u32 splits;  // 1: the block computes all of it
  u32 partial;  // splits > 1: number of the tile among those that are split
};

// --- The ring ----------------------------------------------------------------

extern __shared__ __align__(1024) u8 shared[];

struct Ring {
  u64 full[STAGES];
  u64 empty[STAGES];

  DEVICE void init() {
    for (u32 stage = 0; stage < STAGES; ++stage) {
      // Who starts tensor copies arrives, and all threads whose copies gather rows.
      mbarrier_init(shared_address(&full[stage]), GATHERS ? 1 + WARPGROUP : 1);
      mbarrier_init(shared_address(&empty[stage]), CLUSTER * MULTIPLYING / WARP);
    }
    fence_mbarrier_init();
  }
};

// A stage, and the parity of the phases in which it is filled and freed.
struct Slot {
  u32 stage = 0;
  u32 parity = 0;

  DEVICE void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

DEVICE u32 stage_address(u32 stage) { return shared_address(shared) + stage * STAGE_BYTES; }

// Waits for all threads of the blocks that share stages.
DEVICE void meet_sharing_blocks() { CLUSTER > 1 ? meet_cluster() : __syncthreads(); }

// Waits until the stage is full. Warpgroups read operands through the async proxy: what
// cp.async wrote is fenced by all who observe that it has arrived.
DEVICE void wait_full(Ring &ring, Slot slot) {
  wait(shared_address(&ring.full[slot.stage]), slot.parity);
  if (GATHERS) fence_proxy_async_shared();
}

DEVICE u32 rank_in_cluster() { return CLUSTER > 1 ? cluster_ctarank() : 0; }

// Arrives once for this warp, at the stage's barrier of every block that fills it.
DEVICE void release(Ring &ring, u32 stage) {
  const u32 empty = shared_address(&ring.empty[stage]);
  if (CLUSTER > 1) {
    if (lane_index() < CLUSTER) mbarrier_arrive_cluster_unordered(mapa(empty, lane_index()));
  } else if (lane_index() == 0) {
    mbarrier_arrive(empty);
  }
}

// --- Turns -----------------------------------------------------------------------------
// A schedule says what a turn is (`Turn`), how many there are (`turns()`), which one has a
// number (`turn`, past the end too), what its work is (`begin`, false past the end), and where
// those that were taken are counted (`taken()`, zero between launches).

DEVICE u32 cluster_index() { return blockIdx.x / CLUSTER; }
DEVICE u32 clusters() { return gridDim.x / CLUSTER; }

#if DYNAMIC
// Turns that are taken ahead: where the warpgroup that loads also takes them, two, since it
// comes to the next before others have read the last.
constexpr u32 TURNS = GATHERS ? 2 : 1;
// Warps that read each: those that multiply, and those that load.
constexpr u32 READERS = MULTIPLYING / WARP + (GATHERS ? WARPGROUP / WARP : 1);

// One of the turns that are taken ahead, and the parity of the phases in which it is.
struct TurnSlot {
  u32 number = 0;
  u32 parity = 0;

  DEVICE void advance() {
    if (++number == TURNS) number = 0, parity ^= 1;
  }
};

// In shared memory.
template <typename Turn>
struct Turns {
  u64 full[TURNS];
  u64 empty[TURNS];
  Turn turns[TURNS];
  // What the second block of a cluster is told of by the first: a number at a time.
  u64 told;
  u64 heard;
  Words4 number;

  DEVICE void init() {
    for (u32 i = 0; i < TURNS; ++i) {
      mbarrier_init(shared_address(&full[i]), 1);
      mbarrier_init(shared_address(&empty[i]), READERS);
    }
    mbarrier_init(shared_address(&told), 1);
    mbarrier_init(shared_address(&heard), 1);
  }
};

// Waits until the phase of this parity has ended, where another block arrives.
DEVICE void wait_cluster(u32 barrier, u32 parity) {
  while (!mbarrier_try_wait_parity_cluster(barrier, parity)) {
  }
}

// Takes turns for a block; one thread has it.
template <typename Schedule>
struct Taker {
  Turns<typename Schedule::Turn> &turns;
  const Schedule &schedule;
  TurnSlot slot = {};
  u32 told = 0;  // parity of the number's phases
  bool more = true;

  // The next number, for the first block of a cluster; the first is that of the cluster. All
  // clusters together take as many tickets as there are turns, the last ones in vain: who has
  // the last ticket leaves none for the next launch.
  DEVICE u32 take() const {
    u32 *const taken = schedule.taken();
    const u32 ticket = atom_add_relaxed_gpu(taken, 1);
    if (ticket == schedule.turns() - 1) *taken = 0;
    return clusters() + ticket;
  }

  // The next number for both blocks of a cluster.
  DEVICE u32 take_together() {
    const u32 here = shared_address(&turns.number);
    u32 number;
    if (rank_in_cluster() == 0) {
      number = take();
      wait_cluster(shared_address(&turns.heard), told ^ 1);
      st_shared_cluster_v4(mapa(here, 1), {number});
      mbarrier_arrive_cluster(mapa(shared_address(&turns.told), 1));
    } else {
      wait_cluster(shared_address(&turns.told), told);
      number = ld_shared_u32(here);
      mbarrier_arrive_cluster(mapa(shared_address(&turns.heard), 0));
    }
    told ^= 1;
    return number;
  }

  // Takes the next turn when all have read the one in whose place it comes.
  DEVICE void next() {
    if (!more) return;
    wait(shared_address(&turns.empty[slot.number]), slot.parity ^ 1);
    const u32 number = CLUSTER > 1 ? take_together() : take();
    more = number < schedule.turns();
    turns.turns[slot.number] = schedule.turn(number);
    mbarrier_arrive(shared_address(&turns.full[slot.number]));
    slot.advance();
  }
};

// A role's way through its block's turns.
template <typename Schedule>
struct Way {
  const Schedule &schedule;
  Turns<typename Schedule::Turn> &turns;
  TurnSlot slot = {};
  bool is_first = true;

  // Sets `work` to the next; false where there is none. Called by whole warps, or by one
  // thread of a warp for it.
  template <bool whole_warp = true>
  DEVICE bool next(Work &work) {
    if (is_first) {
      is_first = false;
      return schedule.begin(schedule.turn(cluster_index()), work);
    }
    wait(shared_address(&turns.full[slot.number]), slot.parity);
    const bool any = schedule.begin(turns.turns[slot.number], work);
    if (whole_warp) __syncwarp();
    if (!whole_warp || lane_index() == 0)
      mbarrier_arrive(shared_address(&turns.empty[slot.number]));
    slot.advance();
    return any;
  }
};
#else
// Every role counts for itself. The next turn is loaded while one is done.
template <typename Schedule>
struct Way {
  const Schedule &schedule;
  u32 number = cluster_index();
  typename Schedule::Turn ahead = schedule.turn(number);

  template <bool whole_warp = true>
  DEVICE bool next(Work &work) {
    if (!schedule.begin(ahead, work)) return false;
    number += clusters();
    ahead = schedule.turn(number);
    return true;
  }
};
#endif

// --- The warp that loads -----------------------------------------------------------

// Where a step of A and of B is copied to, and from.
struct Step {
  u32 stage;  // address
  u32 full;   // barrier
  u32 x;      // first column

  DEVICE Step(Ring &ring, const Slot &slot, u32 step)
      : stage(stage_address(slot.stage)),
        full(shared_address(&ring.full[slot.stage])),
        x(step * STEP_K) {}

  DEVICE void copy_a(const TensorMap &a, const Work &work) const {
    const u32 half = SHARES_A ? rank_in_cluster() * A_BOX_ROWS : 0;
    if (SHARES_A && CLUSTER > 1)
      cp_async_bulk_tensor_2d_multicast(stage + half * ROW_BYTES, a, x, work.a_row + half, full,
                                        ALL_BLOCKS);
    else
      cp_async_bulk_tensor_2d_load(stage, a, x, work.a_row, full);
  }

  DEVICE void copy_b(const TensorMap &b, const Work &work) const {
    const u32 half = SHARES_A ? 0 : rank_in_cluster() * B_BOX_ROWS;
    if (!SHARES_A && CLUSTER > 1)
      cp_async_bulk_tensor_2d_multicast(stage + A_BYTES + half * ROW_BYTES, b, x,
                                        work.b_row + half, full, ALL_BLOCKS);
    else
      cp_async_bulk_tensor_2d_load(stage + A_BYTES, b, x, work.b_row, full);
  }
};

// Run by one of its threads: fills the empty ring with the first steps, B, which is weights,
// before the launch before has ended. Returns how many steps.
DEVICE u32 load_ahead(const TensorMap &a, const TensorMap &b, Ring &ring, const Work &work,
                      Slot &slot) {
  const u32 steps = min_of<u32>(work.steps, STAGES);
  for (u32 i = 0; i < steps; ++i) {
    const Step step(ring, {i, 0}, work.first_step + i);
    mbarrier_arrive_expect_tx(step.full, STAGE_BYTES);
    step.copy_b(b, work);
  }
  overlap_after_weights();
  for (u32 i = 0; i < steps; ++i, slot.advance())
    Step(ring, slot, work.first_step + i).copy_a(a, work);
  return steps;
}

// Run by one of its threads: loads the steps of all work as soon as there is room.
template <typename Way>
DEVICE void load_all(const TensorMap &a, const TensorMap &b, Ring &ring, Way way) {
  Slot slot;
  bool is_first = FETCHES_AHEAD;
  for (Work work; way.template next<false>(work); is_first = false) {
    const u32 end = work.first_step + work.steps;
    u32 number = work.first_step;
    if (FETCHES_AHEAD && is_first) number += load_ahead(a, b, ring, work, slot);
    for (; number < end; ++number, slot.advance()) {
      wait(shared_address(&ring.empty[slot.stage]), slot.parity ^ 1);
      const Step step(ring, slot, number);
      mbarrier_arrive_expect_tx(step.full, STAGE_BYTES);
      step.copy_a(a, work);
      step.copy_b(b, work);
    }
  }
}

#if GATHERS
// Where rows of A and C lie: rows of both by the place in a list of those of C.
struct RowMap {
  const u32 *rows;  // of C
  u32 of_input;     // rows of C for each row of A

  DEVICE u32 in_c(u32 place) const { return ld_global_nc_u32(rows + place); }
  DEVICE u32 in_a(u32 place) const { return in_c(place) / of_input; }
};

// A, where it is gathered.
struct Gathered {
  const u8 *first;
  RowMap map;
  u32 row_bytes;
};

// Run by all threads of the warpgroup that loads: the same as load_all(), where this thread
// copies a chunk of 16 bytes of every 16th row of A, and the first one takes turns with `take`.
template <typename Way, typename Take>
DEVICE void gather_all(const Gathered &a, const TensorMap &b, Ring &ring, Way way, Take take) {
  constexpr u32 chunks = ROW_BYTES / CHUNK_BYTES, rows_at_once = WARPGROUP / chunks;
  constexpr u32 rows = TILE_M / rows_at_once;  // of this thread
  static_assert(rows_at_once % 8 == 0, "all rows of a thread have the same swizzle");
  const u32 thread = threadIdx.x - MULTIPLYING, row = thread / chunks, chunk = thread % chunks;
  const u32 within = swizzled<chunks>(row, chunk);
  Slot slot;
  for (Work work; way.next(work);) {
    if (thread == 0) take();
    // Rows past the end are filled with zeros, and so are columns.
    const u8 *from[rows];
    const u32 first = work.a_row + row;
#pragma unroll
    for (u32 i = 0; i < rows; ++i) {
      const u32 place = min_of(first + i * rows_at_once, work.c_end - 1);
      from[i] = a.first + u64(a.map.in_a(place)) * a.row_bytes + work.first_step * ROW_BYTES +
                chunk * CHUNK_BYTES;
    }
    const i32 left = i32(work.c_end) - i32(first);
    u32 column = work.first_step * ROW_BYTES + chunk * CHUNK_BYTES;
#pragma unroll 1
    for (u32 step = 0; step < work.steps; ++step, slot.advance()) {
      wait(shared_address(&ring.empty[slot.stage]), slot.parity ^ 1);
      const u32 full = shared_address(&ring.full[slot.stage]);
      const u32 to_a = stage_address(slot.stage), x = (work.first_step + step) * STEP_K;
      if (thread == 0) {
        mbarrier_arrive_expect_tx(full, B_BYTES);
        cp_async_bulk_tensor_2d_load(to_a + A_BYTES, b, x, work.b_row, full);
      }
      const i32 inside = column < a.row_bytes ? left : 0;
#pragma unroll
      for (u32 i = 0; i < rows; ++i) {
        cp_async_16(to_a + within + i * rows_at_once * ROW_BYTES, from[i],
                    i32(i * rows_at_once) < inside ? CHUNK_BYTES : 0);
        from[i] += ROW_BYTES;
      }
      cp_async_mbarrier_arrive(full);
      column += ROW_BYTES;
    }
  }
}
#else
// Rows of A and C are where the schedule says.
struct RowMap {
  DEVICE u32 in_c(u32 row) const { return row; }
  DEVICE u32 in_a(u32 row) const { return row; }
};
#endif

// --- Products ----------------------------------------------------------------------

// Where this warpgroup's rows of A and of B begin in a stage.
struct Place {
  u32 a;
  u32 b;
};
DEVICE Place place_of(u32 group) {
  return {DIVIDES_COLUMNS ? 0 : group * GROUP_ROWS * ROW_BYTES,
          A_BYTES + (DIVIDES_COLUMNS ? group * GROUP_COLUMNS * ROW_BYTES : 0)};
}

template <u32 blocks, u32 count>
DEVICE void pin(Sum (&sums)[blocks][count]) {
#pragma unroll
  for (u32 i = 0; i < blocks; ++i) pin(sums[i]);
}

// What descriptors hold of an address: without the number of the block in its cluster.
DEVICE u32 within_block(u32 address) { return address & 0x3ffff; }

// Products of a step with one block of rows of A.
DEVICE void start_products(Sum (&sums)[BLOCK_SUMS], Place place, u32 stage, u32 depth, u32 block,
                           bool accumulate) {
  const u32 address = within_block(stage_address(stage));
  const u64 a = panel_descriptor(address + place.a,
                                 depth * PRODUCT_BYTES + block * PRODUCT_ROWS * ROW_BYTES, 0,
                                 ATOM_BYTES);
  const u64 b = panel_descriptor(address + place.b, depth * PRODUCT_BYTES, 0, ATOM_BYTES);
  Product::ss(sums, a, b, accumulate);
}

// Starts the products of a step; the first one of a tile starts from zero.
DEVICE void start_step(Sums &sums, Place place, u32 stage, bool is_first) {
  wgmma_fence();
#pragma unroll
  for (u32 depth = 0; depth < DEPTH; ++depth)
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
      start_products(sums[i], place, stage, depth, i, !is_first || depth > 0);
  wgmma_commit_group();
}

// Adds the products of so many steps, from `slot` on. Frees each stage when the products of
// the next one have started.
DEVICE void multiply(Sums &sums, Ring &ring, Slot &slot, Place place, u32 steps) {
  u32 last = slot.stage;
  wait_full(ring, slot);
  pin(sums);
  start_step(sums, place, slot.stage, true);
  slot.advance();
#pragma unroll 1
  for (u32 step = 1; step < steps; ++step) {
    wait_full(ring, slot);
    start_step(sums, place, slot.stage, false);
    wgmma_wait_group<1>();
    release(ring, last);
    last = slot.stage;
    slot.advance();
  }
  wgmma_wait_group<0>();
  pin(sums);
  release(ring, last);
}

// Frees so many stages without products.
DEVICE void pass_over(Ring &ring, Slot &slot, u32 steps) {
#pragma unroll 1
  for (u32 step = 0; step < steps; ++step, slot.advance()) {
    wait(shared_address(&ring.full[slot.stage]), slot.parity);
    release(ring, slot.stage);
  }
}

// Steps whose products tensor cores add before they are added in f32. Where no scale differs
// between them it is two, 256 columns: that halves additions and waits, which takes 3 to 6%
// of the time (an H200).
#if defined(SCALES_BLOCKS)
constexpr u32 STEPS_AT_A_TIME = 1;
#else
constexpr u32 STEPS_AT_A_TIME = 2;
#endif
static_assert(STEPS_AT_A_TIME < STAGES, "others are loaded meanwhile");

// Adds the products of so many steps, times their factors, and frees their stages.
template <u32 count, typename Steps>
DEVICE void add_steps(Sums &sums, Ring &ring, Slot &slot, Place place, u32 step, Steps &of_steps) {
  of_steps.next(step);
  u32 stages[count];
#pragma unroll
  for (u32 s = 0; s < count; ++s, slot.advance()) {
    wait_full(ring, slot);
    stages[s] = slot.stage;
  }
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M; ++i) {
    Sum of_step[BLOCK_SUMS];
    pin(of_step);
    wgmma_fence();
#pragma unroll
    for (u32 s = 0; s < count; ++s)
#pragma unroll
      for (u32 depth = 0; depth < DEPTH; ++depth)
        start_products(of_step, place, stages[s], depth, i, s > 0 || depth > 0);
    wgmma_commit_group();
    const float top = of_steps.factor(step, i, 0), bottom = of_steps.factor(step, i, 1);
    wgmma_wait_group<0>();
    pin(of_step);
    if (i + 1 == BLOCKS_M) {
#pragma unroll
      for (u32 s = 0; s < count; ++s) release(ring, stages[s]);
    }
#pragma unroll
    for (u32 j = 0; j < BLOCK_SUMS; ++j) sums[i][j] += of_step[j] * (j / 2 % 2 ? bottom : top);
  }
}

// The same as multiply() in two levels: tensor cores add E4M3 products with fewer bits than
// f32 has, so they start from zero again after a step or few, and their sums are added here,
// times the factors of `Steps`. While one warpgroup does that, the other multiplies.
template <typename Steps>
DEVICE void multiply_in_levels(Sums &sums, Ring &ring, Slot &slot, Place place, u32 steps,
                               Steps of_steps) {
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
    for (u32 j = 0; j < BLOCK_SUMS; ++j) sums[i][j] = 0;
  u32 step = 0;
#pragma unroll 1
  for (; step + STEPS_AT_A_TIME <= steps; step += STEPS_AT_A_TIME)
    add_steps<STEPS_AT_A_TIME>(sums, ring, slot, place, step, of_steps);
#pragma unroll 1
  for (; STEPS_AT_A_TIME > 1 && step < steps; ++step)
    add_steps<1>(sums, ring, slot, place, step, of_steps);
}

// --- Sums of several blocks ----------------------------------------------------------

// The barrier of the warpgroups that multiply.
struct Multiplying {
  DEVICE void operator()() const { bar_sync(1, MULTIPLYING); }
};

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE u32 bits_of(i32 x) { return static_cast<u32>(x); }
DEVICE void from_bits(float &x, u32 bits) { x = __uint_as_float(bits); }
DEVICE void from_bits(i32 &x, u32 bits) { x = static_cast<i32>(bits); }

// Partial sums of tiles that are split: a tile's vectors of four sums of every split, and
// its ticket, zero between launches.
struct Partials {
  Words4 *sums;
  u32 *tickets;
};

// Writes this split's sums. Returns whether all splits have done so; `sums` is then their
// sum.
DEVICE bool add_splits(const Partials &partials, const Work &work, Sums &sums) {
  constexpr u32 vectors = BLOCK_SUMS / 4;  // of a block of rows
  constexpr u32 all = BLOCKS_M * vectors;
  // Thread by thread: [tile][split][vector][thread].
  Words4 *const of_tile =
      partials.sums + u64(work.partial) * work.splits * all * MULTIPLYING + threadIdx.x;
  Words4 *const mine = of_tile + u64(work.split) * all * MULTIPLYING;
#pragma unroll
  for (u32 i = 0; i < all; ++i) {
    const Sum *x = sums[i / vectors] + i % vectors * 4;
    mine[i * MULTIPLYING] = {bits_of(x[0]), bits_of(x[1]), bits_of(x[2]), bits_of(x[3])};
  }
  if (!is_last_block(partials.tickets + work.partial, work.splits, Multiplying{})) return false;

  // As many loads in flight as registers allow.
  constexpr u32 batch = 8;
  static_assert(all % batch == 0, "all batches are full");
#pragma unroll
  for (u32 first = 0; first < all; first += batch) {
#pragma unroll
    for (u32 i = first; i < first + batch; ++i)
#pragma unroll
      for (u32 j = 0; j < 4; ++j) sums[i / vectors][i % vectors * 4 + j] = 0;
#pragma unroll 1
    for (u32 split = 0; split < work.splits; ++split) {
#pragma unroll
      for (u32 i = first; i < first + batch; ++i) {
        const Words4 words = of_tile[(u64(split) * all + i) * MULTIPLYING];
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
          Sum x;
          from_bits(x, words.w[j]);
          sums[i / vectors][i % vectors * 4 + j] += x;
        }
      }
    }
  }
  return true;
}

// --- Storing ---------------------------------------------------------------------------

// The matrix C, where tensor copies do not store it.
struct Target {
  u8 *first;
  u32 columns;
  RowMap map;
};

// Stores the first rows of a panel.
DEVICE void store_rows(const Target &c, u32 panel, u32 row, u32 end, u32 column) {
#pragma unroll
  for (u32 i = 0; i < PANEL_BYTES / (WARP * CHUNK_BYTES); ++i) {
    const u32 index = i * WARP + lane_index(), r = index / 8, chunk = index % 8;
    const u32 x = column + chunk * (CHUNK_BYTES / ELEMENT_BYTES);
    const Words4 words = ld_shared_v4(panel + chunk_offset<PANEL_COLUMNS>(r, chunk));
    if (row + r < end && x < c.columns)
      st_global_v4(c.first + (u64(c.map.in_c(row + r)) * c.columns + x) * ELEMENT_BYTES, words);
  }
}

#if defined(ELEMENT_TF32)
// Where this lane stages sums: two of a row in eight bytes. Rows of different parity begin
// two blocks of eight columns apart, so that the four rows of half a warp lie in all banks.
DEVICE u32 staged_at() {
  const u32 row = lane_index() / 4, chunk = row % 2 * 4 + lane_index() % 4 / 2;
  return swizzled<ROW_BYTES / CHUNK_BYTES>(row, chunk) + lane_index() % 2 * sizeof(Floats2);
}

// Stages this warp's rows of a panel, whose sums `x` are.
template <typename Scales>
DEVICE void stage_panel(u32 lane, const float *x, float, float, const Scales &, u32) {
  const bool is_odd = lane_index() / 4 % 2;
#pragma unroll
  for (u32 block = 0; block < PANEL_COLUMNS / 8; ++block) {
    float of_lane[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) of_lane[i] = is_odd ? x[(block ^ 2) * 4 + i] : x[block * 4 + i];
    const u32 to = right_by(lane, block);
    st_shared_v2(to, bits_of(of_lane[0]), bits_of(of_lane[1]));
    st_shared_v2(to + 8 * ROW_BYTES, bits_of(of_lane[2]), bits_of(of_lane[3]));
  }
}
#else
// Where this lane stages sums.
DEVICE u32 staged_at() { return lane_offset_a<PANEL_COLUMNS>(); }

// Rounds and stages this warp's rows of a panel, whose sums `x` are; `b_row` is the row of B
// of its first column.
template <typename Scales>
DEVICE void stage_panel(u32 lane, const Sum *x, float top, float bottom, const Scales &scales,
                        u32 b_row) {
#pragma unroll
  for (u32 pair = 0; pair < PANEL_COLUMNS / 16; ++pair) {
    u32 words[4];
#pragma unroll
    for (u32 j = 0; j < 2; ++j) {
      const u32 block = pair * 2 + j;
      const Sum *y = x + block * 4;
      const Floats2 of_columns = scales.of_columns(b_row + block * 8 + lane_index() % 4 * 2);
      words[j * 2] = pack(y[0] * (top * of_columns.x[0]), y[1] * (top * of_columns.x[1]));
      words[j * 2 + 1] =
          pack(y[2] * (bottom * of_columns.x[0]), y[3] * (bottom * of_columns.x[1]));
    }
    stmatrix_x4(right_by(lane, pair), words);
  }
}
#endif

// Rounds this warp's rows of the tile and stores them; what lies past the end of C is not
// written. `Scales` has the factors of rows and of pairs of columns. `stored` is how many
// panels the warp has stored before.
template <typename Scales>
DEVICE void store(const TensorMap &c, const Target &target, const Work &work, const Sums &sums, u32 group,
                  const Scales &scales, u32 &stored) {
  constexpr u32 across = GROUP_COLUMNS / PANEL_COLUMNS, all = BLOCKS_M * across;
  const u32 warp = warp_index() % (WARPGROUP / WARP);
  const u32 staging = shared_address(shared) + STAGES * STAGE_BYTES +
                      (group * (WARPGROUP / WARP) + warp) * PANELS * PANEL_BYTES;
  const u32 lane = staging + staged_at();
  const u32 first_row = (DIVIDES_COLUMNS ? 0 : group * GROUP_ROWS) + warp * WARP_ROWS;
  const u32 column = work.c_column + (DIVIDES_COLUMNS ? group * GROUP_COLUMNS : 0);
  const u32 b_row = work.b_row + (DIVIDES_COLUMNS ? group * GROUP_COLUMNS : 0);
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M; ++i) {
    const u32 row = work.c_row + first_row + i * PRODUCT_ROWS;
#if ENDS_ROWS
    static_assert(BLOCKS_M == 1 || across % PANELS == 0, "panels alternate");
    if (row >= work.c_end) break;
    const u32 end = work.c_end;
    const bool is_whole = !GATHERS && row + WARP_ROWS <= end;
#else
    constexpr u32 end = 0;
    constexpr bool is_whole = true;
#endif
    const float top = scales.of_row(row + lane_index() / 4);
    const float bottom = scales.of_row(row + lane_index() / 4 + 8);
#pragma unroll
    for (u32 panel = 0; panel < across; ++panel) {
      // The store of the panel before the last has read its place.
      const u32 before = all % PANELS == 0 ? i * across : stored;
      const u32 place = (before + panel) % PANELS * PANEL_BYTES;
      if (!GATHERS && lane_index() == 0) cp_async_bulk_wait_group_read<PANELS - 1>();
      __syncwarp();
      stage_panel(lane + place, sums[i] + panel * (PANEL_COLUMNS / 2), top, bottom, scales,
                  b_row + panel * PANEL_COLUMNS);
      const u32 x = column + panel * PANEL_COLUMNS;
      if (is_whole) {
        fence_proxy_async_shared();
        __syncwarp();
        if (lane_index() == 0) cp_async_bulk_tensor_2d_store(c, x, row, staging + place);
      } else {
        __syncwarp();
        store_rows(target, staging + place, row, end, x);
      }
      if (!GATHERS) cp_async_bulk_commit_group();
    }
    stored += across;
  }
}

// --- Scales ----------------------------------------------------------------------------
// Factors of sums, by rows of A and of B: at the end (of_row, of_columns), and of every step
// where sums have two levels (of_steps).

// Steps that are added as they are.
struct UnscaledSteps {
  DEVICE void next(u32) {}
  DEVICE float factor(u32, u32, u32) const { return 1; }
};

// Sums that are the result.
struct Unscaled {
  DEVICE float of_row(u32) const { return 1; }
  DEVICE Floats2 of_columns(u32) const { return {{1, 1}}; }
  DEVICE UnscaledSteps of_steps(const Work &, u32) const { return {}; }
};

// A scale for each row of A and of B; or one for all, with a stride of 0.
struct RowScales {
  const float *a;
  const float *b;
  u32 a_rows;
  u32 b_rows;
  u32 a_stride;
  u32 b_stride;
  RowMap map;

  DEVICE float of_row(u32 row) const {
    return ld_global_nc_f32(a + map.in_a(min_of(row, a_rows - 1)) * a_stride);
  }
  // Of columns of C by their rows of B.
  DEVICE Floats2 of_columns(u32 b_row) const {
    return {{ld_global_nc_f32(b + min_of(b_row, b_rows - 1) * b_stride),
             ld_global_nc_f32(b + min_of(b_row + 1, b_rows - 1) * b_stride)}};
  }
  DEVICE UnscaledSteps of_steps(const Work &, u32) const { return {}; }
};

// A scale for each 128 columns of a row of A, and for each block of 128 x 128 of B: of every
// step. Of four steps a lane of a quad loads those of one, while the four before are added.
struct BlockScaledSteps {
  static constexpr u32 AHEAD = 4;

  const float *a[BLOCKS_M][2];  // next of this lane's rows
  const float *b;
  i32 left;  // steps of the whole sum from there on, at most 0 past its end
  float now[BLOCKS_M][2];  // products of scales, of four steps
  float next_a[BLOCKS_M][2];  // scales of the four after them, on their way
  float next_b;

  DEVICE void load() {
    const bool is_inside = left > 0;
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        now[i][half] = next_a[i][half] * next_b;
        next_a[i][half] = is_inside ? ld_global_nc_f32(a[i][half]) : 0;
        a[i][half] += AHEAD;
      }
    next_b = is_inside ? ld_global_nc_f32(b) : 0;
    b += AHEAD, left -= i32(AHEAD);
  }
  DEVICE void next(u32 step) {
    if (step % AHEAD == 0) load();
  }
  DEVICE float factor(u32 step, u32 i, u32 half) const {
    return __shfl_sync(ALL_LANES, now[i][half], step % AHEAD, AHEAD);
  }
};

struct BlockScales {
  const float *a;  // [row][step]
  const float *b;  // [block of rows][step]
  u32 a_rows;
  u32 b_rows;
  u32 steps;
  RowMap map;

  DEVICE float of_row(u32) const { return 1; }
  DEVICE Floats2 of_columns(u32) const { return {{1, 1}}; }
  DEVICE BlockScaledSteps of_steps(const Work &work, u32 group) const {
    BlockScaledSteps of_steps = {};
    const u32 step = work.first_step + lane_index() % BlockScaledSteps::AHEAD;
    const u32 first_row = (DIVIDES_COLUMNS ? 0 : group * GROUP_ROWS) +
                          warp_index() % (WARPGROUP / WARP) * WARP_ROWS + lane_index() / 4;
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 row = work.a_row + first_row + i * PRODUCT_ROWS + half * 8;
        of_steps.a[i][half] = a + u64(map.in_a(min_of(row, a_rows - 1))) * steps + step;
      }
    const u32 b_row = work.b_row + (DIVIDES_COLUMNS ? group * GROUP_COLUMNS : 0);
    of_steps.b = b + u64(min_of(b_row, b_rows - 1) / 128) * steps + step;
    of_steps.left = i32(steps) - i32(step);
    of_steps.load();
    return of_steps;
  }
};

// --- A warpgroup that multiplies, and the block ---------------------------------------------

// The matrices of a launch, and where partial sums go.
struct Matrices {
#if GATHERS
  Gathered a;
#else
  const TensorMap &a;
#endif
  const TensorMap &b;
  const TensorMap &c;
  Partials partials;
  Target target;  // C, where ENDS_ROWS
};

template <typename Way, typename Scales>
DEVICE void multiply_all(const Matrices &matrices, Ring &ring, Way way, const Scales &scales) {
  // The same for all lanes, which the compiler does not know.
  const u32 group = __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP, 0);
  const Place place = place_of(group);
  Slot slot;
  u32 stored = 0;
  for (Work work; way.next(work);) {
#if ENDS_ROWS
    const u32 first_row = DIVIDES_COLUMNS ? 0 : group * GROUP_ROWS;
    if (work.passes_over && work.c_row + first_row >= work.c_end) {
      pass_over(ring, slot, work.steps);
      continue;
    }
#endif
    Sums sums;
#if TWO_LEVELS
    multiply_in_levels(sums, ring, slot, place, work.steps, scales.of_steps(work, group));
#else
    multiply(sums, ring, slot, place, work.steps);
#endif
    if (work.splits > 1 && !add_splits(matrices.partials, work, sums)) continue;
    store(matrices.c, matrices.target, work, sums, group, scales, stored);
  }
  // Shared memory is the block's until all of it is read.
  if (!GATHERS && lane_index() == 0) cp_async_bulk_wait_group<0>();
}

// All of a block. Every role goes through the same turns.
template <typename Schedule, typename Scales>
DEVICE void multiply_tiles(const Matrices &matrices, const Schedule &schedule,
                           const Scales &scales) {
  __shared__ Ring ring;
#if DYNAMIC
  __shared__ Turns<typename Schedule::Turn> turns;
  if (threadIdx.x == 0) turns.init();
  const Way<Schedule> way = {schedule, turns};
  Taker<Schedule> taker = {turns, schedule};
#else
  const Way<Schedule> way = {schedule};
#endif
  if (threadIdx.x == 0) ring.init();
  meet_sharing_blocks();

  if (threadIdx.x < MULTIPLYING) {
    setmaxnreg_inc<MULTIPLYING_REGISTERS>();
    multiply_all(matrices, ring, way, scales);
  } else {
    setmaxnreg_dec<LOADING_REGISTERS>();
#if GATHERS && DYNAMIC
    gather_all(matrices.a, matrices.b, ring, way, [&] { taker.next(); });
#elif GATHERS
    gather_all(matrices.a, matrices.b, ring, way, [] {});
#else
    if (threadIdx.x == MULTIPLYING) {
      prefetch_tensormap(matrices.a);
      prefetch_tensormap(matrices.b);
      load_all(matrices.a, matrices.b, ring, way);
    }
#if DYNAMIC
    // Another warp, so that no load waits for a ticket.
    if (threadIdx.x == MULTIPLYING + WARP) {
      overlap_after_weights();
      while (taker.more) taker.next();
    }
#endif
    __syncwarp();
#endif
  }
  // The other block may still arrive here.
  if (CLUSTER > 1) sync_cluster();
}
