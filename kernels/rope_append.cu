// Rotates the queries and keys of one new token of each request by its position and appends
// its keys and values to the pages of a cache.
//
// qkv is [request][head][dim], heads of queries, then of keys, then of values; q is
// [request][q head][dim]; pages are [page][kv head][token in page][dim], or with TOKEN_FIRST
// [page][token in page][kv head][dim]; [request][page of the request] is the page table, with
// WHOLE of all pages, else of the one that the token falls into. Elements i and i + HEAD_DIM / 2
// of a head are a pair, which turns by position * frequency(i).
//
// Frequencies are turns in 64 bits after the point. Times a position they wrap to the fraction
// of a turn, exact to position * 2^-65, so that no large angle is ever reduced: 32 bits of it
// become a float between -1 and 1 half turns, whose sine and cosine err by about 2e-7 at any
// position.
//
// A thread has a vector of 16 bytes of the first half of a head and the one of the same pairs
// in the second half, of HEADS heads, which share sines and cosines. It loads all of them before
// it uses the first. No load depends on another, so that one memory latency lies between launch
// and stores. The kernel is latency bound with few requests, else memory bound.
//
// Launch: 1-D grid with a thread for each vector of half a head and HEADS heads, THREADS threads.
#include "divisor.cuh"
#include "lengths.cuh"
#include "word.cuh"

constexpr u32 VECTOR_ELEMENTS = 4 * WORD_ELEMENTS;
// Vectors of half a head, each of a thread, and of a whole one.
constexpr u32 HALF = HEAD_DIM / 2 / VECTOR_ELEMENTS;
constexpr u32 ROW = 2 * HALF;

static_assert(HEAD_DIM % (2 * VECTOR_ELEMENTS) == 0, "half heads are whole vectors");

struct Params {
  const Words4 *qkv;      // [request][head][vector]
  const u32 *page_table;  // [request][page]
  const Words4 *turns;    // [pair], two to a vector: turns from one position to the next
  Words4 *q;
  Words4 *k;
  Words4 *v;
  Lengths lengths;
  u32 threads;
  u32 pages;        // entries of the page table for each request
  Divisor groups;   // of HEADS heads, of a request
  u32 q_heads;
  u32 kv_heads;
  u32 heads;  // all
};

// Sine and cosine of an angle.
struct Rotation {
  float sine, cosine;

  DEVICE Rotation(u64 turns, u32 position) {
    const i32 fraction = i32(u32(turns * position >> 32));
    sincospif(float(fraction) * (1.f / 2147483648.f), &sine, &cosine);
  }
};

// Turns the pairs of vectors of the first half of each head and of the second.
DEVICE void rotate(Words4 (&x)[HEADS][2], const bool (&turns)[HEADS],
                   const Words4 (&frequencies)[VECTOR_ELEMENTS / 2], u32 position) {
#pragma unroll
  for (u32 word = 0; word < 4; ++word) {
    float first[HEADS][WORD_ELEMENTS], second[HEADS][WORD_ELEMENTS];
#pragma unroll
    for (u32 head = 0; head < HEADS; ++head) {
      unpack(first[head], x[head][0].w[word]);
      unpack(second[head], x[head][1].w[word]);
    }
#pragma unroll
    for (u32 i = 0; i < WORD_ELEMENTS; ++i) {
      const u32 pair = word * WORD_ELEMENTS + i;
      const Words4 &two = frequencies[pair / 2];
      const Rotation by(u64(two.w[pair % 2 * 2 + 1]) << 32 | two.w[pair % 2 * 2], position);
#pragma unroll
      for (u32 head = 0; head < HEADS; ++head) {
        const float a = first[head][i], b = second[head][i];
        first[head][i] = a * by.cosine - b * by.sine;
        second[head][i] = b * by.cosine + a * by.sine;
      }
    }
#pragma unroll
    for (u32 head = 0; head < HEADS; ++head) {
      if (!turns[head]) continue;
      x[head][0].w[word] = packed(first[head]);
      x[head][1].w[word] = packed(second[head]);
    }
  }
}

KERNEL(THREADS, BLOCKS_PER_SM) rope_append(const __grid_constant__ Params p) {
  overlap_previous();
  const u32 index = blockIdx.x * THREADS + threadIdx.x;
  if (index >= p.threads) return;
  const u32 lane = index % HALF, group = index / HALF;
  const u32 request = p.groups.quotient(group);
  const u32 first_head = (group - request * p.groups.by) * HEADS;

  Words4 x[HEADS][2];
  const Words4 *from = p.qkv + (u64(request) * p.heads + first_head) * ROW + lane;
#pragma unroll
  for (u32 i = 0; i < HEADS; ++i) {
    if (i > 0 && first_head + i >= p.heads) continue;  // a group's first head is one
    x[i][0] = ld_global_nc_v4(from + i * ROW);
    x[i][1] = ld_global_nc_v4(from + i * ROW + HALF);
  }
  const u32 position = p.lengths.of(request) - 1;
  const u32 page = ld_global_nc_u32(p.page_table + u64(request) * p.pages +
                                    (WHOLE ? position / PAGE_SIZE : 0));
  Words4 frequencies[VECTOR_ELEMENTS / 2];
#pragma unroll
  for (u32 i = 0; i < VECTOR_ELEMENTS / 2; ++i)
    frequencies[i] = ld_global_nc_v4_kept(p.turns + lane * (VECTOR_ELEMENTS / 2) + i);

  const u32 turning = p.q_heads + p.kv_heads;
  bool turns[HEADS];
#pragma unroll
  for (u32 i = 0; i < HEADS; ++i) turns[i] = first_head + i < turning;
  if (turns[0]) rotate(x, turns, frequencies, position);

  const u32 in_page = position % PAGE_SIZE;
#pragma unroll
  for (u32 i = 0; i < HEADS; ++i) {
    const u32 head = first_head + i;
    if (i > 0 && head >= p.heads) continue;
    Words4 *to = p.q + (u64(request) * p.q_heads + head) * ROW;
    if (head >= p.q_heads) {
      const u32 kv_head = head - (turns[i] ? p.q_heads : turning);
      const u64 row = TOKEN_FIRST ? (u64(page) * PAGE_SIZE + in_page) * p.kv_heads + kv_head
                                  : (u64(page) * p.kv_heads + kv_head) * PAGE_SIZE + in_page;
      to = (turns[i] ? p.k : p.v) + row * ROW;
    }
    st_global_v4(to + lane, x[i][0]);
    st_global_v4(to + lane + HALF, x[i][1]);
  }
}
