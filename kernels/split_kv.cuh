// Split-KV: sequences whose cached tokens several blocks share (see
// work_list.cuh). Each block keeps the softmax of the tokens it has seen and the
// values weighted by it, and leaves both for the sequence's last block, which
// combines them.
#pragma once
#include "element.cuh"
#include "last_block.cuh"
#include "work_list.cuh"

// Largest score and sum of weights relative to it.
struct alignas(8) Softmax {
  float max;
  float sum;
};

// What pieces of sequences leave: of `rows` rows, `vectors` times four outputs.
template <u32 rows, u32 vectors>
struct Partials {
  Floats4 *outputs;    // [slot][rows][vectors], not divided by the sum
  Softmax *softmaxes;  // [slot][rows]
};

// --- Reductions --------------------------------------------------------------

// Over so many lanes side by side, in all of them.
template <u32 lanes>
DEVICE float max_of_lanes(float x) {
#pragma unroll
  for (u32 apart = 1; apart < lanes; apart *= 2)
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

template <u32 lanes>
DEVICE float sum_of_lanes(float x) {
#pragma unroll
  for (u32 apart = 1; apart < lanes; apart *= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// Over the four lanes that share rows of a matrix.
DEVICE float max_of_quad(float x) { return max_of_lanes<4>(x); }
DEVICE float sum_of_quad(float x) { return sum_of_lanes<4>(x); }

// Over the warp.
DEVICE float max_of_warp(float x) { return max_of_lanes<WARP>(x); }
DEVICE float sum_of_warp(float x) { return sum_of_lanes<WARP>(x); }

// --- Weights and outputs -----------------------------------------------------

// 2^((max - of) scale): what a part that has seen `max` counts for where all of
// them have seen `of`. Nothing, where it has seen no token.
DEVICE float weight_of(float max, float of, float scale) {
  return max == minus_infinity() ? 0 : ex2_approx((max - of) * scale);
}

// What outputs are multiplied by in the end, where weights add up to `sum`;
// zero, where there was no token.
DEVICE float factor_of(float sum) { return sum > 0 ? rcp_approx(sum) : 0; }

// Four outputs of a row times a factor, as they are written.
DEVICE Words2 pack_outputs(Floats4 x, float factor) {
  return {pack(x.x[0] * factor, x.x[1] * factor), pack(x.x[2] * factor, x.x[3] * factor)};
}

// --- From pieces to a sequence -----------------------------------------------

// Combines the pieces of a sequence: calls write(row, vector, outputs, sum) for
// each vector of `count` rows from number `first` on, up to `most_rows`. All
// threads of the block call it. `buffer` takes as many partial outputs at a time
// as fit its `bytes`: one block alone has no others to cover the latency.
template <u32 threads, u32 bytes, u32 most_rows, u32 rows, u32 vectors, typename Write,
          typename Sync = WholeBlock>
DEVICE void combine(const Partials<rows, vectors> &partials, const Piece &piece, u32 first,
                    u32 count, float scale, u8 *buffer, Write write, Sync sync = {}) {
  __shared__ Softmax of_row[most_rows];
  const u64 first_row = u64(piece.first_slot) * rows + first;
  const Softmax *softmaxes = partials.softmaxes + first_row;
  const Floats4 *outputs = partials.outputs + first_row * vectors;

  // Largest scores and sums: a warp for each row, a lane for each piece.
  for (u32 row = warp_index(); row < count; row += threads / WARP) {
    float max = minus_infinity(), sum = 0;
    for (u32 split = lane_index(); split < piece.splits; split += WARP)
      max = fmaxf(max, softmaxes[split * rows + row].max);
    max = max_of_warp(max);
    for (u32 split = lane_index(); split < piece.splits; split += WARP) {
      const Softmax part = softmaxes[split * rows + row];
      sum += part.sum * weight_of(part.max, max, scale);
    }
    sum = sum_of_warp(sum);
    if (lane_index() == 0) of_row[row] = {max, sum};
  }
  sync();

  // Outputs: every thread fetches what it adds up, so none waits for another.
  constexpr u32 batch = bytes / sizeof(Floats4) / threads;
  Floats4 *parts = reinterpret_cast<Floats4 *>(buffer) + threadIdx.x;
  for (u32 i = threadIdx.x; i < count * vectors; i += threads) {
    const u32 row = i / vectors;
    const Softmax all = of_row[row];
    Floats4 total = {};
    for (u32 from = 0; from < piece.splits; from += batch) {
      const u32 fetched = min_of<u32>(batch, piece.splits - from);
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
