// y = x * W^T for few rows of activations x, each called a token: y [token][n], x
// [token][k], weights W [n][k] of 16, 8 or 4 bits, summed in f32. The body of
// gemm_skinny.cu and moe_gemm.cu, which differ in where tokens lie.
//
// Memory binds: all that counts is that weights are read once, and that enough of them
// are under way. They are the left operand of the tensor cores and tokens the narrow
// side, padded to 8. A warp has 32 rows of weights, a block TILE_ROWS. Blocks divide the
// columns of all row tiles by a work list: a tile's part of columns is a piece, stages of
// STAGE_COLUMNS of it pass through a ring in shared memory, filled by cp.async STAGES - 1
// stages ahead and without a pause from piece to piece. The last block of a tile adds
// what all have left, in the order of columns, so that the answer is always the same to
// the last bit.
//
// A group of 4-bit weights, which have a scale, is the columns of a stage; its products
// are summed apart and scaled in f32. Scales of rows are left to the end.
//
// With many tokens the tensor cores bind, 4-bit weights first: a product of 16 x 8 x 16
// takes as long whether what it multiplies was read in 16 bits or in 4.
//
// Launch: blocks of the work list, THREADS threads, SHARED_BYTES of dynamic shared
// memory. k is a multiple of 16 bytes of weights and of activations, or of a group.
#pragma once
#include "last_block.cuh"
#include "weights.cuh"
#include "work_list.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 THREADS = WARPS * WARP;
constexpr u32 M_TILES = 2;  // of 16 rows of weights, of a warp
constexpr u32 WARP_ROWS = M_TILES * 16;
constexpr u32 TILE_ROWS = WARPS * WARP_ROWS;
constexpr u32 LINES = TILE_ROWS / LINE_ROWS;
constexpr u32 TOKEN_TILES = TOKENS / 8;

constexpr u32 WEIGHT_BYTES = LINES * LINE_BYTES;
constexpr u32 SCALE_CHUNKS = GROUP_SCALES ? TILE_ROWS / CHUNK_ELEMENTS : 0;
constexpr u32 STAGE_BYTES = WEIGHT_BYTES + TOKENS * X_BYTES + SCALE_CHUNKS * CHUNK_BYTES;

// What threads copy of a stage: chunks of weights, lines apart, and of tokens.
constexpr u32 LINES_AT_ONCE = THREADS / LINE_CHUNKS;
constexpr u32 TOKENS_AT_ONCE = THREADS / X_CHUNKS;
constexpr u32 TOKEN_COPIES = ceil_div<u32>(TOKENS, TOKENS_AT_ONCE);

// Sums turn from rows of weights into rows of y by way of a stage's place, so many tokens
// at a time; these are padded so that four of them fall into different banks.
constexpr u32 TURNED_TOKENS = 16;
constexpr u32 TURNED_STRIDE = TILE_ROWS + 4;
constexpr u32 TILE_VECTORS = TILE_ROWS / 4;

static_assert(TOKENS % 8 == 0, "tokens are tiles of the tensor cores");
static_assert(STAGES >= 2, "one stage is copied while another is multiplied");
static_assert(LINE_ROWS > 1 || LINES_AT_ONCE % 2 == 0, "a thread's lines lie alike");
static_assert(TOKENS_AT_ONCE % 2 == 0, "a thread's tokens lie alike");
static_assert(SHARED_BYTES == STAGES * STAGE_BYTES, "the host reserves these");
static_assert(min_of<u32>(TOKENS, TURNED_TOKENS) * TURNED_STRIDE * sizeof(float) <= STAGE_BYTES,
              "a stage's place holds sums");

// --- Parameters ------------------------------------------------------------

// What both kernels are given.
struct Matrices {
  const u8 *weights;
  const u8 *scales;  // null for 16-bit weights
  const u16 *x;
  u16 *y;
  const Piece *work;  // of row tiles (heads) of a set of tokens (request), cut at columns
  float *partials;    // [slot][TOKENS][TILE_ROWS]
  u32 *tickets;       // [slot]; zero between launches
  u32 n;
  u32 k;
};

// Of a warp's rows for eight tokens, and for all.
typedef float TileSums[M_TILES][4];
typedef TileSums Sums[TOKEN_TILES];

// Tokens that are multiplied where there are so many: where their number VARIES, experts
// with few are spared the products of many.
DEVICE u32 padded_tokens(u32 tokens) {
  u32 padded = TOKENS;
  while (VARIES && padded > 8 && tokens <= padded / 16 * 8) padded = padded / 16 * 8;
  return padded;
}

// --- Copies ----------------------------------------------------------------

// A thread's cursor over the stages of all pieces of its block. `Tokens` says which rows
// of x and y a set of tokens is, and by whose weights they are multiplied.
template <typename Tokens>
struct Fetch {
  const Matrices &p;
  u32 following;  // the next piece of the block, 0 after the last
  u32 column;     // first of the stage to fetch
  u32 end;        // of the piece

  // This thread's first chunk of weights, of tokens and of scales: where it lies in a
  // stage, and of the stage to fetch in memory.
  const u32 weights_to, x_to, scales_to;
  const u32 weights_column, x_column;  // within a stage
  const u8 *weights;
  const u16 *x[TOKEN_COPIES];
  const u8 *scales;
  u32 lines;    // of the tile, from this thread's first on
  u32 tokens;   // the same of tokens
  u32 padded;   // and with their padding
  bool scaled;  // whether this thread's rows of scales are in the matrix

  static DEVICE u32 line() { return threadIdx.x / LINE_CHUNKS; }
  static DEVICE u32 line_chunk() { return threadIdx.x % LINE_CHUNKS; }
  static DEVICE u32 token() { return threadIdx.x / X_CHUNKS; }
  static DEVICE u32 x_chunk() { return threadIdx.x % X_CHUNKS; }

  DEVICE Fetch(const Matrices &matrices)
      : p(matrices),
        weights_to(held(line_chunk_offset(line(), line_chunk()))),
        x_to(held(WEIGHT_BYTES + x_chunk_offset(token(), x_chunk()))),
        scales_to(STAGE_BYTES - (SCALE_CHUNKS - threadIdx.x) * CHUNK_BYTES),
        weights_column(CHUNK_COLUMNS == 0 ? 0 : held(line_chunk() * CHUNK_COLUMNS)),
        x_column(held(x_chunk() * CHUNK_ELEMENTS)) {}

  DEVICE u64 line_bytes() const { return u64(p.k) * LINE_BYTES_PER_COLUMN; }

  // Goes to a piece.
  DEVICE void enter(const Piece &piece, const Tokens &of) {
    const u32 row = piece.head * TILE_ROWS;
    const u64 matrix_lines = u64(of.expert()) * (p.n / LINE_ROWS);
    weights = p.weights + (matrix_lines + row / LINE_ROWS + line()) * line_bytes() +
              piece.first_token * LINE_BYTES_PER_COLUMN + line_chunk() * CHUNK_BYTES;
    lines = (p.n - row) / LINE_ROWS;
    lines -= min_of(lines, line());
    if (GROUP_SCALES) {
      const u64 group = (u64(of.expert()) * p.k + piece.first_token) / STAGE_COLUMNS;
      scales = p.scales + (group * p.n + row) * sizeof(u16) + threadIdx.x * CHUNK_BYTES;
      scaled = row + threadIdx.x * CHUNK_ELEMENTS < p.n;
    }
    tokens = held(of.count() - min_of(of.count(), token()));
    padded = held(padded_tokens(of.count()) - min_of(padded_tokens(of.count()), token()));
#pragma unroll
    for (u32 i = 0; i < TOKEN_COPIES; ++i) {
      const u32 number = token() + i * TOKENS_AT_ONCE;
      const u32 x_row = number < of.count() ? of.x_row(number) : 0;
      x[i] = p.x + u64(x_row) * p.k + piece.first_token + x_column;
    }
    column = piece.first_token;
    end = column + piece.tokens;
    following = piece.next;
  }

  // Copies the weights of a stage; lines below the tile and chunks right of the piece
  // become zeros.
  DEVICE void copy_weights(u32 stage) {
    const u32 inside = column + weights_column < end ? lines : 0;
#pragma unroll
    for (u32 i = 0; i < LINES; i += LINES_AT_ONCE)
      cp_async_16(stage + weights_to + i * LINE_BYTES, weights + i * line_bytes(),
                  i < inside ? CHUNK_BYTES : 0);
    weights += STAGE_COLUMNS * LINE_BYTES_PER_COLUMN;
  }

  // Copies the tokens' columns of a stage; those right of the piece and of padding become
  // zeros.
  DEVICE void copy_tokens(u32 stage) {
    const bool inside = column + x_column < end;
#pragma unroll
    for (u32 i = 0; i < TOKEN_COPIES; ++i) {
      if (i * TOKENS_AT_ONCE < padded)
        cp_async_16(stage + x_to + i * TOKENS_AT_ONCE * X_BYTES, x[i],
                    inside && i * TOKENS_AT_ONCE < tokens ? CHUNK_BYTES : 0);
      x[i] += STAGE_COLUMNS;
    }
  }

  // Copies the scales of a stage, each thread a chunk; those below the tile become zeros.
  DEVICE void copy_scales(u32 stage) {
    if (!GROUP_SCALES || threadIdx.x >= SCALE_CHUNKS) return;
    cp_async_16(stage + scales_to, scales, scaled ? CHUNK_BYTES : 0);
    scales += p.n * sizeof(u16);
  }

  // Copies the next stage to a place, if there is one. `tokens_of` makes the Tokens of a
  // piece.
  template <typename TokensOf>
  DEVICE void next(u32 stage, TokensOf tokens_of) {
    if (column < end) {
      copy_weights(stage);
      copy_tokens(stage);
      copy_scales(stage);
      column += STAGE_COLUMNS;
      if (column >= end && following != 0) {
        const Piece piece = load_piece(p.work, following);
        enter(piece, tokens_of(piece));
      }
    }
    cp_async_commit_group();
  }
};

// --- Products --------------------------------------------------------------

// The left operands of half a stage.
typedef u32 Weights[M_TILES][PRODUCTS][4];

DEVICE void load_weights_of_half(Weights &a, u32 stage, u32 half) {
  const u32 from = stage + warp_index() * M_TILES * ROWS_16_BYTES + weights_lane_offset();
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

// The same where a stage is a group of columns whose scales lie at `scales`, from this
// lane's first row on. The sums of a group are apart for one tile of tokens at a time: for
// all of them they would not fit the registers.
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

// The stage at `offset` of the ring, for so many tokens with padding.
template <u32 tiles = TOKEN_TILES>
DEVICE void multiply_stage(Sums &sums, u8 *ring, u32 offset, u32 padded) {
  if (VARIES && tiles > 1 && padded < tiles * 8)
    multiply_stage<max_of(tiles / 2, 1u)>(sums, ring, offset, padded);
  else if (GROUP_SCALES)
    multiply_group<tiles>(sums, shared_address(ring) + offset,
                          reinterpret_cast<const u16 *>(ring + offset + STAGE_BYTES) - TILE_ROWS +
                              warp_index() * WARP_ROWS + lane_index() / 4);
  else
    multiply<tiles>(sums, shared_address(ring) + offset);
}

// --- From pieces to y --------------------------------------------------------

// Rounds four rows' sums of a token and writes those that are in the matrix.
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

// Writes a piece's sums to y, or where the tile has further pieces to the piece's slot,
// by way of the place of the last stage, which is read no more.
template <typename Tokens>
DEVICE void leave(const Matrices &p, const Piece &piece, const Tokens &of, const Sums &sums,
                  u8 *place) {
  float *const turned = reinterpret_cast<float *>(place);
  const u32 first_row = piece.head * TILE_ROWS, rows = min_of(TILE_ROWS, p.n - first_row);
  Floats4 *const slot = reinterpret_cast<Floats4 *>(p.partials) +
                        u64(of.slot(piece.first_slot + piece.split)) * TOKENS * TILE_VECTORS;
#pragma unroll
  for (u32 first = 0; first < TOKENS; first += TURNED_TOKENS) {
    if (first >= of.count()) break;
    __syncthreads();
#pragma unroll
    for (u32 m = 0; m < M_TILES; ++m)
#pragma unroll
      for (u32 n = 0; n < TURNED_TOKENS / 8 && first / 8 + n < TOKEN_TILES; ++n)
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
          const u32 row = warp_index() * WARP_ROWS + m * 16 + i / 2 * 8 + lane_index() / 4;
          const u32 token = n * 8 + lane_index() % 4 * 2 + i % 2;
          turned[token * TURNED_STRIDE + row] = sums[first / 8 + n][m][i];
        }
    __syncthreads();
    const u32 end = min_of(first + TURNED_TOKENS, of.count());
    for_each_vector(first, end, rows, [&](u32 token, u32 vector) {
      const float *from = turned + (token - first) * TURNED_STRIDE + vector * 4;
      const Floats4 sum = *reinterpret_cast<const Floats4 *>(from);
      if (piece.splits == 1)
        write_output(p, of, token, first_row + vector * 4, sum);
      else
        slot[token * TILE_VECTORS + vector] = sum;
    });
  }
}

// Adds what all pieces of a tile have left.
template <typename Tokens>
DEVICE void combine(const Matrices &p, const Piece &piece, const Tokens &of) {
  const u32 first_row = piece.head * TILE_ROWS, rows = min_of(TILE_ROWS, p.n - first_row);
  const Floats4 *const partials = reinterpret_cast<const Floats4 *>(p.partials);
  for_each_vector(0, of.count(), rows, [&](u32 token, u32 vector) {
    Floats4 sum = {};
#pragma unroll 4
    for (u32 split = 0; split < piece.splits; ++split) {
      const u64 slot = of.slot(piece.first_slot + split);
      const Floats4 part = partials[(slot * TOKENS + token) * TILE_VECTORS + vector];
#pragma unroll
      for (u32 i = 0; i < 4; ++i) sum.x[i] += part.x[i];
    }
    write_output(p, of, token, first_row + vector * 4, sum);
  });
}

// --- A block -----------------------------------------------------------------

// Works through a block's pieces. tokens_of(piece) says which tokens a piece is for.
template <typename TokensOf>
DEVICE void multiply_pieces(const Matrices &p, u32 block, TokensOf tokens_of) {
  // Halves of a line are told apart by a bit of the address.
  extern __shared__ __align__(256) u8 ring[];
  const Piece first = load_piece(p.work, block);
  Fetch<decltype(tokens_of(first))> fetch(p);
  fetch.enter(first, tokens_of(first));
  u32 fill = 0, drain = 0;
  const auto after = [](u32 place) {
    return place == SHARED_BYTES - STAGE_BYTES ? 0 : place + STAGE_BYTES;
  };
  const auto start_copies = [&] {
    fetch.next(shared_address(ring) + fill, tokens_of);
    fill = after(fill);
  };
  for (u32 i = 0; i < STAGES - 1; ++i) start_copies();

  for_each_piece(p.work, block, [&](const Piece &piece) {
    const auto of = tokens_of(piece);
    const u32 padded = padded_tokens(of.count());
    Sums sums = {};
    u32 place = drain;
    for (u32 done = 0; done < piece.tokens; done += STAGE_COLUMNS) {
      // The oldest stage but STAGES - 2 has come, for all threads; and all are done with
      // the stage before it.
      cp_async_wait_group<STAGES - 2>();
      __syncthreads();
      start_copies();
      place = drain;
      multiply_stage(sums, ring, place, padded);
      drain = after(drain);
    }
    leave(p, piece, of, sums, ring + place);
    u32 *const ticket = p.tickets + of.slot(piece.first_slot);
    if (piece.splits > 1 && is_last_block(ticket, piece.splits)) combine(p, piece, of);
  });
}
