// y = x * W^T for one to a few rows of activations x [token][k], each called a token: weights W
// [n][k] of 32, 16, 8 or 4 bits, y [token][n], summed in f32.
//
// The kernel is memory bound, and is made as a bare read of the weights: no warp waits for
// another one between its first load and its last. The activations of all columns are in shared
// memory before the first product; the first weights are in flight by then.
//
// * Weights of 32, 16 and 8 bits: a warp has ROWS rows and reads each from its first column to
//   its last, 512 bytes at a time, a vector of 16 bytes for each lane. DEPTH vectors of each row
//   are in flight: a lane multiplies one and loads the one that follows DEPTH later into its
//   place. Lanes add up in f32; their sums are added by shuffles at the end of the rows.
// * Weights of 4 bits lie in the order of the left operand of mma m16n8k16, in lines of 16 rows
//   (see weights.cuh): what a warp reads from memory are operands. A block has a line, and its
//   warps take the line's groups of 128 columns in turn, DEPTH groups in flight for each. The
//   products of a group are scaled in f32, and sums of warps added in shared memory.
//
// Tokens cost arithmetic and no memory. Their number is TOKENS, or with 4 bits up to 8: the
// padding has the last token's activations, and sums that are not stored.
//
// Launch: 1-D grid, THREADS threads; blocks take WARPS * ROWS rows (4 bits: a line) at a time, in
// turn. Dynamic shared memory: tokens of k activations, then scales of 4-bit weights. k is a
// multiple of 16 bytes of weights, or of a group.
#if defined(ELEMENT_F32)
#include "word.cuh"
#else
#include "weights.cuh"
#include "word.cuh"
#endif
#include "reduce.cuh"

constexpr u32 THREADS = WARPS * WARP;
constexpr u32 VECTOR_BYTES = sizeof(Words4);

struct Params {
  const u8 *weights;
  const u8 *scales;  // of narrow weights: f32 of each row, or f16 [group][n]
  const u8 *x;
  u8 *y;
  u32 n;
  u32 k;
  u32 m;  // tokens
  u32 unused;
};

// --- Activations -----------------------------------------------------------

constexpr u32 X_WORDS = VECTOR_BYTES / 4;                 // of a chunk
constexpr u32 X_COLUMNS = X_WORDS * WORD_ELEMENTS;        // of a chunk
constexpr u32 X_ELEMENT_BYTES = 4 / WORD_ELEMENTS;

extern __shared__ __align__(256) u8 activations[];

// A token's row of chunks in shared memory. Lanes read pairs of chunks where weights are
// narrow: the pairs of half of them are exchanged, so that eight lanes use different banks.
DEVICE u32 x_chunk(u32 chunk, u32 token) {
#if defined(WEIGHT_INT4)
  return chunk ^ token % 2;
#elif defined(WEIGHT_E4M3) || defined(WEIGHT_INT8)
  return chunk ^ chunk / 8 % 2;
#else
  return chunk;
#endif
}

DEVICE void stage_activations(const Params &p) {
  const u32 chunks = p.k / X_COLUMNS;
  for (u32 token = 0; token < p.m; ++token) {
    const u32 row = shared_address(activations) + token * chunks * VECTOR_BYTES;
    const u8 *const from = p.x + u64(token) * chunks * VECTOR_BYTES;
    for (u32 chunk = threadIdx.x; chunk < chunks; chunk += THREADS)
      cp_async_16(row + x_chunk(chunk, token) * VECTOR_BYTES, from + u64(chunk) * VECTOR_BYTES);
  }
  cp_async_commit_group();
}

// Rounds a sum and stores it.
DEVICE void store(const Params &p, u32 token, u32 row, float sum) {
  const u64 at = u64(token) * p.n + row;
#if defined(ELEMENT_F32)
  reinterpret_cast<float *>(p.y)[at] = sum;
#else
  reinterpret_cast<u16 *>(p.y)[at] = static_cast<u16>(pack(sum, 0));
#endif
}

#if defined(WEIGHT_INT4)
// --- Weights of 4 bits: lines of operands ------------------------------------

constexpr u32 HALVES = 2;
constexpr u32 GROUP_BYTES = HALVES * WARP * VECTOR_BYTES;
constexpr u32 SCALE_BYTES = LINE_ROWS * sizeof(u16);  // of a group

static_assert(GROUP_BYTES == LINE_BYTES, "a stage of weights.cuh is a group");

typedef Words4 Group[HALVES];

DEVICE void load_group(Group &to, const u8 *from) {
#pragma unroll
  for (u32 half = 0; half < HALVES; ++half)
    to[half] = ld_global_nc_v4(from + half * WARP * VECTOR_BYTES);
}

// Adds the scaled products of a group, whose scales of this lane's rows begin at `scales` and
// activations of this lane's columns and token at `x`.
DEVICE void multiply_group(float (&sums)[4], const Group &weights, u32 scales, u32 x) {
  float group[4] = {};
#pragma unroll
  for (u32 half = 0; half < HALVES; ++half)
#pragma unroll
    for (u32 load = 0; load < 2; ++load) {
      const Words4 b = ld_shared_v4((x ^ load * VECTOR_BYTES) + half * 8 * VECTOR_BYTES);
#pragma unroll
      for (u32 i = 0; i < 2; ++i) {
        const u32 word = weights[half].w[load * 2 + i];
        const u32 a[4] = {operand_of_nibbles<0>(word), operand_of_nibbles<1>(word),
                          operand_of_nibbles<2>(word), operand_of_nibbles<3>(word)};
        mma_m16n8k16(group, a, b.w[i * 2], b.w[i * 2 + 1]);
      }
    }
#pragma unroll
  for (u32 i = 0; i < 4; ++i)
    sums[i] += group[i] * cvt_f32_f16(ld_shared_u16(scales + i / 2 * 8 * sizeof(u16)));
}

DEVICE void stage_scales(const Params &p, u32 to, u32 line) {
  constexpr u32 CHUNKS = SCALE_BYTES / VECTOR_BYTES;
  const u8 *const from = p.scales + u64(line) * SCALE_BYTES;
  for (u32 i = threadIdx.x; i < p.k / STAGE_COLUMNS * CHUNKS; i += THREADS)
    cp_async_16(to + i * VECTOR_BYTES,
                from + u64(i / CHUNKS) * p.n * sizeof(u16) + i % CHUNKS * VECTOR_BYTES);
  cp_async_commit_group();
}

// Adds the sums of the block's warps and stores them.
DEVICE void store_line(const Params &p, u32 line, const float (&sums)[4]) {
  __shared__ float of_warp[WARPS][8][LINE_ROWS];
#pragma unroll
  for (u32 i = 0; i < 4; ++i)
    of_warp[warp_index()][lane_index() % 4 * 2 + i % 2][lane_index() / 4 + i / 2 * 8] = sums[i];
  __syncthreads();
  for (u32 i = threadIdx.x; i < p.m * LINE_ROWS; i += THREADS) {
    const u32 token = i / LINE_ROWS, row = i % LINE_ROWS;
    float sum = 0;
#pragma unroll
    for (u32 warp = 0; warp < WARPS; ++warp) sum += of_warp[warp][token][row];
    store(p, token, line * LINE_ROWS + row, sum);
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) gemv(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 groups = p.k / STAGE_COLUMNS, lines = p.n / LINE_ROWS;
  const u32 x_row = p.k * X_ELEMENT_BYTES;
  const u32 token = min_of(lane_index() / 4, p.m - 1);
  const u32 x = shared_address(activations) + token * x_row +
                x_chunk(lane_index() % 4 * 2, token) * VECTOR_BYTES;
  const u32 scales = shared_address(activations) + p.m * x_row;
  for (u32 line = blockIdx.x; line < lines; line += gridDim.x) {
    // The first groups, then what they are multiplied by.
    const u8 *from = p.weights + (u64(line) * groups + warp_index()) * GROUP_BYTES +
                     lane_index() * VECTOR_BYTES;
    Group weights[DEPTH];
    u32 group = warp_index();
#pragma unroll
    for (u32 i = 0; i < DEPTH; ++i)
      if (group + i * WARPS < groups) load_group(weights[i], from + i * WARPS * GROUP_BYTES);
    stage_scales(p, scales, line);
    if (line == blockIdx.x) {
      overlap_after_weights();
      stage_activations(p);
    }
    cp_async_wait_group<0>();
    __syncthreads();

    float sums[4] = {};
    for (; group < groups; group += DEPTH * WARPS) {
      from += DEPTH * WARPS * GROUP_BYTES;
#pragma unroll
      for (u32 i = 0; i < DEPTH; ++i) {
        const u32 here = group + i * WARPS;
        if (here >= groups) break;
        multiply_group(sums, weights[i],
                       scales + here * SCALE_BYTES + lane_index() / 4 * sizeof(u16),
                       x + here * STAGE_COLUMNS * X_ELEMENT_BYTES);
        if (here + DEPTH * WARPS < groups)
          load_group(weights[i], from + i * WARPS * GROUP_BYTES);
      }
    }
    store_line(p, line, sums);
  }
}
#else
// --- Weights of 32, 16 and 8 bits: whole rows ----------------------------------

#if defined(ELEMENT_F32)
constexpr bool HAS_ROW_SCALES = false;
constexpr u32 VECTOR_COLUMNS = 4;
#else
constexpr bool HAS_ROW_SCALES = ROW_SCALES;
constexpr u32 VECTOR_COLUMNS = VECTOR_BYTES / LINE_BYTES_PER_COLUMN;
#endif
constexpr u32 CHUNKS = VECTOR_COLUMNS / X_COLUMNS;  // of activations, for a vector of weights
constexpr u32 STEP_BYTES = WARP * VECTOR_BYTES;     // of a row, by the warp
constexpr u32 X_STEP_BYTES = WARP * CHUNKS * VECTOR_BYTES;

typedef float Sums[ROWS][TOKENS];
typedef float Chunk[X_COLUMNS];

DEVICE void unpack_chunk(Chunk &to, const Words4 &from) {
#pragma unroll
  for (u32 i = 0; i < X_WORDS; ++i) {
    float pair[WORD_ELEMENTS];
    unpack(pair, from.w[i]);
#pragma unroll
    for (u32 j = 0; j < WORD_ELEMENTS; ++j) to[i * WORD_ELEMENTS + j] = pair[j];
  }
}

// The weights of a vector that a chunk of activations is multiplied by. Narrow ones become f16
// first, whatever the activations are: it holds them exactly, and takes the fewest instructions.
DEVICE void unpack_weights(Chunk &to, const Words4 &from, u32 chunk) {
#if defined(WEIGHT_E4M3) || defined(WEIGHT_INT8)
#pragma unroll
  for (u32 i = 0; i < X_COLUMNS / 4; ++i) {
    const u32 word = from.w[chunk * (X_COLUMNS / 4) + i];
#if defined(WEIGHT_INT8)
    const u32 pairs[2] = {f16x2_of_int8<0, 1>(word), f16x2_of_int8<2, 3>(word)};
#else
    const u32 pairs[2] = {f16x2_of_e4m3<0, 1>(word), f16x2_of_e4m3<2, 3>(word)};
#endif
#pragma unroll
    for (u32 j = 0; j < 4; ++j)
      to[i * 4 + j] = cvt_f32_f16(static_cast<u16>(pairs[j / 2] >> j % 2 * 16));
  }
#else
  unpack_chunk(to, from);
#endif
}

// Adds the products of a vector of each row, whose activations are at `x` for the first token.
DEVICE void multiply(Sums &sums, const Words4 (&weights)[ROWS], u32 x, u32 x_row) {
#pragma unroll
  for (u32 chunk = 0; chunk < CHUNKS; ++chunk) {
    Chunk w[ROWS];
#pragma unroll
    for (u32 r = 0; r < ROWS; ++r) unpack_weights(w[r], weights[r], chunk);
#pragma unroll
    for (u32 t = 0; t < TOKENS; ++t) {
      Chunk a;
      unpack_chunk(a, ld_shared_v4((x ^ chunk * VECTOR_BYTES) + t * x_row));
#pragma unroll
      for (u32 r = 0; r < ROWS; ++r)
#pragma unroll
        for (u32 i = 0; i < X_COLUMNS; ++i) sums[r][t] = fmaf(w[r][i], a[i], sums[r][t]);
    }
  }
}

// A warp's cursor over its rows.
struct Cursor {
  const u8 *weights[ROWS];  // this lane's next vectors
  u32 column;               // of them, in vectors
  const u32 vectors;        // of a row

  DEVICE Cursor(const Params &p, u32 row)
      : column(lane_index()), vectors(p.k / VECTOR_COLUMNS) {
#pragma unroll
    for (u32 r = 0; r < ROWS; ++r)
      // Rows below the matrix are the last row once more, and are not stored.
      weights[r] = p.weights + (u64(min_of(row + r, p.n - 1)) * vectors + column) * VECTOR_BYTES;
  }

  // Loads the vectors `ahead` steps after the next ones, those that there are.
  template <bool all>
  DEVICE void load(Words4 (&to)[ROWS], u32 ahead) const {
    if (!all && column + ahead * WARP >= vectors) return;
#pragma unroll
    for (u32 r = 0; r < ROWS; ++r) to[r] = ld_global_nc_v4(weights[r] + ahead * STEP_BYTES);
  }

  DEVICE void advance() {
#pragma unroll
    for (u32 r = 0; r < ROWS; ++r) weights[r] += DEPTH * STEP_BYTES;
    column += DEPTH * WARP;
  }
};

// Multiplies the DEPTH vectors of each row that are in flight, and loads as many more: `all` of
// both are in the rows, or those that are.
template <bool all>
DEVICE void multiply_and_load(Sums &sums, Words4 (&weights)[DEPTH][ROWS], const Cursor &cursor,
                              u32 x, u32 x_row) {
#pragma unroll
  for (u32 i = 0; i < DEPTH; ++i) {
    if (!all && cursor.column + i * WARP >= cursor.vectors) return;
    multiply(sums, weights[i], x + i * X_STEP_BYTES, x_row);
    cursor.load<all>(weights[i], DEPTH + i);
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) gemv(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 x_row = p.k * X_ELEMENT_BYTES;
  const u32 first = (blockIdx.x * WARPS + warp_index()) * ROWS;
  const u32 rows_at_once = gridDim.x * WARPS * ROWS;
  // A warp without rows helps with the activations.
  for (u32 row = first; row < p.n || row == first; row += rows_at_once) {
    Cursor cursor(p, row);
    Words4 weights[DEPTH][ROWS];
    float scales[ROWS];
    if (row < p.n) {
#pragma unroll
      for (u32 i = 0; i < DEPTH; ++i) cursor.load<false>(weights[i], i);
#pragma unroll
      for (u32 r = 0; r < ROWS; ++r)
        scales[r] = HAS_ROW_SCALES ? ld_global_nc_f32(reinterpret_cast<const float *>(p.scales) +
                                                      min_of(row + r, p.n - 1))
                                   : 1;
    }
    if (row == first) {
      overlap_after_weights();
      stage_activations(p);
      cp_async_wait_group<0>();
      __syncthreads();
      if (row >= p.n) return;
    }

    Sums sums = {};
    u32 x = shared_address(activations) + x_chunk(lane_index() * CHUNKS, 0) * VECTOR_BYTES;
    // As long as every lane has 2 * DEPTH vectors of each row.
    const u32 ends = cursor.vectors - min_of(cursor.vectors, 2 * DEPTH * WARP - 1);
    for (; cursor.column - lane_index() < ends; x += DEPTH * X_STEP_BYTES, cursor.advance())
      multiply_and_load<true>(sums, weights, cursor, x, x_row);
    for (; cursor.column < cursor.vectors; x += DEPTH * X_STEP_BYTES, cursor.advance())
      multiply_and_load<false>(sums, weights, cursor, x, x_row);

    __syncwarp();
#pragma unroll
    for (u32 r = 0; r < ROWS; ++r)
#pragma unroll
      for (u32 t = 0; t < TOKENS; ++t) {
        const float sum = sum_of_warp(sums[r][t]) * scales[r];
        if (lane_index() == r * TOKENS + t && row + r < p.n) store(p, t, row + r, sum);
      }
  }
}
#endif
