// y = x * W^T for few rows of activations x, each called a token: y [token][n], x
// [token][k], weights W [n][k] of 16, 8 or 4 bits, summed in f32. The body of
// gemm_skinny.cu and moe_gemm.cu, which differ in the rows that tokens are.
//
// The kernel is memory bound: what matters is that weights are read once, and that enough
// of them are in flight. Weights are the left operand of the tensor cores and tokens the
// narrow right operand, padded to 8. A warp has 32 rows of weights, a block TILE_ROWS.
// Blocks divide the columns of all row tiles by a work list: a range of a tile's columns
// is a split (split-K), whose stages of STAGE_COLUMNS pass through a ring in shared
// memory, filled by cp.async STAGES - 1 stages ahead and without a pause between splits.
// The last block of a tile adds the partial results of all, in the order of columns, so
// that the result is always the same to the last bit.
//
// Warps divide a stage in one of two ways:
//
// * by rows (COLUMN_WARPS is 1): each has all columns of its own rows. A stage has 128 bytes of
//   each of TILE_ROWS rows.
// * by columns (COLUMN_WARPS is WARPS): each has 128 bytes of the same few rows, next to those
//   of another warp, so that a stage has 512 bytes of a row, or 1 KiB, in one place of DRAM.
//   Sums of warps are added at the end of a split. A warp then copies itself what it
//   multiplies, activations too. With WARP_RING it waits for its own copies only, and no
//   barrier of the block holds it back before the end of a split.
//
// A scale group of 4-bit weights is the columns of a stage; its products are summed
// separately and scaled in f32. Scales of rows are applied at the end.
//
// With many tokens the kernel is compute bound, with 4-bit weights first: a product of
// 16 x 8 x 16 takes as long whether its weights were read in 16 bits or in 4.
//
// Launch: blocks of the work list, THREADS threads, SHARED_BYTES of dynamic shared
// memory. k is a multiple of 16 bytes of weights and of activations, or of a group.
#pragma once
#include "last_block.cuh"
#include "weights.cuh"
#include "work_list.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 THREADS = WARPS * WARP;
constexpr u32 WARP_ROWS = M_TILES * 16;
constexpr u32 ROW_WARPS = WARPS / COLUMN_WARPS;
constexpr u32 TILE_ROWS = ROW_WARPS * WARP_ROWS;
constexpr u32 LINES = TILE_ROWS / LINE_ROWS;
constexpr u32 TOKEN_TILES = TOKENS / 8;

constexpr u32 WEIGHT_BYTES = LINES * LINE_BYTES;
constexpr u32 SCALE_CHUNKS = GROUP_SCALES ? TILE_ROWS / CHUNK_ELEMENTS : 0;
// A part of a stage has STAGE_COLUMNS columns: the stage, or what a warp has of it.
constexpr u32 PART_BYTES = WEIGHT_BYTES + TOKENS * X_BYTES + SCALE_CHUNKS * CHUNK_BYTES;
constexpr u32 STAGE_BYTES = COLUMN_WARPS * PART_BYTES;
constexpr u32 COLUMNS_AT_ONCE = COLUMN_WARPS * STAGE_COLUMNS;

// What the threads that copy a part copy at a time: lines of weights, or steps of one line, and
// rows of tokens.
constexpr u32 COPIERS = THREADS / COLUMN_WARPS;
constexpr u32 LINES_AT_ONCE = max_of<u32>(COPIERS / LINE_CHUNKS, 1);
constexpr u32 LINE_STEPS = max_of<u32>(LINE_CHUNKS / COPIERS, 1);
constexpr u32 TOKENS_AT_ONCE = COPIERS / X_CHUNKS;
constexpr u32 TOKEN_COPIES = ceil_div<u32>(TOKENS, TOKENS_AT_ONCE);

// Sums are transposed, from rows of weights to rows of y, in the shared memory of a part,
// TRANSPOSED_TOKENS at a time, padded so that four tokens fall into different banks.
constexpr u32 TRANSPOSED_TOKENS = 16;
constexpr u32 TRANSPOSED_STRIDE = TILE_ROWS + 4;
constexpr u32 TILE_VECTORS = TILE_ROWS / 4;

static_assert(TOKENS % 8 == 0, "tokens are tiles of the tensor cores");
static_assert(STAGES >= 2, "one stage is copied while another is multiplied");
static_assert(LINE_ROWS > 1 || LINES_AT_ONCE % 2 == 0, "a thread's lines have the same swizzle");
static_assert(TOKENS_AT_ONCE % 2 == 0, "a thread's tokens have the same swizzle");
static_assert(COLUMN_WARPS == 1 || COLUMN_WARPS == WARPS, "by rows, or by columns");
static_assert(COLUMN_WARPS > 1 || !WARP_RING, "by rows, warps share activations");
static_assert(SCALE_CHUNKS <= COPIERS, "a thread copies a chunk of scales");
static_assert(SHARED_BYTES == STAGES * STAGE_BYTES, "the host reserves these");
static_assert(min_of<u32>(TOKENS, TRANSPOSED_TOKENS) * TRANSPOSED_STRIDE * sizeof(float) <=
                  PART_BYTES,
              "a part of a stage holds transposed sums");

// This warp among those that divide columns, and among those that divide rows.
DEVICE u32 column_warp() { return COLUMN_WARPS > 1 ? warp_index() : 0; }
DEVICE u32 row_warp() { return COLUMN_WARPS > 1 ? 0 : warp_index(); }

// --- Parameters ------------------------------------------------------------

// Parameters of both kernels.
struct Matrices {
  const u8 *weights;
  const u8 *scales;  // null for 16-bit weights
  const u16 *x;
  u16 *y;
  const Split *work;  // of row tiles (heads) of a set of tokens (request), cut at columns
  float *partials;    // [partial][TOKENS][TILE_ROWS]
  u32 *tickets;       // [partial]; zero between launches
  u32 n;
  u32 k;
};

// Sums of a warp's rows for eight tokens, and for all tokens.
typedef float TileSums[M_TILES][4];
typedef TileSums Sums[TOKEN_TILES];

// How many tokens are multiplied for `tokens` tokens, with padding. Where their number
// VARIES, experts with few tokens are spared the products of many.
DEVICE u32 padded_tokens(u32 tokens) {
  u32 padded = TOKENS;
  while (VARIES && padded > 8 && tokens <= padded / 16 * 8) padded = padded / 16 * 8;
  return padded;
}

// --- Copies ----------------------------------------------------------------

// A thread's cursor over the stages of all splits of its block. `Tokens` tells which rows
// of x and y a set of tokens is, and which expert's weights they are multiplied by.
template <typename Tokens>
struct Loader {
  const Matrices &p;
  u32 following;  // the next split of the block, 0 after the last
  u32 column;     // first of the stage to copy
  u32 end;        // of the split

  // This thread's first chunk of weights, of tokens and of scales: its offset in a stage,
  // and its address in memory for the stage to copy.
  const u32 weights_to, x_to, scales_to;
  const u32 weights_column, x_column;  // within a stage
  const u8 *weights;
  const u16 *x[TOKEN_COPIES];
  const u8 *scales;
  u32 lines;    // of the tile, from this thread's first line on
  u32 tokens;   // of the split, from this thread's first token on
  u32 padded;   // the same with padding
  bool scaled;  // whether this thread's scales are inside the matrix

  static DEVICE u32 copier() { return threadIdx.x % COPIERS; }
  static DEVICE u32 line() { return copier() / LINE_CHUNKS; }
  static DEVICE u32 line_chunk() { return copier() % LINE_CHUNKS; }
  static DEVICE u32 token() { return copier() / X_CHUNKS; }
  static DEVICE u32 x_chunk() { return copier() % X_CHUNKS; }
  // First column of this thread's part of a stage.
  static DEVICE u32 part_column() { return column_warp() * STAGE_COLUMNS; }

  DEVICE Loader(const Matrices &matrices)
      : p(matrices),
        weights_to(held(line_chunk_offset(line(), line_chunk()))),
        x_to(held(WEIGHT_BYTES + x_chunk_offset(token(), x_chunk()))),
        scales_to(PART_BYTES - (SCALE_CHUNKS - copier()) * CHUNK_BYTES),
        weights_column(CHUNK_COLUMNS == 0 && COLUMN_WARPS == 1
                           ? 0
                           : held(part_column() + line_chunk() * CHUNK_COLUMNS)),
        x_column(held(part_column() + x_chunk() * CHUNK_ELEMENTS)) {}

  DEVICE u64 line_bytes() const { return u64(p.k) * LINE_BYTES_PER_COLUMN; }

  // Begins a split.
  DEVICE void enter(const Split &split, const Tokens &of) {
    const u32 row = split.head * TILE_ROWS;
    const u64 matrix_lines = u64(of.expert()) * (p.n / LINE_ROWS);
    weights = p.weights + (matrix_lines + row / LINE_ROWS + line()) * line_bytes() +
              (split.first_token + part_column()) * LINE_BYTES_PER_COLUMN +
              line_chunk() * CHUNK_BYTES;
    lines = (p.n - row) / LINE_ROWS;
    lines -= min_of(lines, line());
    if (GROUP_SCALES) {
      const u64 group =
          (u64(of.expert()) * p.k + split.first_token) / STAGE_COLUMNS + column_warp();
      scales = p.scales + (group * p.n + row) * sizeof(u16) + copier() * CHUNK_BYTES;
      scaled = row + copier() * CHUNK_ELEMENTS < p.n;
    }
    tokens = held(of.count() - min_of(of.count(), token()));
    padded = held(padded_tokens(of.count()) - min_of(padded_tokens(of.count()), token()));
#pragma unroll
    for (u32 i = 0; i < TOKEN_COPIES; ++i) {
      const u32 number = token() + i * TOKENS_AT_ONCE;
      const u32 x_row = number < of.count() ? of.x_row(number) : 0;
      x[i] = p.x + u64(x_row) * p.k + split.first_token + x_column;
    }
    column = split.first_token;
    end = column + split.tokens;
    following = split.next;
  }

  // Copies the weights of a stage; lines below the matrix and chunks right of the split are
  // filled with zeros.
  DEVICE void copy_weights(u32 stage) {
    const u32 inside = column + weights_column < end ? lines : 0;
#pragma unroll
    for (u32 i = 0; i < LINES; i += LINES_AT_ONCE)
#pragma unroll
      for (u32 j = 0; j < LINE_STEPS; ++j) {
        const u32 step = j * COPIERS * CHUNK_BYTES;
        cp_async_16(stage + weights_to + i * LINE_BYTES + step, weights + i * line_bytes() + step,
                    i < inside ? CHUNK_BYTES : 0);
      }
    weights += COLUMNS_AT_ONCE * LINE_BYTES_PER_COLUMN;
  }

  // Copies the tokens' columns of a stage; columns right of the split and padding are
  // filled with zeros.
  DEVICE void copy_tokens(u32 stage) {
    const bool inside = column + x_column < end;
#pragma unroll
    for (u32 i = 0; i < TOKEN_COPIES; ++i) {
      if (i * TOKENS_AT_ONCE < padded)
        cp_async_16(stage + x_to + i * TOKENS_AT_ONCE * X_BYTES, x[i],
                    inside && i * TOKENS_AT_ONCE < tokens ? CHUNK_BYTES : 0);
      x[i] += COLUMNS_AT_ONCE;
    }
  }

  // Copies the scales of a stage, one chunk for each thread; those below the matrix or right of
  // the split are filled with zeros.
  DEVICE void copy_scales(u32 stage) {
    if (!GROUP_SCALES || copier() >= SCALE_CHUNKS) return;
    const bool inside = COLUMN_WARPS == 1 || column + part_column() < end;
    cp_async_16(stage + scales_to, scales, scaled && inside ? CHUNK_BYTES : 0);
    scales += COLUMN_WARPS * p.n * sizeof(u16);
  }

  // Copies the next columns to a stage, if there are any. `tokens_of` makes the Tokens of a
  // split.
  template <typename TokensOf>
  DEVICE void next(u32 stage, TokensOf tokens_of) {
    if (column < end) {
      copy_weights(stage);
      copy_tokens(stage);
      copy_scales(stage);
      column += COLUMNS_AT_ONCE;
      if (column >= end && following != 0) {
        const Split split = load_split(p.work, following);
        enter(split, tokens_of(split));
      }
    }
    cp_async_commit_group();
  }
};

// Fetches the weights that a block's ring holds first into L2, before the launch before has
// ended: one copy for each line.
template <typename Tokens>
DEVICE void fetch_ahead(const Matrices &p, const Split &split, const Tokens &of) {
  const u32 row = split.head * TILE_ROWS, lines = min_of(TILE_ROWS, p.n - row) / LINE_ROWS;
  const u64 line_bytes = u64(p.k) * LINE_BYTES_PER_COLUMN;
  const u8 *from = p.weights +
                   (u64(of.expert()) * (p.n / LINE_ROWS) + row / LINE_ROWS) * line_bytes +
                   split.first_token * LINE_BYTES_PER_COLUMN;
  const u32 bytes = min_of((STAGES - 1) * COLUMNS_AT_ONCE, split.tokens) * LINE_BYTES_PER_COLUMN;
  for (u32 i = threadIdx.x; i < lines; i += THREADS)
    cp_async_bulk_prefetch(from + i * line_bytes, bytes);
}

// --- Products --------------------------------------------------------------

// The left operands of half a stage.
typedef u32 Weights[M_TILES][PRODUCTS][4];

DEVICE void load_weights_of_half(Weights &a, u32 stage, u32 half) {
  const u32 from = stage + row_warp() * M_TILES * ROWS_16_BYTES + weights_lane_offset();
#pragma unroll
  for (u32 m = 0; m < M_TILES; ++m)
    load_weights(a[m], weights_of_half(from, half) + m * ROWS_16_BYTES);
}

// Adds the products of half a stage for tile `n` of tokens.
DEVICE void multiply_half(TileSums &sums, const Weights &a, u32 stage, u32 n, u32 half) {
  u32 b[PRODUCTS][2];
  load_activations(b, stage + WEIGHT_BYTES + x_lane_offset() + n * 8 * X_BYTES, half);
#pragma unroll
  for (u32 i = 0; i < PRODUCTS; ++i)
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m) mma_m16n8k16(sums[m], a[m][i], b[i][0], b[i][1]);
}

// Adds the products of a stage for the first `tiles` tiles of tokens.
template <u32 tiles>
DEVICE void multiply(Sums &sums, u32 stage) {
#pragma unroll
  for (u32 half = 0; half < 2; ++half) {
    Weights a;
    load_weights_of_half(a, stage, half);
#pragma unroll
    for (u32 n = 0; n < tiles; ++n) multiply_half(sums[n], a, stage, n, half);
  }
}

// The same where a stage is a scale group, whose scales begin at `scales` with this lane's
// first row. The sums of a group are kept separately for one tile of tokens at a time: for
// all tiles they would not fit in registers.
template <u32 tiles>
DEVICE void multiply_group(Sums &sums, u32 stage, const u16 *scales) {
  Weights a[2];
#pragma unroll
  for (u32 half = 0; half < 2; ++half) load_weights_of_half(a[half], stage, half);
#pragma unroll
  for (u32 n = 0; n < tiles; ++n) {
    TileSums group = {};
#pragma unroll
    for (u32 half = 0; half < 2; ++half) multiply_half(group, a[half], stage, n, half);
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
      for (u32 i = 0; i < 4; ++i)
        sums[n][m][i] += group[m][i] * cvt_f32_f16(scales[m * 16 + i / 2 * 8]);
  }
}

// Multiplies the stage at `offset` of the ring, for `padded` tokens.
template <u32 tiles = TOKEN_TILES>
DEVICE void multiply_stage(Sums &sums, u8 *ring, u32 offset, u32 padded) {
  if (VARIES && tiles > 1 && padded < tiles * 8)
    multiply_stage<max_of(tiles / 2, 1u)>(sums, ring, offset, padded);
  else if (GROUP_SCALES)
    multiply_group<tiles>(sums, shared_address(ring) + offset,
                          reinterpret_cast<const u16 *>(ring + offset + PART_BYTES) - TILE_ROWS +
                              row_warp() * WARP_ROWS + lane_index() / 4);
  else
    multiply<tiles>(sums, shared_address(ring) + offset);
}

// --- Results -------------------------------------------------------------------

// Rounds a token's sums of four rows and writes those that are in the matrix.
template <typename Tokens>
DEVICE void write_output(const Matrices &p, const Tokens &of, u32 token, u32 row, Floats4 sum) {
#pragma unroll
  for (u32 i = 0; i < 4; ++i)
    if (ROW_SCALES && row + i < p.n)
      sum.x[i] *= ld_global_nc_f32(reinterpret_cast<const float *>(p.scales) +
                                   u64(of.expert()) * p.n + row + i);
  const Words2 packed = {pack(sum.x[0], sum.x[1]), pack(sum.x[2], sum.x[3])};
  u16 *to = p.y + u64(of.y_row(token)) * p.n + row;
  if (p.n % 4 == 0) {
    *reinterpret_cast<Words2 *>(to) = packed;
  } else {
    // Rows of y start anywhere.
    for (u32 i = 0; i < 4 && row + i < p.n; ++i) to[i] = packed.w[i / 2] >> i % 2 * 16;
  }
}

// Calls body(token, vector) for four rows at a time of tokens `first` to `end`.
template <typename Body>
DEVICE void for_each_vector(u32 first, u32 end, u32 rows, Body body) {
  for (u32 i = threadIdx.x; i < (end - first) * TILE_VECTORS; i += THREADS)
    if (i % TILE_VECTORS * 4 < rows) body(first + i / TILE_VECTORS, i % TILE_VECTORS);
}

// Writes a split's sums to y, or to its partial result where the tile has further splits,
// by way of `stage`, the last one used, which is not read any more. Warps that divide columns
// have sums of the same rows, each in its part.
template <typename Tokens>
DEVICE void store(const Matrices &p, const Split &split, const Tokens &of, const Sums &sums,
                  u8 *stage) {
  constexpr u32 PART_FLOATS = PART_BYTES / sizeof(float);
  float *const transposed = reinterpret_cast<float *>(stage);
  const u32 first_row = split.head * TILE_ROWS, rows = min_of(TILE_ROWS, p.n - first_row);
  Floats4 *const partial = reinterpret_cast<Floats4 *>(p.partials) +
                        u64(of.partial(split.first_partial + split.index)) * TOKENS * TILE_VECTORS;
#pragma unroll
  for (u32 first = 0; first < TOKENS; first += TRANSPOSED_TOKENS) {
    if (first >= of.count()) break;
    __syncthreads();
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
      for (u32 n = 0; n < TRANSPOSED_TOKENS / 8 && first / 8 + n < TOKEN_TILES; ++n)
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
          const u32 row = row_warp() * WARP_ROWS + m * 16 + i / 2 * 8 + lane_index() / 4;
          const u32 token = n * 8 + lane_index() % 4 * 2 + i % 2;
          transposed[column_warp() * PART_FLOATS + token * TRANSPOSED_STRIDE + row] = sums[first / 8 + n][m][i];
        }
    __syncthreads();
    const u32 end = min_of(first + TRANSPOSED_TOKENS, of.count());
    for_each_vector(first, end, rows, [&](u32 token, u32 vector) {
      const float *from = transposed + (token - first) * TRANSPOSED_STRIDE + vector * 4;
      Floats4 sum = *reinterpret_cast<const Floats4 *>(from);
#pragma unroll
      for (u32 part = 1; part < COLUMN_WARPS; ++part) {
        const Floats4 other = *reinterpret_cast<const Floats4 *>(from + part * PART_FLOATS);
#pragma unroll
        for (u32 i = 0; i < 4; ++i) sum.x[i] += other.x[i];
      }
      if (split.count == 1)
        write_output(p, of, token, first_row + vector * 4, sum);
      else
        partial[token * TILE_VECTORS + vector] = sum;
    });
  }
}

// Adds the partial results of all splits of a tile.
template <typename Tokens>
DEVICE void combine(const Matrices &p, const Split &split, const Tokens &of) {
  const u32 first_row = split.head * TILE_ROWS, rows = min_of(TILE_ROWS, p.n - first_row);
  const Floats4 *const partials = reinterpret_cast<const Floats4 *>(p.partials);
  for_each_vector(0, of.count(), rows, [&](u32 token, u32 vector) {
    Floats4 sum = {};
#pragma unroll 4
    for (u32 i = 0; i < split.count; ++i) {
      const u64 partial = of.partial(split.first_partial + i);
      const Floats4 part = partials[(partial * TOKENS + token) * TILE_VECTORS + vector];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) sum.x[i] += part.x[i];
    }
    write_output(p, of, token, first_row + vector * 4, sum);
  });
}

// --- A block -----------------------------------------------------------------

// Computes a block's splits. tokens_of(split) makes the Tokens of a split.
template <typename TokensOf>
DEVICE void multiply_splits(const Matrices &p, u32 block, TokensOf tokens_of) {
  // Aligned, since one bit of the address tells the halves of a line apart.
  extern __shared__ __align__(256) u8 ring[];
  const Split first = load_split(p.work, block);
  if (FETCHES_AHEAD) fetch_ahead(p, first, tokens_of(first));
  overlap_after_weights();
  Loader<decltype(tokens_of(first))> loader(p);
  loader.enter(first, tokens_of(first));
  u32 fill = 0, drain = 0;
  const auto after = [](u32 stage) {
    return stage == SHARED_BYTES - STAGE_BYTES ? 0 : stage + STAGE_BYTES;
  };
  const auto start_copies = [&] {
    loader.next(shared_address(ring) + column_warp() * PART_BYTES + fill, tokens_of);
    fill = after(fill);
  };
  for (u32 i = 0; i < STAGES - 1; ++i) start_copies();
  u8 *const own = ring + column_warp() * PART_BYTES;

  for_each_split(p.work, block, [&](const Split &split) {
    const auto of = tokens_of(split);
    const u32 padded = padded_tokens(of.count());
    Sums sums = {};
    u32 stage = drain;
    for (u32 done = 0; done < split.tokens; done += COLUMNS_AT_ONCE) {
      // Waits for the oldest stage in flight. For all threads that copy its data have then
      // arrived, and all are done with the stage before it.
      cp_async_wait_group<STAGES - 2>();
      if (WARP_RING)
        __syncwarp();
      else
        __syncthreads();
      start_copies();
      stage = drain;
      multiply_stage(sums, own, stage, padded);
      drain = after(drain);
    }
    store(p, split, of, sums, ring + stage);
    // Other warps have read this one's sums before it copies to their place.
    if (WARP_RING) __syncthreads();
    u32 *const ticket = p.tickets + of.partial(split.first_partial);
    if (split.count > 1 && is_last_block(ticket, split.count)) combine(p, split, of);
  });
}
