// Split-KV: sequences whose cached tokens are divided among several blocks (see
// work_list.cuh). Each block keeps the softmax of the tokens of its split and the
// values weighted by it, and writes both as partial results; the sequence's last
// block combines them, or the blocks of clusters together.
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
  Softmax *softmaxes;  // [partial][rows]; of clusters see slice_softmaxes
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

// Lanes of a warp for each row: as many as there are, a power of two.
DEVICE constexpr u32 lanes_of_row(u32 threads, u32 rows) {
  u32 lanes = WARP;
  while (lanes > 1 && lanes * rows > threads) lanes /= 2;
  return lanes;
}

// Waits for all threads of the cluster.
DEVICE void sync_cluster() {
  __syncwarp();
  barrier_cluster_arrive();
  barrier_cluster_wait();
}

// Combines the splits of a sequence: calls write(row, vector, outputs, sum) for
// each vector of `count` rows from row `first` on, at most `most_rows`. All
// threads of the block call it. A single block has no others to cover the latency of
// its loads: every thread has as many partial outputs in flight as its share of the
// `bytes` of `buffer` holds, of all of its vectors, and the first are on their way
// while maxima and sums are computed.
template <u32 threads, u32 bytes, u32 most_rows, u32 rows, u32 vectors, typename Write,
          typename Sync = WholeBlock>
DEVICE void combine(const Partials<rows, vectors> &partials, const Split &split, u32 first,
                    u32 count, float scale, u8 *buffer, Write write, Sync sync = {}) {
  __shared__ Softmax of_row[most_rows];
  const u64 first_row = u64(split.first_partial) * rows + first;
  const Softmax *softmaxes = partials.softmaxes + first_row;
  const Floats4 *outputs = partials.outputs + first_row * vectors;

  // Every thread loads what it adds up itself, so no thread waits for another: of each of
  // its vectors all parts, two at a time, in batches that are halves of its slots.
  constexpr u32 PAIR = 2;
  constexpr u32 batch = bytes / sizeof(Floats4) / threads / (2 * PAIR);
  static_assert(batch > 0, "a pair of parts for each thread, twice");
  static_assert(most_rows <= threads, "a lane for each row");
  Floats4 *const slots = reinterpret_cast<Floats4 *>(buffer) + threadIdx.x;
  const auto slot = [&](u32 half, u32 pair, u32 i) {
    return slots + ((half * batch + pair) * PAIR + i) * threads;
  };
  const u32 end = count * vectors;
  // Held, since places that follow from them would be kept across all splits, and spill.
  u32 load_vector = held(threadIdx.x), load_part = 0;
  const auto load = [&](u32 half) {
#pragma unroll 1
    for (u32 pair = 0; pair < batch && load_vector < end; ++pair) {
#pragma unroll
      for (u32 i = 0; i < PAIR; ++i) {
        const bool exists = load_part + i < split.count;
        const u64 part = exists ? load_part + i : 0;
        cp_async_16(shared_address(slot(half, pair, i)), outputs + part * rows * vectors + load_vector,
                    exists ? sizeof(Floats4) : 0);
      }
      load_part += PAIR;
      if (load_part >= split.count) load_part = 0, load_vector += threads;
    }
    cp_async_commit_group();
  };
  load(0);
  load(1);

  // Maxima and sums: some lanes for each row, that take the splits in turn.
  constexpr u32 lanes = lanes_of_row(threads, most_rows);
  const u32 row_of_lane = threadIdx.x / lanes;
  const u32 splits = row_of_lane < count ? split.count : 0;
  float max = minus_infinity(), sum = 0;
#pragma unroll (Sync::SPLITS_AT_ONCE)
  for (u32 i = lane_index() % lanes; i < splits; i += lanes)
    max = fmaxf(max, softmaxes[i * rows + row_of_lane].max);
  max = max_of_lanes<lanes>(max);
#pragma unroll (Sync::SPLITS_AT_ONCE)
  for (u32 i = lane_index() % lanes; i < splits; i += lanes) {
    const Softmax part_softmax = softmaxes[i * rows + row_of_lane];
    sum += part_softmax.sum * weight_of(part_softmax.max, max, scale);
  }
  sum = sum_of_lanes<lanes>(sum);
  if (row_of_lane < count && lane_index() % lanes == 0) of_row[row_of_lane] = {max, sum};
  sync();

  // Outputs, in the order of parts.
  u32 vector = held(threadIdx.x), part = 0;
  Floats4 total = {};
#pragma unroll 1
  for (u32 half = 0; vector < end; half ^= 1) {
    cp_async_wait_group<1>();
#pragma unroll 1
    for (u32 pair = 0; pair < batch && vector < end; ++pair) {
      const u32 row = vector / vectors;
      float weight[PAIR];
#pragma unroll
      for (u32 i = 0; i < PAIR; ++i) {
        const bool exists = part + i < split.count;
        const float max = softmaxes[(exists ? part + i : part) * rows + row].max;
        weight[i] = exists ? weight_of(max, of_row[row].max, scale) : 0;
      }
#pragma unroll
      for (u32 i = 0; i < PAIR; ++i) {
        const Floats4 outputs_of_part = *slot(half, pair, i);
#pragma unroll
        for (u32 k = 0; k < 4; ++k) total.x[k] += outputs_of_part.x[k] * weight[i];
      }
      part += PAIR;
      if (part < split.count) continue;
      write(row, vector % vectors, total, of_row[row].sum);
      total = {}, part = 0, vector += threads;
    }
    load(half);
  }
  sync();
}

// --- Combining in clusters -----------------------------------------------------

// With CLUSTER > 1 the splits of a sequence are the blocks of clusters, CLUSTER of them
// each. Blocks of a cluster read each other's shared memory, and each combines a slice of the
// outputs. Where a sequence has one cluster, these are done. Else each block writes its
// slice as partial results of the cluster, and the last block of all clusters that has
// this slice combines them: as many blocks as a cluster has, each from its own ticket.

// The block's place in the work list, and its rows: clusters of the same splits and
// other rows follow one another.
template <u32 cluster, u32 row_tiles>
DEVICE u32 list_block() {
  return blockIdx.x / (cluster * row_tiles) * cluster + blockIdx.x % cluster;
}
template <u32 cluster, u32 row_tiles>
DEVICE u32 row_tile_of_block() {
  return blockIdx.x / cluster % row_tiles;
}

// The ticket of a sequence, or of a slice of it.
template <u32 cluster, u32 row_tiles>
DEVICE u32 *ticket_of(u32 *tickets, const Split &split, u32 row_tile) {
  return tickets + (split.first_partial * row_tiles + row_tile) * cluster + split.index % cluster;
}

// The vectors of `count` rows that a block of a cluster combines.
template <u32 cluster, u32 vectors>
struct Slice {
  u32 begin;
  u32 end;

  DEVICE Slice(const Split &split, u32 count) {
    const u32 all = count * vectors, share = ceil_div(all, cluster);
    begin = min_of(split.index % cluster * share, all);
    end = min_of(begin + share, all);
  }
};

// Softmaxes of clusters are [partial][slice][rows]: each slice has those of its rows.
template <u32 cluster, u32 rows, u32 vectors>
DEVICE Softmax *slice_softmaxes(const Partials<rows, vectors> &partials, const Split &split,
                                u32 part, u32 first) {
  const u64 slice = u64(split.first_partial + part) * cluster + split.index % cluster;
  return partials.softmaxes + slice * rows + first;
}

// Combines the splits of a cluster: calls write(row, vector, outputs, sum) for each vector of
// the block's slice of `count` rows from row `first` on, or writes partial results where
// the sequence has several clusters; all in the order of splits. `outputs` and `softmaxes` are
// the shared addresses of the block's own results, the same in all blocks, `row_bytes` is
// the distance of rows of outputs. All threads of all blocks call it, as many times, or
// all that have not ended.
template <u32 cluster, u32 threads, u32 rows, u32 vectors, typename Write>
DEVICE void combine_in_cluster(const Partials<rows, vectors> &partials, const Split &split,
                               u32 first, u32 count, u32 outputs, u32 row_bytes, u32 softmaxes,
                               float scale, Write write) {
  sync_cluster();
  const Slice<cluster, vectors> slice(split, count);
#pragma unroll 1
  for (u32 i = slice.begin + held(threadIdx.x); i < slice.end; i += threads) {
    const u32 row = i / vectors, vector = i % vectors;
    const u32 at = outputs + row * row_bytes + vector * u32(sizeof(Floats4));
    Softmax parts[cluster];
    Words4 words[cluster];
#pragma unroll
    for (u32 part = 0; part < cluster; ++part) {
      const Words2 softmax = ld_shared_cluster_v2(mapa(softmaxes + row * u32(sizeof(Softmax)), part));
      parts[part] = {__uint_as_float(softmax.w[0]), __uint_as_float(softmax.w[1])};
      words[part] = ld_shared_cluster_v4(mapa(at, part));
    }
    float max = minus_infinity(), sum = 0;
#pragma unroll
    for (u32 part = 0; part < cluster; ++part) max = fmaxf(max, parts[part].max);
    Floats4 total = {};
#pragma unroll
    for (u32 part = 0; part < cluster; ++part) {
      const float weight = weight_of(parts[part].max, max, scale);
      sum += parts[part].sum * weight;
#pragma unroll
      for (u32 k = 0; k < 4; ++k) total.x[k] += __uint_as_float(words[part].w[k]) * weight;
    }
    if (split.count == cluster) {
      write(row, vector, total, sum);
      continue;
    }
    const u32 part = split.index / cluster;
    partials.outputs[(u64(split.first_partial + part) * rows + first) * vectors + i] = total;
    if (i == slice.begin || vector == 0)
      slice_softmaxes<cluster>(partials, split, part, first)[row] = {max, sum};
  }
  // Others have read this block's results.
  sync_cluster();
}

// Combines the clusters of a sequence: calls write(row, vector, outputs, sum) for each vector
// of the block's slice of `count` rows from row `first` on. All threads call it, of the
// block that is the last with this slice. `buffer` is shared memory for the weights of all
// clusters and the sum, of each row of the slice.
template <u32 cluster, u32 threads, u32 rows, u32 vectors, typename Write,
          typename Sync = WholeBlock>
DEVICE void combine_clusters(const Partials<rows, vectors> &partials, const Split &split,
                             u32 first, u32 count, float scale, u8 *buffer, Write write,
                             Sync sync = {}) {
  const u32 parts = split.count / cluster, row_weights = parts + 1;
  const Slice<cluster, vectors> slice(split, count);
  const u32 first_row = slice.begin / vectors, end_row = ceil_div(slice.end, vectors);
  float *const weights = reinterpret_cast<float *>(buffer);

  // A warp for each row.
#pragma unroll 1
  for (u32 row = first_row + warp_index(); row < end_row; row += threads / WARP) {
    const auto softmax_of = [&](u32 part) {
      return slice_softmaxes<cluster>(partials, split, part, first)[row];
    };
    float *const of_row = weights + (row - first_row) * row_weights;
    float max = minus_infinity(), sum = 0;
#pragma unroll 1
    for (u32 part = lane_index(); part < parts; part += WARP) max = fmaxf(max, softmax_of(part).max);
    max = max_of_warp(max);
#pragma unroll 1
    for (u32 part = lane_index(); part < parts; part += WARP) {
      const Softmax softmax = softmax_of(part);
      const float weight = weight_of(softmax.max, max, scale);
      sum += softmax.sum * weight;
      of_row[part] = weight;
    }
    sum = sum_of_warp(sum);
    if (lane_index() == 0) of_row[parts] = sum;
  }
  sync();

  // Outputs, in the order of clusters; several loads of a thread are on their way.
#pragma unroll 1
  for (u32 i = slice.begin + held(threadIdx.x); i < slice.end; i += threads) {
    const u32 row = i / vectors;
    const float *const of_row = weights + (row - first_row) * row_weights;
    const Floats4 *const outputs =
        partials.outputs + (u64(split.first_partial) * rows + first) * vectors + i;
    Floats4 total = {};
#pragma unroll 4
    for (u32 part = 0; part < parts; ++part) {
      const Floats4 outputs_of_part = outputs[u64(part) * rows * vectors];
#pragma unroll
      for (u32 k = 0; k < 4; ++k) total.x[k] += outputs_of_part.x[k] * of_row[part];
    }
    write(row, i % vectors, total, of_row[parts]);
  }
  sync();
}
