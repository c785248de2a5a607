// Products of warpgroups and nothing else: the ceiling of the tensor cores of sm_90a, which
// mma.sync does not reach.
//
// Each lane of the problem is a 16 x 8 tile of sums. A block is one warpgroup with the tiles
// of a product of 64 rows and COLUMNS columns, COLUMNS / 2 lanes: warp w has the rows from
// 16 w on, and in them one lane for every eight columns. Operand b lies in shared memory, a
// there too or in registers (A_IN_REGISTERS), both in panels of 128 bytes a row: four
// slices, one for each of four products. The loop reads no other memory. Products follow
// one another without a wait: PRODUCTS of them are a group, and the next group is started
// before the one before it has ended. Only the values at the start and the end touch memory.
// The kernel is compute bound.
//
// Launch: a block of 128 threads for every COLUMNS / 2 lanes, (64 + COLUMNS) * 128 bytes of
// dynamic shared memory; two blocks fit on an SM.
#include "peak_operands.cuh"
#include "wgmma.cuh"

WGMMA(FORMAT, 128)
WGMMA(FORMAT, 256)

constexpr u32 WARPGROUP = 4 * WARP;
constexpr u32 ROWS = 64;
constexpr u32 ROW_BYTES = SLICES * SLICE_BYTES;
constexpr u32 CHUNK_BYTES = 16;
constexpr u32 CHUNKS = ROW_BYTES / CHUNK_BYTES;
constexpr u32 ATOM_BYTES = 8 * ROW_BYTES;
constexpr u32 A_BYTES = ROWS * ROW_BYTES;

static_assert(WARPGROUP / CHUNKS == 16, "small elements repeat every 16 rows and 8 columns");
static_assert(PRODUCTS % SLICES == 0, "a group begins with the first slice");

struct Params {
  const float *start;
  float *end;
  u64 lanes;
  u64 products;  // of each tile
  u32 data;
};

extern __shared__ __align__(1024) u8 operands[];

// Writes rows of a panel in swizzled chunks; `word` makes four bytes of a row. A thread's
// rows are 16 apart, and alike unless they are random.
template <typename Word>
DEVICE void fill(u32 panel, u32 rows, Data data, Word word) {
  constexpr u32 APART = WARPGROUP / CHUNKS;
  const u32 first = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  Words4 words;
  for (u32 row = first; row < rows; row += APART) {
    if (row == first || data == RANDOM) {
#pragma unroll
      for (u32 i = 0; i < 4; ++i)
        words.w[i] = word(row, (chunk * 4 + i) * Elements<FORMAT>::PER_WORD);
    }
    st_shared_v4(panel + row * ROW_BYTES + (chunk ^ row % 8) * CHUNK_BYTES, words);
  }
}

template <u32 COLUMNS>
DEVICE void products(const Params &p) {
  typedef Elements<FORMAT> E;
  typedef Wgmma<FORMAT, COLUMNS> Product;
  const Data data = static_cast<Data>(p.data);
  const u32 panel_a = shared_address(operands), panel_b = panel_a + A_BYTES;

  // Operands. What threads wrote is read by the tensor cores, asynchronously.
  fill(panel_b, COLUMNS, data,
       [&](u32 column, u32 k) { return E::word_b(data, k, column); });
#if A_IN_REGISTERS
  u32 a[SLICES][4];
#pragma unroll
  for (u32 slice = 0; slice < SLICES; ++slice)
    E::fragment_a(a[slice], data, slice, warp_index() * 16);
#else
  fill(panel_a, ROWS, data, [&](u32 row, u32 k) { return E::word_a(data, row, k); });
#endif
  fence_proxy_async_shared();
  __syncthreads();

  typename Product::Sum sums[COLUMNS / 2] = {};
  const auto multiply = [&](u32 slice) {
    const u64 b = panel_descriptor(panel_b, slice * SLICE_BYTES, 0, ATOM_BYTES);
#if A_IN_REGISTERS
    Product::rs(sums, a[slice], b, 1);
#else
    Product::ss(sums, panel_descriptor(panel_a, slice * SLICE_BYTES, 0, ATOM_BYTES), b, 1);
#endif
  };

  // Products: whole groups, then one by one. Each begins with a fence and ends its group, as
  // the assembler wants it where products of the same sums stand behind branches.
  pin(sums);
  u64 left = p.products;
#pragma unroll 1
  for (; left >= PRODUCTS; left -= PRODUCTS) {
    wgmma_fence();
#pragma unroll
    for (u32 i = 0; i < PRODUCTS; ++i) multiply(i % SLICES);
    wgmma_commit_group();
    wgmma_wait_group<1>();
  }
#pragma unroll
  for (u32 i = 0; i < PRODUCTS - 1; ++i) {
    if (i >= left) break;
    wgmma_fence();
    multiply(i % SLICES);
    wgmma_commit_group();
  }
  wgmma_wait_group<0>();
  pin(sums);

  // Sums.
  const u64 first = u64(blockIdx.x) * (COLUMNS / 2) + warp_index() * (COLUMNS / 8);
#pragma unroll
  for (u32 i = 0; i < COLUMNS / 8; ++i)
    if (first + i < p.lanes) write_tile(p.start, p.end, first + i, sums + 4 * i);
}

KERNEL(WARPGROUP, 2) peak_wgmma_128(const __grid_constant__ Params p) { products<128>(p); }
KERNEL(WARPGROUP, 2) peak_wgmma_256(const __grid_constant__ Params p) { products<256>(p); }
