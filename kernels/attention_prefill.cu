// Attention of many new tokens per request, O = softmax(Q K^T / sqrt(d)) V, in
// bf16 or f16, with an online softmax in f32 (Dao, "FlashAttention-2", 2023).
// Q and O are [head][token][HEAD_DIM], K and V [KV head][key][HEAD_DIM], where
// heads are numbered across requests and `group` consecutive query heads share a
// KV head. Of requests of several lengths (RAGGED) Q and O are [token of all
// requests][head of a request][HEAD_DIM], and K and V have room for the longest.
//
// A block computes ROWS tokens of a head, divided among its WARPS warps, over the
// tiles of KEYS keys in order. Tiles of K and of V alternate in a ring of STAGES
// stages in shared memory, filled by cp.async STAGES - 1 tiles ahead. Scores stay
// in registers and become the left operand of the second product there. Keys that
// no token of the block attends to are neither read nor multiplied.
//
// The kernel is compute bound at long contexts: 4 HEAD_DIM FLOPs on the tensor
// cores for every score, beside one exponential.
//
// Launch: 1-D grid of ceil(new_tokens / ROWS) times heads, WARPS * 32 threads,
// Q_BYTES + RING_BYTES of dynamic shared memory. Blocks take heads in sections
// whose K and V fit in L2 together; within a section the last tokens come first,
// since with a causal mask they attend to the most keys. With RAGGED a block for
// each item of a list that the host made, in such an order.
#include "element.cuh"
#include "prompt.cuh"
#include "reduce.cuh"
#include "tile.cuh"

// --- Shape -----------------------------------------------------------------

constexpr u32 THREADS = WARPS * WARP;
constexpr u32 WARP_ROWS = ROWS / WARPS;
// Blocks of 16: rows of a warp, and along the sums of both products.
constexpr u32 BLOCKS_M = WARP_ROWS / 16;
constexpr u32 BLOCKS_D = HEAD_DIM / 16, BLOCKS_K = KEYS / 16;

constexpr u32 ROW_BYTES = HEAD_DIM * ELEMENT_BYTES;
constexpr u32 Q_BYTES = ROWS * ROW_BYTES;
constexpr u32 STAGE_BYTES = KEYS * ROW_BYTES;
constexpr u32 RING_BYTES = STAGES * STAGE_BYTES;

static_assert(ROWS % (WARPS * 16) == 0, "warps have blocks of 16 rows");
static_assert(KEYS % 16 == 0, "products take 16 keys at a time");
static_assert(HEAD_DIM % 64 == 0, "rows of tiles span all banks");
static_assert(STAGES >= 2, "one tile is copied while another is multiplied");

struct Params {
  const u16 *k;
  const u16 *v;
  const u16 *q;
  u16 *o;
  const Item *work;  // with RAGGED
  u32 heads;         // query heads of all requests
  u32 group;         // query heads of a KV head
  Prompt prompt;     // of every request, or the longest that there could be
  u32 section;       // query heads whose blocks run together
  u32 q_heads;       // of a request
  float scale;       // log2(e) / sqrt(HEAD_DIM): scores become exponents of two
  u32 unused;
};

extern __shared__ __align__(256) u8 shared[];

// The work of this block.
DEVICE Item item_of_block(const Params &p) {
  if (RAGGED) return Item::load(p.work + blockIdx.x);
  const u32 tiles = ceil_div(p.prompt.new_tokens, u32(ROWS));
  const u32 first = blockIdx.x / (p.section * tiles) * p.section;
  const u32 heads = min_of(p.section, p.heads - first);
  const u32 within = blockIdx.x - first * tiles;
  const u32 head = first + within % heads;
  return {head, head / p.group, (tiles - 1 - within / heads) * ROWS, 0, p.prompt};
}

// Scores and outputs of a warp in the layout of mma: this lane's row r of
// 2 BLOCKS_M has two elements of every 8 columns.
typedef float Scores[BLOCKS_M][KEYS / 8][4];
typedef float Outputs[BLOCKS_M][HEAD_DIM / 8][4];

// Calls body(row, element) for this lane's elements of 16 x 8 blocks.
template <u32 blocks_n, typename Body>
DEVICE void for_each_in_row(u32 row, float (&x)[BLOCKS_M][blocks_n][4], Body body) {
#pragma unroll
  for (u32 j = 0; j < blocks_n; ++j)
#pragma unroll
    for (u32 i = 0; i < 2; ++i) body(x[row / 2][j][row % 2 * 2 + i]);
}

// S = Q K^T
DEVICE void score(Scores &s, u32 q_lane, u32 k_lane) {
#pragma unroll
  for (u32 d = 0; d < BLOCKS_D; ++d) {
    u32 q[BLOCKS_M][4];
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
      ldmatrix_x4(q[i], right_by(q_lane, d) + i * 16 * ROW_BYTES);
#pragma unroll
    for (u32 j = 0; j < BLOCKS_K; ++j) {
      u32 k[4];
      ldmatrix_x4(k, right_by(k_lane, d) + j * 16 * ROW_BYTES);
#pragma unroll
      for (u32 i = 0; i < BLOCKS_M; ++i) {
        mma_m16n8k16(s[i][2 * j], q[i], k[0], k[1]);
        mma_m16n8k16(s[i][2 * j + 1], q[i], k[2], k[3]);
      }
    }
  }
}

// Masks the scores of keys that a row does not attend to. This lane's first row attends to
// `visible` keys, no row to more than `context`. `key` is the lane's first key.
DEVICE void mask(Scores &s, u32 visible, u32 context, u32 key) {
#pragma unroll
  for (u32 r = 0; r < 2 * BLOCKS_M; ++r) {
    const i32 left = i32(min_of(visible + r * 8, context)) - i32(key);
    i32 column = 0;
    for_each_in_row(r, s, [&](float &x) {
      if (column >= left) x = minus_infinity();
      column += column % 2 == 0 ? 1 : 7;
    });
  }
}

// O += P V, with P in the registers of S.
DEVICE void multiply_values(Outputs &o, const Scores &s, u32 v_lane) {
#pragma unroll
  for (u32 j = 0; j < BLOCKS_K; ++j) {
    u32 p[BLOCKS_M][4];
#pragma unroll
    for (u32 i = 0; i < BLOCKS_M; ++i)
#pragma unroll
      for (u32 h = 0; h < 4; ++h) {
        const float(&of_lane)[4] = s[i][2 * j + h / 2];
        p[i][h] = pack(of_lane[h % 2 * 2], of_lane[h % 2 * 2 + 1]);
      }
#pragma unroll
    for (u32 d = 0; d < BLOCKS_D; ++d) {
      u32 v[4];
      ldmatrix_x4_trans(v, right_by(v_lane, d) + j * 16 * ROW_BYTES);
#pragma unroll
      for (u32 i = 0; i < BLOCKS_M; ++i) {
        mma_m16n8k16(o[i][2 * d], p[i], v[0], v[1]);
        mma_m16n8k16(o[i][2 * d + 1], p[i], v[2], v[3]);
      }
    }
  }
}

// Running maximum of the scores and sum of the attention weights of this lane's
// rows; sums are over the lane's own columns until the end.
struct Softmax {
  float max[2 * BLOCKS_M];
  float sum[2 * BLOCKS_M];
};

// Online softmax: turns scores into attention weights, and rescales sums and outputs to
// the new maxima.
DEVICE void online_softmax(Softmax &state, Scores &s, Outputs &o, float scale) {
  float rescale[2 * BLOCKS_M];
  bool same = true;
#pragma unroll
  for (u32 r = 0; r < 2 * BLOCKS_M; ++r) {
    float max = state.max[r];
    for_each_in_row(r, s, [&](float x) { max = fmaxf(max, x); });
    max = max_of_quad(max);
    same &= max == state.max[r];
    rescale[r] = ex2_approx((state.max[r] - max) * scale);
    state.max[r] = max;
    // Every row attends to a key of the first tile, so its maximum is finite.
    const float shift = max * scale;
    float sum = state.sum[r] * rescale[r];
    for_each_in_row(r, s, [&](float &x) {
      x = ex2_approx(x * scale - shift);
      sum += x;
    });
    state.sum[r] = sum;
  }
  // Maxima rarely change after the first tiles.
  if (__all_sync(ALL_LANES, same)) return;
#pragma unroll
  for (u32 r = 0; r < 2 * BLOCKS_M; ++r) for_each_in_row(r, o, [&](float &x) { x *= rescale[r]; });
}

KERNEL(THREADS, BLOCKS_PER_SM) attention_prefill(const __grid_constant__ Params p) {
  // Tokens and keys.
  const Item item = item_of_block(p);
  const Prompt &prompt = item.prompt;
  const u32 end_token = min_of(item.token + ROWS, prompt.new_tokens);
  const u32 tiles = ceil_div(min_of(prompt.context, end_token - 1 + prompt.reach), u32(KEYS));
  // Tiles that need no mask: every token attends to every key.
  const u32 unmasked_tiles = min_of(prompt.context, item.token + prompt.reach) / KEYS;

  // Copies from global memory.
  const u32 q_tile = shared_address(shared), ring = q_tile + Q_BYTES;
  const u32 copied = copied_row<HEAD_DIM>(), chunk = copied_chunk<HEAD_DIM>() * CHUNK_ELEMENTS;
  const u64 first_q_row = RAGGED ? u64(prompt.row + item.token) * p.q_heads + item.head
                                 : u64(item.head) * prompt.new_tokens + item.token;
  const u64 q_start = first_q_row * HEAD_DIM;
  const u32 q_stride = RAGGED ? p.q_heads * HEAD_DIM : HEAD_DIM;
  const u64 kv_start = (u64(item.kv_head) * p.prompt.context + copied) * HEAD_DIM + chunk;
  // K and V alternate in the ring: `turn` 0 is `tile` of K, 1 that of V, 2 the next
  // tile of K, and so on.
  auto start_copies = [&](u32 tile, u32 turn, u32 stage) {
    tile += turn / 2;
    if (tile < tiles) {
      const u16 *const from = (turn % 2 == 0 ? p.k : p.v) + kv_start;
      copy_tile<KEYS, HEAD_DIM, THREADS>(stage, from + u64(tile) * (KEYS * HEAD_DIM), HEAD_DIM,
                                         prompt.context - tile * KEYS);
    }
    cp_async_commit_group();
  };
  copy_tile<ROWS, HEAD_DIM, THREADS>(q_tile, p.q + q_start + u64(copied) * q_stride + chunk,
                                     q_stride, end_token - item.token);
#pragma unroll
  for (u32 i = 0; i < STAGES - 1; ++i) start_copies(0, i, ring + i * STAGE_BYTES);

  // Operands from shared memory.
  const u32 first_row = warp_index() * WARP_ROWS;
  const u32 q_lane = q_tile + first_row * ROW_BYTES + lane_offset_a<HEAD_DIM>();
  const u32 k_lane = lane_offset_b<HEAD_DIM>(), v_lane = lane_offset_a<HEAD_DIM>();
  const u32 last_stage = ring + RING_BYTES - STAGE_BYTES;
  u32 stage = last_stage;
  // Waits for the next tile (its `turn` as above) and starts copies to the stage of the
  // tile before. Returns the address of the tile's stage.
  auto next_tile = [&](u32 tile, u32 turn) {
    cp_async_wait_group<STAGES - 2>();
    __syncthreads();
    start_copies(tile, turn + STAGES - 1, stage);
    return stage = stage == last_stage ? ring : stage + STAGE_BYTES;
  };

  // Main loop.
  Outputs o = {};
  Softmax state;
#pragma unroll
  for (u32 r = 0; r < 2 * BLOCKS_M; ++r) state.max[r] = minus_infinity(), state.sum[r] = 0;
  for (u32 tile = 0; tile < tiles; ++tile) {
    Scores s = {};
    score(s, q_lane, next_tile(tile, 0) + k_lane);
    if (tile >= unmasked_tiles) {
      const u32 token = item.token + first_row + lane_index() / 4;
      mask(s, token + prompt.reach, prompt.context, tile * KEYS + lane_index() % 4 * 2);
    }
    online_softmax(state, s, o, p.scale);
    multiply_values(o, s, next_tile(tile, 1) + v_lane);
  }

  // Output, by way of this warp's rows of Q.
#pragma unroll
  for (u32 r = 0; r < 2 * BLOCKS_M; ++r) {
    const float inverse_sum = rcp_approx(sum_of_quad(state.sum[r]));
    const u32 row = first_row + r * 8 + lane_index() / 4;
#pragma unroll
    for (u32 j = 0; j < HEAD_DIM / 8; ++j) {
      const float(&x)[4] = o[r / 2][j];
      st_shared(q_tile + chunk_offset<HEAD_DIM>(row, j) + lane_index() % 4 * 4,
                pack(x[r % 2 * 2] * inverse_sum, x[r % 2 * 2 + 1] * inverse_sum));
    }
  }
  __syncwarp();
  constexpr u32 chunks = HEAD_DIM / CHUNK_ELEMENTS;
#pragma unroll
  for (u32 i = 0; i < WARP_ROWS * chunks; i += WARP) {
    const u32 row = first_row + (i + lane_index()) / chunks, column = lane_index() % chunks;
    if (item.token + row < end_token)
      st_global_v4(p.o + q_start + u64(row) * q_stride + column * CHUNK_ELEMENTS,
                   ld_shared_v4(q_tile + chunk_offset<HEAD_DIM>(row, column)));
  }
}
