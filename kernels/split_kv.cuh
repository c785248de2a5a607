// Split-KV: sequences whose cached tokens are divided among several blocks (see
// work_list.cuh). Each block keeps the softmax of the tokens of its split and the
// values weighted by it, and writes both as partial results; the sequence's last
// block combines them.
#pragma once
#include "element.cuh"
#include "last_block.cuh"
#include "reduce.cuh"
#include "work_list.cuh"

// Maximum of the scores, and sum of the attention weights relative to it.
struct alignas(8) Softmax {
  float max;
  float sum;
};

// Partial results of splits: of `rows` rows, `vectors` times four outputs each.
template <u32 rows, u32 vectors>
struct Partials {
  Floats4 *outputs;    // [partial][rows][vectors], not divided by the sum
  Softmax *softmaxes;  // [partial][rows]
};

// --- Weights and outputs -----------------------------------------------------

// 2^((max - of) scale): the weight of a part with the maximum `max` where the maximum of
// all parts is `of`. Zero for a part without tokens.
DEVICE float weight_of(float max, float of, float scale) {
  return max == minus_infinity() ? 0 : ex2_approx((max - of) * scale);
}

// What outputs are multiplied by in the end, where the attention weights add up to
// `sum`; zero where there was no token.
DEVICE float factor_of(float sum) { return sum > 0 ? rcp_approx(sum) : 0; }

// Four outputs of a row times a factor, packed as they are stored.
DEVICE Words2 pack_outputs(Floats4 x, float factor) {
  return {pack(x.x[0] * factor, x.x[1] * factor), pack(x.x[2] * factor, x.x[3] * factor)};
}

// --- Combining splits ----------------------------------------------------------

// Combines the splits of a sequence: calls write(row, vector, outputs, sum) for
// each vector of `count` rows from row `first` on, at most `most_rows`. All
// threads of the block call it. `buffer` takes as many partial outputs at a time
// as fit its `bytes`: a single block has no others to cover the latency.
template <u32 threads, u32 bytes, u32 most_rows, u32 rows, u32 vectors, typename Write,
          typename Sync = WholeBlock>
DEVICE void combine(const Partials<rows, vectors> &partials, const Split &split, u32 first,
                    u32 count, float scale, u8 *buffer, Write write, Sync sync = {}) {
  __shared__ Softmax of_row[most_rows];
  const u64 first_row = u64(split.first_partial) * rows + first;
  const Softmax *softmaxes = partials.softmaxes + first_row;
  const Floats4 *outputs = partials.outputs + first_row * vectors;

  // Maxima and sums: a warp for each row, a lane for each split.
  for (u32 row = warp_index(); row < count; row += threads / WARP) {
    float max = minus_infinity(), sum = 0;
    for (u32 i = lane_index(); i < split.count; i += WARP)
      max = fmaxf(max, softmaxes[i * rows + row].max);
    max = max_of_warp(max);
    for (u32 i = lane_index(); i < split.count; i += WARP) {
      const Softmax part = softmaxes[i * rows + row];
      sum += part.sum * weight_of(part.max, max, scale);
    }
    sum = sum_of_warp(sum);
    if (lane_index() == 0) of_row[row] = {max, sum};
  }
  sync();

  // Outputs: every thread loads what it adds up itself, so no thread waits for another.
  constexpr u32 batch = bytes / sizeof(Floats4) / threads;
  Floats4 *parts = reinterpret_cast<Floats4 *>(buffer) + threadIdx.x;
  for (u32 i = threadIdx.x; i < count * vectors; i += threads) {
    const u32 row = i / vectors;
    const Softmax all = of_row[row];
    Floats4 total = {};
    for (u32 from = 0; from < split.count; from += batch) {
      const u32 fetched = min_of<u32>(batch, split.count - from);
      for (u32 j = 0; j < fetched; ++j)
        cp_async_16(shared_address(parts + j * threads),
                    outputs + u64(from + j) * rows * vectors + i);
      cp_async_commit_group();
      cp_async_wait_group<0>();
      for (u32 j = 0; j < fetched; ++j) {
        const float max = softmaxes[(from + j) * rows + row].max;
        const float weight = weight_of(max, all.max, scale);
        const Floats4 part = parts[j * threads];
#pragma unroll
        for (u32 k = 0; k < 4; ++k) total.x[k] += part.x[k] * weight;
      }
    }
    write(row, i % vectors, total, all.sum);
  }
  sync();
}
