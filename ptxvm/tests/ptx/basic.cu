// Small kernels that use one family of instructions each.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

__device__ __forceinline__ u64 splitmix(u64 x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

// 64-bit integer arithmetic.
extern "C" __global__ void fill(u64* out, u64 n, u64 seed) {
    u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x;
    if (i < n) out[i] = splitmix(seed ^ i) % 1000003 + i / 7;
}

struct Args {
    const float* x;
    float* y;
    float scale;
    int n;
    u16 half;
    unsigned char c[3];
};

// A parameter struct, float arithmetic, shuffles, static shared memory.
extern "C" __global__ void __launch_bounds__(128) reduce(const __grid_constant__ Args p) {
    __shared__ float part[4];
    float sum = 0;
    for (int i = blockIdx.x * 128 + threadIdx.x; i < p.n; i += gridDim.x * 128)
        sum += p.x[i] * p.scale;
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0)
        p.y[blockIdx.x] = part[0] + part[1] + part[2] + part[3] + p.half + p.c[1];
}

// The last block to finish combines what the others wrote.
extern "C" __global__ void last_block(const u32* x, u32* partial, u32* counter, u32* out) {
    __shared__ bool last;
    u32 value = x[blockIdx.x * blockDim.x + threadIdx.x];
    value = __reduce_add_sync(~0u, value);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = value;
        __threadfence();
        last = atomicAdd(counter, 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!last) return;
    u32 sum = 0;
    for (u32 i = threadIdx.x; i < gridDim.x; i += 32) sum += partial[i];
    sum = __reduce_add_sync(~0u, sum);
    if (threadIdx.x == 0) *out = sum;
}

// Divergent control flow: every thread leaves its loop at another time.
extern "C" __global__ void collatz(const u32* x, u32* out) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = x[i], steps = 0;
    while (n != 1) {
        n = n % 2 ? 3 * n + 1 : n / 2;
        steps++;
    }
    out[i] = steps;
}

// A switch, local memory, votes.
extern "C" __global__ void mixed(const int* x, int* out) {
    int i = threadIdx.x, v = x[i], r;
    int local[16];
    for (int j = 0; j < 16; j++) local[j] = v * j;
    switch (v & 7) {
        case 0: r = v + 1; break;
        case 1: r = v * 3; break;
        case 2: r = v ^ 5; break;
        case 3: r = v - 9; break;
        case 4: r = v << 2; break;
        case 5: r = v >> 1; break;
        case 6: r = ~v; break;
        default: r = -v;
    }
    r += local[x[(i + 1) % 32] & 15];
    r += __popc(__ballot_sync(~0u, v > 10)) + __any_sync(~0u, v == 3);
    out[i] = r;
}

// Two-level tree in dynamic shared memory.
extern "C" __global__ void transpose(const float* x, float* y, int n) {
    extern __shared__ float tile[];
    int bx = blockIdx.x * 32, by = blockIdx.y * 32;
    for (int j = threadIdx.y; j < 32; j += 8)
        if (by + j < n && bx + threadIdx.x < n)
            tile[j * 33 + threadIdx.x] = x[(by + j) * n + bx + threadIdx.x];
    __syncthreads();
    for (int j = threadIdx.y; j < 32; j += 8)
        if (bx + j < n && by + threadIdx.x < n)
            y[(bx + j) * n + by + threadIdx.x] = tile[threadIdx.x * 33 + j];
}
