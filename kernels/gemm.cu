// C = A * B^T, for A [m][k], B [n][k] and C [m][n] in bf16 or f16, summed in f32; or all in
// f32 and multiplied as tf32, where tensor cores leave out the lower 13 bits of each element.
// Such an element is loaded as two of 16 bits, of which a product's 16 columns are then eight:
// operands of the same bytes lie in the same registers. Columns and k here are those of 16
// bits.
//
// A block computes a tile of TILE_M x TILE_N of C, or with splits > 1 (split-K) the
// contribution of a range of k to it. Steps of TILE_K columns of A and B pass
// through a ring of STAGES stages in shared memory, filled by cp.async
// STAGES - 1 steps ahead; each of WARPS_M x WARPS_N warps multiplies its part
// on the tensor cores, from operands that it loads 16 columns ahead. Elements
// outside of A and B are zeros in shared memory.
//
// Partial results are added by the block that finishes a tile last, in the order
// of k, so that the same problem always has the same result to the last bit.
//
// Large m is compute bound; small m is memory bound by the bytes of B, and tiles
// of few rows and splits keep all SMs reading them.
//
// Launch: 1-D grid of tiles times splits, THREADS threads, SHARED_BYTES of
// dynamic shared memory. k is a multiple of 8, splits at most k / TILE_K
// rounded up, and tickets are zero. Tiles are taken in stripes of STRIPE_TILES
// rows of tiles, top to bottom and then to the right, so that blocks that run at
// the same time share their parts of A and B in L2.
#if !defined(ELEMENT_TF32)
#include "element.cuh"
#endif
#include "last_block.cuh"
#include "tile.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 THREADS = WARPS_M * WARPS_N * WARP;
constexpr u32 WARP_M = TILE_M / WARPS_M, WARP_N = TILE_N / WARPS_N;
// Accumulators of a warp: blocks of 16 x 8.
constexpr u32 BLOCKS_M = WARP_M / 16, BLOCKS_N = WARP_N / 8;
// Products along k in a step.
constexpr u32 DEPTH = TILE_K / 16;

constexpr u32 A_BYTES = TILE_M * TILE_K * ELEMENT_BYTES;
constexpr u32 B_BYTES = TILE_N * TILE_K * ELEMENT_BYTES;
constexpr u32 STAGE_BYTES = A_BYTES + B_BYTES;
constexpr u32 SHARED_BYTES = STAGES * STAGE_BYTES;

constexpr u32 STRIPE_TILES = 8;

static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp loads operands of 16 x 16");
static_assert(DEPTH % 2 == 0, "operands alternate between two sets of registers");
static_assert(STAGES >= 2, "one step is copied while another is multiplied");
static_assert(TILE_M * TILE_N * ELEMENT_BYTES <= SHARED_BYTES, "the tile of C is staged");

#if defined(ELEMENT_TF32)
typedef float Result;
#else
typedef u16 Result;
#endif

struct Params {
  const u16 *a;
  const u16 *b;
  Result *c;
  Words4 *partials;  // splits > 1: a tile's accumulators of every split
  u32 *tickets;      // splits > 1: one per tile, zero between launches
  u32 m;
  u32 n;
  u32 k;
  u32 splits;
};

extern __shared__ __align__(128) u8 shared[];

typedef float Accumulators[BLOCKS_M][BLOCKS_N][4];

// Operands of one product along k, two blocks of b in each of the last.
struct Operands {
  u32 a[BLOCKS_M][4];
  u32 b[BLOCKS_N / 2][4];
};

// The work of this block: a tile, its first row and column of C, and a range of k.
struct Job {
  u32 tile;
  u32 split;
  u32 row;
  u32 column;
};

DEVICE Job job_of_block(const Params &p) {
  const u32 rows = ceil_div(p.m, u32(TILE_M)), columns = ceil_div(p.n, u32(TILE_N));
  const u32 tile = blockIdx.x / p.splits;
  const u32 stripe = tile / (STRIPE_TILES * columns), within = tile % (STRIPE_TILES * columns);
  const u32 height = min_of(STRIPE_TILES, rows - stripe * STRIPE_TILES);
  return {tile, blockIdx.x % p.splits, (stripe * STRIPE_TILES + within % height) * TILE_M,
          within / height * TILE_N};
}

// A product along 32 bytes of k.
DEVICE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(ELEMENT_TF32)
  mma_m16n8k8_tf32(d, a, b0, b1);
#else
  mma_m16n8k16(d, a, b0, b1);
#endif
}

DEVICE void multiply(Accumulators &sum, const Operands &x) {
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
    for (u32 j = 0; j < BLOCKS_N; ++j)
      mma(sum[i][j], x.a[i], x.b[j / 2][j % 2 * 2], x.b[j / 2][j % 2 * 2 + 1]);
}

// Writes this split's accumulators to p.partials. Returns whether all splits have done
// so; `sum` is then their sum.
DEVICE bool add_splits(const Params &p, const Job &job, Accumulators &sum) {
  constexpr u32 words = BLOCKS_M * BLOCKS_N;
  // In vectors of four words, thread by thread: [tile][split][words][thread].
  Words4 *const of_tile = p.partials + u64(job.tile) * p.splits * words * THREADS + threadIdx.x;
  Words4 *const mine = of_tile + u64(job.split) * words * THREADS;
#pragma unroll
  for (u32 i = 0; i < words; ++i) {
    const float(&x)[4] = sum[i / BLOCKS_N][i % BLOCKS_N];
    mine[i * THREADS] = {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                         __float_as_uint(x[3])};
  }
  if (!is_last_block(p.tickets + job.tile, p.splits)) return false;

  // As many loads in flight as registers allow.
  constexpr u32 batch = min_of(words, 16u);
  static_assert(words % batch == 0, "all batches are full");
#pragma unroll
  for (u32 first = 0; first < words; first += batch) {
#pragma unroll
    for (u32 i = first; i < first + batch; ++i)
#pragma unroll
      for (u32 j = 0; j < 4; ++j) sum[i / BLOCKS_N][i % BLOCKS_N][j] = 0;
    for (u32 s = 0; s < p.splits; ++s) {
#pragma unroll
      for (u32 i = first; i < first + batch; ++i) {
        const Words4 x = of_tile[(u64(s) * words + i) * THREADS];
#pragma unroll
        for (u32 j = 0; j < 4; ++j) sum[i / BLOCKS_N][i % BLOCKS_N][j] += __uint_as_float(x.w[j]);
      }
    }
  }
  return true;
}

#if defined(ELEMENT_TF32)
// Writes the part of the tile that lies in C. Four neighbouring threads have a sector.
DEVICE void store(const Params &p, const Job &job, const Accumulators &sum) {
  const u32 first_row = job.row + warp_index() / WARPS_N * WARP_M + lane_index() / 4;
  const u32 first_column = job.column + warp_index() % WARPS_N * WARP_N + lane_index() % 4 * 2;
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M * 2; ++i) {
    const u32 row = first_row + i * 8;
    if (row >= p.m) return;
    float *const c = p.c + u64(row) * p.n;
#pragma unroll
    for (u32 j = 0; j < BLOCKS_N; ++j) {
      const u32 column = first_column + j * 8;
      const float *x = sum[i / 2][j] + i % 2 * 2;
      if (p.n % 2 == 0) {
        if (column < p.n) *reinterpret_cast<Floats2 *>(c + column) = {{x[0], x[1]}};
      } else {
        // Rows of C start anywhere.
        if (column < p.n) c[column] = x[0];
        if (column + 1 < p.n) c[column + 1] = x[1];
      }
    }
  }
}
#else
// Rounds the tile to the format and writes the part that lies in C, by way of shared
// memory, so that neighbouring threads write neighbouring bytes.
DEVICE void store(const Params &p, const Job &job, const Accumulators &sum) {
  const u32 tile = shared_address(shared);
  const u32 lane = lane_index();
  const u32 warp_row = warp_index() / WARPS_N * WARP_M;
  const u32 warp_column = warp_index() % WARPS_N * WARP_N;
  // Warps load operands ahead, even those of a step after the last.
  __syncthreads();
#pragma unroll
  for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
    for (u32 j = 0; j < BLOCKS_N; ++j)
#pragma unroll
      for (u32 half = 0; half < 2; ++half) {
        const u32 row = warp_row + i * 16 + half * 8 + lane / 4;
        const u32 to = tile + chunk_offset<TILE_N>(row, (warp_column + j * 8) / 8) + lane % 4 * 4;
        st_shared(to, pack(sum[i][j][half * 2], sum[i][j][half * 2 + 1]));
      }
  __syncthreads();

  const u32 rows = min_of(u32(TILE_M), p.m - job.row);
  const u32 columns = min_of(u32(TILE_N), p.n - job.column);
  u16 *const c = p.c + u64(job.row) * p.n + job.column;
  if (p.n % CHUNK_ELEMENTS == 0) {
    constexpr u32 chunks = TILE_N / CHUNK_ELEMENTS;
    for (u32 i = threadIdx.x; i < rows * chunks; i += THREADS) {
      const u32 row = i / chunks, chunk = i % chunks;
      if (chunk * CHUNK_ELEMENTS < columns)
        st_global_v4(c + u64(row) * p.n + chunk * CHUNK_ELEMENTS,
                     ld_shared_v4(tile + chunk_offset<TILE_N>(row, chunk)));
    }
  } else {
    // Rows of C start anywhere.
    for (u32 i = threadIdx.x; i < rows * TILE_N; i += THREADS) {
      const u32 row = i / TILE_N, column = i % TILE_N;
      const u32 from = chunk_offset<TILE_N>(row, column / CHUNK_ELEMENTS);
      if (column < columns)
        c[u64(row) * p.n + column] =
            reinterpret_cast<const u16 *>(shared + from)[column % CHUNK_ELEMENTS];
    }
  }
}
#endif

KERNEL(THREADS, BLOCKS_PER_SM) gemm(const __grid_constant__ Params p) {
  overlap_previous();
  // Copies from global memory.
  const Job job = job_of_block(p);
  const u32 all_steps = ceil_div(p.k, u32(TILE_K));
  const u32 first = u64(all_steps) * job.split / p.splits;
  const u32 steps = u64(all_steps) * (job.split + 1) / p.splits - first;
  const u32 ring = shared_address(shared);
  u32 column = first * TILE_K + copied_chunk<TILE_K>() * CHUNK_ELEMENTS;
  const u16 *a = p.a + u64(job.row + copied_row<TILE_K>()) * p.k + column;
  const u16 *b = p.b + u64(job.column + copied_row<TILE_K>()) * p.k + column;
  u32 started = 0, fill = 0;
  auto start_copies = [&] {
    if (started < steps) {
      const bool inside = column < p.k;
      copy_tile<TILE_M, TILE_K, THREADS>(ring + fill, a, p.k, inside ? p.m - job.row : 0);
      copy_tile<TILE_N, TILE_K, THREADS>(ring + fill + A_BYTES, b, p.k,
                                         inside ? p.n - job.column : 0);
      a += TILE_K, b += TILE_K, column += TILE_K;
    }
    cp_async_commit_group();
    ++started;
    fill = fill == SHARED_BYTES - STAGE_BYTES ? 0 : fill + STAGE_BYTES;
  };

  // Operands from shared memory.
  constexpr u32 row_bytes = TILE_K * ELEMENT_BYTES;
  u32 a_lane = ring + warp_index() / WARPS_N * WARP_M * row_bytes + lane_offset_a<TILE_K>();
  u32 b_lane =
      ring + A_BYTES + warp_index() % WARPS_N * WARP_N * row_bytes + lane_offset_b<TILE_K>();
  u32 drain = 0;
  auto load_operands = [&](Operands &x, u32 depth) {
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
      ldmatrix_x4(x.a[i], right_by(a_lane + drain, depth) + i * 16 * row_bytes);
#pragma unroll
    for (u32 j = 0; j < BLOCKS_N / 2; ++j)
      ldmatrix_x4(x.b[j], right_by(b_lane + drain, depth) + j * 16 * row_bytes);
  };
  // Waits for the oldest step in flight. For all threads its data have then arrived, and
  // all are done with the step before it.
  auto next_step = [&] {
    cp_async_wait_group<STAGES - 2>();
    __syncthreads();
  };

  // Main loop.
  Accumulators sum = {};
  Operands x[2];
  for (u32 i = 0; i < STAGES - 1; ++i) start_copies();
  next_step();
  load_operands(x[0], 0);
  for (u32 step = 0; step < steps; ++step) {
#pragma unroll
    for (u32 depth = 0; depth < DEPTH; ++depth) {
      if (depth == DEPTH - 1) {
        next_step();
        drain = drain == SHARED_BYTES - STAGE_BYTES ? 0 : drain + STAGE_BYTES;
      }
      load_operands(x[(depth + 1) % 2], (depth + 1) % DEPTH);
      if (depth == 0) start_copies();
      multiply(sum, x[depth % 2]);
    }
  }

  if (p.splits > 1 && !add_splits(p, job, sum)) return;
  store(p, job, sum);
}
