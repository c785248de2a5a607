// Split-KV: sequences whose cached tokens are divided among several blocks (see
// work_list.cuh). Each block keeps the softmax of the tokens of its split and the
// values weighted by it, and writes both as partial results; the sequence's last
// block combines them, or the blocks of clusters together.
#pragma once
#include "element.cuh"
#include "last_block.cuh"
#include "mbarrier.cuh"
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

// With CLUSTER > 1 the splits of a sequence are the blocks of clusters, CLUSTER of them each,
// with one split. Each block combines a slice of the outputs, of which every other gives it its
// own: stores to the other's shared memory, asynchronously, whose bytes an mbarrier there counts.
// So blocks wait for data and not for one another, and need no fence: a barrier of the cluster
// that orders memory waits for all accesses to memory of each warp.
//
// Where a sequence has one cluster, slices are then done. Else each block writes its slice as
// partial results of the cluster, and the last block of all clusters that has this slice
// combines them: as many blocks as a cluster has, each from its own ticket.

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

// The vectors of `count` rows, of at most `most_rows`, that a block of a cluster combines: whole
// rows unless there are fewer than blocks.
template <u32 cluster, u32 most_rows, u32 vectors>
struct Slice {
  static constexpr u32 ROWS = most_rows < cluster ? 0 : ceil_div(most_rows, cluster);
  static constexpr u32 MOST = ROWS > 0 ? ROWS * vectors : ceil_div(most_rows * vectors, cluster);
  u32 begin;
  u32 end;

  DEVICE Slice(u32 rank, u32 count) {
    const u32 all = count * vectors;
    begin = min_of(rank * MOST, all);
    end = min_of(begin + MOST, all);
  }
};

// Softmaxes of clusters are [partial][slice][rows]: each slice has those of its rows.
template <u32 cluster, u32 rows, u32 vectors>
DEVICE Softmax *slice_softmaxes(const Partials<rows, vectors> &partials, const Split &split,
                                u32 part, u32 first) {
  const u64 slice = u64(split.first_partial + part) * cluster + split.index % cluster;
  return partials.softmaxes + slice * rows + first;
}

// mbarriers of a block for what the blocks of its cluster give it.
struct ExchangeBarriers {
  u64 ready;     // every block has room
  u64 received;  // all that every block gives has arrived

  DEVICE void init(u32 cluster) {
    mbarrier_init(shared_address(&ready), cluster);
    mbarrier_init(shared_address(&received), 1);
    fence_mbarrier_init();
  }

  // Makes them and says so to the other blocks. All threads call it, and barrier_cluster_wait
  // before their first exchange: so much later that none waits.
  DEVICE void announce(u32 cluster) {
    if (threadIdx.x == 0) init(cluster);
    __syncwarp();
    barrier_cluster_arrive_relaxed();
  }
};

// Where a block receives results, its own among them: of each block the outputs of this one's
// slice, and the softmaxes of all rows.
template <u32 cluster, u32 most_rows, u32 vectors>
struct Room {
  Floats4 outputs[cluster][Slice<cluster, most_rows, vectors>::MOST];
  Softmax softmaxes[cluster][most_rows];
};

// The exchange of results of `count` rows from row `first` on. Blocks do the same number of
// them, with the same rows and rooms at the same address. Before the first, all threads of the
// cluster have met after `init`: mbarriers are then known.
template <u32 cluster, u32 threads, u32 most_rows, u32 rows, u32 vectors>
struct ClusterExchange {
  typedef Slice<cluster, most_rows, vectors> SliceOfBlock;
  class Row;
  const Split &split;
  ExchangeBarriers &barriers;
  Room<cluster, most_rows, vectors> &room;
  u32 first;
  u32 count;
  u32 parity;  // of the number of exchanges before

  // Says to all blocks that this one has room. The first threads call it, one for each block, after
  // a barrier behind which none uses what lay there.
  DEVICE void begin() const {
    const SliceOfBlock slice(cluster_ctarank(), count);
    const u32 thread = held(threadIdx.x);
    if (thread == 0)
      mbarrier_arrive_expect_tx(
          shared_address(&barriers.received),
          cluster * ((slice.end - slice.begin) * sizeof(Floats4) + count * sizeof(Softmax)));
    if (thread < cluster)
      mbarrier_arrive_cluster_unordered(mapa(shared_address(&barriers.ready), thread));
  }

  // Waits until all blocks have room. All threads call it that give.
  DEVICE void wait_ready() const { wait(shared_address(&barriers.ready), parity); }

  // A row of this block's outputs.
  DEVICE Row row(u32 row) const { return Row(*this, row); }

  // Gives the softmax of a row to a block.
  DEVICE void give_softmax(u32 row, u32 block, Softmax x) const {
    const float softmax[] = {x.max, x.sum};
    st_async_v2(mapa(shared_address(&room.softmaxes[cluster_ctarank()][row]), block), softmax,
                mapa(shared_address(&barriers.received), block));
  }

  // Combines what has been given: calls write(row, vector, outputs, sum) for each vector of the
  // block's slice, or writes partial results where the sequence has several clusters; all in the
  // order of splits. All threads call it.
  template <typename Write>
  DEVICE void combine(const Partials<rows, vectors> &partials, float scale, Write write) const {
    wait(shared_address(&barriers.received), parity);
    const SliceOfBlock slice(cluster_ctarank(), count);
#pragma unroll 1
    for (u32 i = slice.begin + held(threadIdx.x); i < slice.end; i += threads) {
      const u32 row = i / vectors, vector = i % vectors;
      Softmax softmaxes[cluster];
      float max = minus_infinity(), sum = 0;
#pragma unroll
      for (u32 part = 0; part < cluster; ++part) {
        softmaxes[part] = room.softmaxes[part][row];
        max = fmaxf(max, softmaxes[part].max);
      }
      Floats4 total = {};
#pragma unroll
      for (u32 part = 0; part < cluster; ++part) {
        const Floats4 outputs = room.outputs[part][i - slice.begin];
        const float weight = weight_of(softmaxes[part].max, max, scale);
        sum += softmaxes[part].sum * weight;
#pragma unroll
        for (u32 k = 0; k < 4; ++k) total.x[k] += outputs.x[k] * weight;
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
  }
};

// A row of outputs that a block gives to the blocks that combine them.
template <u32 cluster, u32 threads, u32 most_rows, u32 rows, u32 vectors>
class ClusterExchange<cluster, threads, most_rows, rows, vectors>::Row {
  const ClusterExchange &exchange;
  u32 row;
  // Of a row that one block combines, where its outputs go, and the mbarrier that counts them.
  u32 address;
  u32 received;

  static constexpr bool WHOLE = SliceOfBlock::ROWS > 0;

  DEVICE void find(u32 owner, u32 vector_of_slice) {
    address = mapa(shared_address(&exchange.room.outputs[cluster_ctarank()][vector_of_slice]), owner);
    received = mapa(shared_address(&exchange.barriers.received), owner);
  }

  // Where outputs from a column on go.
  DEVICE u32 place(u32 column) {
    if (WHOLE) return address + column * u32(sizeof(float));
    const u32 i = row * vectors + column / 4;
    find(i / SliceOfBlock::MOST, i % SliceOfBlock::MOST);
    return address + column % 4 * u32(sizeof(float));
  }

 public:
  DEVICE Row(const ClusterExchange &exchange, u32 row) : exchange(exchange), row(row) {
    constexpr u32 rows_of_slice = max_of(SliceOfBlock::ROWS, 1u);
    if (WHOLE) find(row / rows_of_slice, row % rows_of_slice * vectors);
  }

  // Gives four outputs, from a multiple of four columns on.
  DEVICE void give(u32 column, const Floats4 &x) {
    const u32 to = place(column);
    st_async_v4(to, x.x, received);
  }

  // Gives two.
  DEVICE void give(u32 column, const Floats2 &x) {
    const u32 to = place(column);
    st_async_v2(to, x.x, received);
  }
};

// Combines the clusters of a sequence: calls write(row, vector, outputs, sum) for each vector
// of the block's slice of `count` rows from row `first` on. All threads call it, of the
// block that is the last with this slice. `buffer` is shared memory for the weights of all
// clusters and the sum, of each row of the slice.
template <u32 cluster, u32 threads, u32 most_rows, u32 rows, u32 vectors, typename Write,
          typename Sync = WholeBlock>
DEVICE void combine_clusters(const Partials<rows, vectors> &partials, const Split &split,
                             u32 first, u32 count, float scale, u8 *buffer, Write write,
                             Sync sync = {}) {
  const u32 parts = split.count / cluster, row_weights = parts + 1;
  const Slice<cluster, most_rows, vectors> slice(split.index % cluster, count);
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
