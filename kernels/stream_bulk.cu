// Streams through memory by bulk copies (TMA): a second measurement of the ceilings
// that stream.cu measures with ordinary accesses. One thread of a block starts copies
// of STAGE_BYTES, so that neither registers nor load units limit the bytes in flight.
// Blocks take tiles of STAGE_BYTES contiguous bytes in turn; the last tile may be
// shorter. The kernels are memory bound.
//
// * read: one warp keeps a ring of STAGES stages in shared memory filled; the others
//   wait for a stage's mbarrier, add up its words and release it.
// * write: one stage holds the pattern and is copied out again and again.
// * copy: a tile is copied in and out of the same stage and never passes through
//   registers. Half of the ring is copied in while the other half is copied out.
//
// Launch: 1-D grid of any size, THREADS threads; dynamic shared memory of STAGES
// stages for read and copy, one for write. sm_90 and up.
#include "last_block.cuh"
#include "mbarrier.cuh"

constexpr u32 STAGE_VECTORS = STAGE_BYTES / sizeof(Words4);
constexpr u32 READERS = THREADS - WARP;
constexpr u32 OUTWARD = STAGES / 2;
constexpr u32 INWARD = STAGES - OUTWARD;

static_assert(THREADS % WARP == 0 && READERS > 0, "a warp copies, the others read");
static_assert(STAGE_BYTES % 128 == 0 && STAGES >= 2, "one stage is filled while one is read");

struct Params {
  const u8 *source;  // read, copy
  u8 *target;        // write, copy
  u32 *checksum;     // read: wrapping sum of all 32-bit words
  u64 *progress;     // read: zero between launches
  u64 bytes;         // read, or written, or copied: a multiple of 16
  u32 pattern;       // write: the word stored everywhere
  u32 unused;
};

extern __shared__ __align__(128) u8 ring[];

// This block's part of `bytes`.
struct Share {
  u64 bytes;

  // The number of its tiles.
  DEVICE u32 tiles() const {
    const u64 all = ceil_div(bytes, u64(STAGE_BYTES));
    return blockIdx.x < all ? u32(ceil_div(all - blockIdx.x, u64(gridDim.x))) : 0;
  }

  // Offset of tile i in bytes.
  DEVICE u64 start(u32 i) const { return (blockIdx.x + u64(i) * gridDim.x) * STAGE_BYTES; }

  DEVICE u32 size(u32 i) const { return u32(min_of(bytes - start(i), u64(STAGE_BYTES))); }
};

// A stage of the ring and the parity of the phase that its mbarriers are in.
struct Stage {
  u32 index = 0;
  u32 parity = 0;

  DEVICE void advance() {
    index = index + 1 == STAGES ? 0 : index + 1;
    parity ^= index == 0;
  }
};

DEVICE u32 address_of(Stage stage) { return shared_address(ring) + stage.index * STAGE_BYTES; }

// An mbarrier for each stage.
struct Barriers {
  u32 first;

  DEVICE u32 of(Stage stage) const { return first + stage.index * sizeof(u64); }

  DEVICE void init(u32 arrivals) const {
    for (u32 i = 0; i < STAGES; ++i) mbarrier_init(first + i * sizeof(u64), arrivals);
  }
};

// Starts the copy of tile i to a stage, whose mbarrier completes when it has arrived.
DEVICE void fill(const Share &share, const u8 *source, u32 i, Stage stage, u32 barrier) {
  mbarrier_arrive_expect_tx(barrier, share.size(i));
  cp_async_bulk_load(address_of(stage), source + share.start(i), share.size(i), barrier);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_bulk_read(const __grid_constant__ Params p) {
  __shared__ u64 full_barriers[STAGES], empty_barriers[STAGES];
  const Barriers full = {shared_address(full_barriers)}, empty = {shared_address(empty_barriers)};
  if (threadIdx.x == 0) {
    full.init(1);
    empty.init(READERS / WARP);
    fence_mbarrier_init();
  }
  __syncthreads();

  const Share share = {p.bytes};
  const u32 tiles = share.tiles();
  Stage stage;
  u32 sum = 0;
  if (threadIdx.x == READERS) {
    // The thread that copies. Stages begin as if they had just been released.
    for (u32 i = 0; i < tiles; ++i, stage.advance()) {
      wait(empty.of(stage), stage.parity ^ 1);
      fill(share, p.source, i, stage, full.of(stage));
    }
  } else if (threadIdx.x < READERS) {
    for (u32 i = 0; i < tiles; ++i, stage.advance()) {
      const u32 vectors = share.size(i) / sizeof(Words4);
      wait(full.of(stage), stage.parity);
#pragma unroll
      for (u32 j = 0; j < ceil_div(STAGE_VECTORS, READERS); ++j) {
        const u32 vector = threadIdx.x + j * READERS;
        if (vector >= vectors) continue;
        const Words4 v = ld_shared_v4(address_of(stage) + vector * sizeof(Words4));
        sum += v.w[0] + v.w[1] + v.w[2] + v.w[3];
      }
      __syncwarp();
      if (lane_index() == 0) mbarrier_arrive(empty.of(stage));
    }
  }
  sum_over_grid<THREADS>(sum, p.progress, p.checksum);
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_bulk_write(const __grid_constant__ Params p) {
  const Share share = {p.bytes};
  const u32 tiles = share.tiles();
  const Words4 v = {p.pattern, p.pattern, p.pattern, p.pattern};
  const u32 from = shared_address(ring);
  for (u32 i = threadIdx.x; i < STAGE_VECTORS; i += THREADS)
    st_shared_v4(from + i * sizeof(Words4), v);
  fence_proxy_async_shared();
  __syncthreads();
  if (threadIdx.x != 0) return;

  for (u32 i = 0; i < tiles; ++i) {
    cp_async_bulk_store(p.target + share.start(i), from, share.size(i));
    cp_async_bulk_commit_group();
    // As many bytes in flight as in the other directions.
    cp_async_bulk_wait_group<STAGES - 1>();
  }
  cp_async_bulk_wait_group<0>();
}

KERNEL(THREADS, BLOCKS_PER_SM) stream_bulk_copy(const __grid_constant__ Params p) {
  __shared__ u64 full_barriers[STAGES];
  if (threadIdx.x != 0) return;
  const Barriers full = {shared_address(full_barriers)};
  full.init(1);
  fence_mbarrier_init();

  const Share share = {p.bytes};
  const u32 tiles = share.tiles();
  Stage in, out;
  for (u32 i = 0; i < min_of(tiles, INWARD); ++i, in.advance())
    fill(share, p.source, i, in, full.of(in));
  for (u32 i = 0; i < tiles; ++i, out.advance()) {
    wait(full.of(out), out.parity);
    cp_async_bulk_store(p.target + share.start(i), address_of(out), share.size(i));
    cp_async_bulk_commit_group();
    if (i + INWARD >= tiles) continue;
    // All tiles before the last OUTWARD have left their stages, so the next stage is free.
    cp_async_bulk_wait_group_read<OUTWARD>();
    fill(share, p.source, i + INWARD, in, full.of(in));
    in.advance();
  }
  cp_async_bulk_wait_group_read<0>();
}
