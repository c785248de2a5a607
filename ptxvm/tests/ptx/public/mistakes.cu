// One mistake each; ../../../README.md has what finds it.
extern "C" __global__ void past_the_end(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[i];
}
extern "C" __global__ void misaligned(const float* x, float* y) {
    const float4 v = *reinterpret_cast<const float4*>(x + 1);
    y[threadIdx.x] = v.x + v.w;
}
extern "C" __global__ void past_shared(const float* x, float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x + 1] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void no_barrier(const float* x, float* y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = tile[127 - threadIdx.x];
}
extern "C" __global__ void unwritten_global(const float* x, float* y) {
    y[threadIdx.x] = x[threadIdx.x] + 1;
}
extern "C" __global__ void unwritten_shared(const float* x, float* y) {
    __shared__ float tile[128];
    if (threadIdx.x < 100) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" __global__ void divergent_barrier(const float* x, float* y) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    if (threadIdx.x < 96) __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
extern "C" __global__ void blocks_race(float* y) {
    if (threadIdx.x == 0) *y = blockIdx.x;
}
extern "C" __global__ void never_arrives(float* y) {
    __shared__ alignas(8) unsigned long long barrier;
    unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(&barrier));
    if (threadIdx.x == 0) asm volatile("mbarrier.init.shared::cta.b64 [%0], 33;" :: "r"(at));
    __syncthreads();
    asm volatile("{\n.reg .b64 t;\n.reg .pred done;\n"
                 "mbarrier.arrive.shared::cta.b64 t, [%0];\nAGAIN:\n"
                 "mbarrier.test_wait.shared::cta.b64 done, [%0], t;\n@!done bra AGAIN;\n}"
                 :: "r"(at) : "memory");
    y[threadIdx.x] = 1;
}
