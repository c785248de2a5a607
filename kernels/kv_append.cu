// Appends the keys and values of new tokens to the pages of a cache, converted to
// the format of the cache.
//
// New keys and values are [batch][token][kv head][dim]; pages are
// [page][kv head][token in page][dim], or with TOKEN_FIRST
// [page][token in page][kv head][dim]; [batch][page of the request] is the page
// table. Where the cache has 8 bits an element is multiplied by the inverse scale
// of its request and head and rounded.
//
// A thread copies the same elements of keys and of values, 16 bytes of each in the
// narrower of both formats. Its reads, the page number among them, do not depend
// on one another, so that one memory latency lies between launch and stores.
// The kernel is latency bound with few tokens, else memory bound.
//
// Launch: 1-D grid with a thread for each vector of new keys, THREADS threads.
#include "divisor.cuh"
#include "lengths.cuh"
#include "ptx.cuh"

enum class Format { F32, BF16, F16, FP8_E4M3, INT8 };

DEVICE constexpr u32 bytes_of(Format format) {
  return format == Format::F32 ? 4 : format == Format::BF16 || format == Format::F16 ? 2 : 1;
}

constexpr Format NEW = Format::FROM;
constexpr Format CACHE = Format::TO;
constexpr bool SCALED = bytes_of(CACHE) == 1;

constexpr u32 VECTOR_BYTES = sizeof(Words4);
// Elements of keys and of values that a thread copies, and their vectors.
constexpr u32 ELEMENTS = VECTOR_BYTES / min_of(bytes_of(NEW), bytes_of(CACHE));
constexpr u32 READS = ELEMENTS * bytes_of(NEW) / VECTOR_BYTES;
constexpr u32 WRITES = ELEMENTS * bytes_of(CACHE) / VECTOR_BYTES;
// Threads for a row.
constexpr u32 ROW_THREADS = HEAD_DIM / ELEMENTS;
constexpr u32 ROW_BYTES = HEAD_DIM * bytes_of(CACHE);

static_assert(bytes_of(NEW) > 1, "new keys and values are not quantized");
static_assert(HEAD_DIM % ELEMENTS == 0, "rows are whole vectors");

struct Params {
  const u8 *k_new;
  const u8 *v_new;
  const u32 *page_table;          // [batch][pages]
  const float *k_inverse_scales;  // [batch][kv head]; null unless SCALED
  const float *v_inverse_scales;
  u8 *k_cache;
  u8 *v_cache;
  Lengths lengths;  // of requests in the end
  u32 threads;
  u32 pages;  // entries of the page table for each request
  Divisor kv_heads;
  Divisor new_tokens;
};

// Elements of a thread as they are read, and as they are stored.
struct New {
  Words4 vectors[READS];

  DEVICE explicit New(const u8 *from) {
#pragma unroll
    for (u32 i = 0; i < READS; ++i) {
      const u8 *at = from + i * VECTOR_BYTES;
      vectors[i] = READS == 1 ? ld_global_nc_v4(at) : ld_global_nc_v4_kept(at);
    }
  }

  DEVICE float element(u32 i) const {
    const u32 at = i * bytes_of(NEW) / 4;
    const u32 word = vectors[at / 4].w[at % 4];
    if (NEW == Format::F32) return __uint_as_float(word);
    if (NEW == Format::BF16) return __uint_as_float(i % 2 ? word & 0xffff0000 : word << 16);
    return cvt_f32_f16(u16(i % 2 ? word >> 16 : word));
  }
};

// The bits of the E4M3 value nearest to x, ties to even, saturated at 448: cvt_e4m3x2 for
// architectures without that instruction.
DEVICE u32 e4m3_of(float x) {
  const float size = fminf(fabsf(x), 448.f);
  // Normal values, from 2^-6 on: an exponent with a bias of 7 instead of 127, and 3 of the
  // 23 bits of the mantissa. A carry out of these is the next exponent.
  const u32 bits = __float_as_uint(size);
  const u32 normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
  // Subnormal values: multiples of 2^-9, which is the last place of f32 values from 2^14 on.
  const u32 small = __float_as_uint(size + 16384.f) - __float_as_uint(16384.f);
  const u32 sign = __float_as_uint(x) >> 24 & 0x80;
  return sign | (size < 0.015625f ? small : normal);
}

DEVICE u32 e4m3x4(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
  return cvt_e4m3x2(a, b) | u32(cvt_e4m3x2(c, d)) << 16;
#else
  return e4m3_of(a) | e4m3_of(b) << 8 | e4m3_of(c) << 16 | e4m3_of(d) << 24;
#endif
}

DEVICE u32 int8x4(float a, float b, float c, float d) {
  const u32 high = cvt_pack_s8(__float2int_rn(d), __float2int_rn(c), 0);
  return cvt_pack_s8(__float2int_rn(b), __float2int_rn(a), high);
}

// Word `i` of the elements to store.
DEVICE u32 stored_word(const New &from, u32 i, float scale) {
  if (NEW == CACHE) return from.vectors[i / 4].w[i % 4];
  constexpr u32 COUNT = 4 / bytes_of(CACHE);
  float x[4] = {};
#pragma unroll
  for (u32 j = 0; j < COUNT; ++j) {
    x[j] = from.element(i * COUNT + j);
    if (SCALED) x[j] = __fmul_rn(x[j], scale);
  }
  if (CACHE == Format::F32) return __float_as_uint(x[0]);
  if (CACHE == Format::BF16) return cvt_bf16x2(x[0], x[1]);
  if (CACHE == Format::F16) return cvt_f16x2(x[0], x[1]);
  if (CACHE == Format::INT8) return int8x4(x[0], x[1], x[2], x[3]);
  return e4m3x4(x[0], x[1], x[2], x[3]);
}

DEVICE void store(u8 *to, const New &from, float scale) {
#pragma unroll
  for (u32 i = 0; i < WRITES; ++i) {
    Words4 vector;
#pragma unroll
    for (u32 j = 0; j < 4; ++j) vector.w[j] = stored_word(from, 4 * i + j, scale);
    st_global_v4(to + i * VECTOR_BYTES, vector);
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) kv_append(const __grid_constant__ Params p) {
  const u32 index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const u64 from = u64(index) * (READS * VECTOR_BYTES);
  const New k(p.k_new + from), v(p.v_new + from);

  // The request, token and head of the row.
  const u32 row = index / ROW_THREADS;
  const u32 token_row = p.kv_heads.quotient(row);
  const u32 head = row - token_row * p.kv_heads.by;
  const u32 request = p.new_tokens.quotient(token_row);
  const u32 token = token_row - request * p.new_tokens.by;

  // The row's place in the cache.
  const u32 place = (p.lengths.of(request) - p.new_tokens.by) % PAGE_SIZE + token;
  const u32 page =
      ld_global_nc_u32(p.page_table + u64(request) * p.pages + place / PAGE_SIZE);
  float k_scale = 1, v_scale = 1;
  if (SCALED) {
    const u64 scale = u64(request) * p.kv_heads.by + head;
    k_scale = ld_global_nc_f32(p.k_inverse_scales + scale);
    v_scale = ld_global_nc_f32(p.v_inverse_scales + scale);
  }
  const u32 in_page = place % PAGE_SIZE;
  const u64 to_row = TOKEN_FIRST ? (u64(page) * PAGE_SIZE + in_page) * p.kv_heads.by + head
                                 : (u64(page) * p.kv_heads.by + head) * PAGE_SIZE + in_page;
  const u64 to = to_row * ROW_BYTES + index % ROW_THREADS * (WRITES * VECTOR_BYTES);
  store(p.k_cache + to, k, k_scale);
  store(p.v_cache + to, v, v_scale);
}
