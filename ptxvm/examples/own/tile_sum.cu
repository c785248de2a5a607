// Sums the rows of a matrix. Each block takes 8 rows, 64 columns at a time: the tensor
// memory accelerator of sm_90 copies boxes into two buffers while the threads add.

struct alignas(64) TensorMap { char bytes[128]; };

constexpr int ROWS = 8, COLUMNS = 64, STAGES = 2, THREADS = 64;

__device__ unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ void wait(unsigned barrier, unsigned parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra AGAIN;\n}" :: "r"(barrier), "r"(parity) : "memory");
}

__device__ void load(const TensorMap& map, float* tile, unsigned barrier, int column, int row) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(barrier), "n"(ROWS * COLUMNS * 4) : "memory");
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3}], [%4];"
                 :: "r"(shared_address(tile)), "l"(&map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS)
tile_sum(const __grid_constant__ TensorMap map, float* sums, int columns) {
    __shared__ alignas(128) float tile[STAGES][ROWS][COLUMNS];
    __shared__ alignas(8) unsigned long long barriers[STAGES];
    const int row = blockIdx.x * ROWS, mine = threadIdx.x / 8, lane = threadIdx.x % 8;
    if (threadIdx.x == 0) {
        for (auto& barrier : barriers)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_address(&barrier)));
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        for (int stage = 0; stage < STAGES; stage++)
            if (stage * COLUMNS < columns)
                load(map, tile[stage][0], shared_address(&barriers[stage]), stage * COLUMNS, row);
    }
    __syncthreads();
    float sum = 0;
    for (int step = 0; step * COLUMNS < columns; step++) {
        const int stage = step % STAGES;
        wait(shared_address(&barriers[stage]), step / STAGES % 2);
        for (int i = lane; i < COLUMNS; i += 8) sum += tile[stage][mine][i];
        __syncthreads();
        if (threadIdx.x == 0 && (step + STAGES) * COLUMNS < columns)
            load(map, tile[stage][0], shared_address(&barriers[stage]),
                 (step + STAGES) * COLUMNS, row);
    }
    for (int step = 4; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (lane == 0) sums[row + mine] = sum;
}
