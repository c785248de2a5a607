#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
extern "C" __global__ void groups(const int* x, int* y) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<32>(block);
    auto small = cg::tiled_partition<8>(tile);
    int v = x[block.thread_rank()];
    int sum = cg::reduce(tile, v, cg::plus<int>());
    int most = cg::reduce(small, v, cg::greater<int>());
    int scan = cg::inclusive_scan(tile, v);
    auto active = cg::coalesced_threads();
    int odd = 0;
    if (v & 1) { auto g = cg::coalesced_threads(); odd = cg::reduce(g, v, cg::plus<int>()); }
    y[block.thread_rank()] = sum + 3 * most + 5 * scan + 7 * odd + active.size();
}
extern "C" __global__ void grid_sum(const int* x, int* parts, int* y) {
    auto grid = cg::this_grid();
    auto block = cg::this_thread_block();
    __shared__ int total;
    if (block.thread_rank() == 0) total = 0;
    block.sync();
    atomicAdd(&total, x[grid.thread_rank()]);
    block.sync();
    if (block.thread_rank() == 0) parts[blockIdx.x] = total;
    grid.sync();
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += parts[i];
    y[grid.thread_rank()] = sum;
}
