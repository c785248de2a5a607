#include <cuda/pipeline>
#include <cuda/barrier>
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
namespace cg = cooperative_groups;
extern "C" __global__ void piped(const float* x, float* y, int tiles) {
    __shared__ alignas(16) float tile[2][128];
    auto block = cg::this_thread_block();
    __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
    auto pipe = cuda::make_pipeline(block, &state);
    float sum = 0;
    for (int next = 0, t = 0; t < tiles; t++) {
        for (; next < tiles && next < t + 2; next++) {
            pipe.producer_acquire();
            cuda::memcpy_async(block, tile[next % 2], x + next * 128, sizeof(float) * 128, pipe);
            pipe.producer_commit();
        }
        pipe.consumer_wait();
        sum += tile[t % 2][127 - threadIdx.x];
        pipe.consumer_release();
    }
    y[threadIdx.x] = sum;
}
extern "C" __global__ void waited(const float* x, float* y) {
    __shared__ alignas(16) float tile[128];
    auto block = cg::this_thread_block();
    cg::memcpy_async(block, tile, x, sizeof(float) * 128);
    cg::wait(block);
    y[threadIdx.x] = tile[127 - threadIdx.x];
}
extern "C" __global__ void barred(const int* x, int* y) {
    __shared__ cuda::barrier<cuda::thread_scope_block> bar;
    __shared__ int tile[128];
    if (threadIdx.x == 0) init(&bar, blockDim.x);
    __syncthreads();
    for (int i = 0; i < 3; i++) {
        tile[threadIdx.x] = x[threadIdx.x] + i;
        auto token = bar.arrive();
        bar.wait(std::move(token));
        y[i * 128 + threadIdx.x] = tile[(threadIdx.x + 1) % 128];
        bar.arrive_and_wait();
    }
}
