// Threads, blocks and clusters that wait for one another.
typedef unsigned int u32;
typedef unsigned long long u64;
#define DEVICE __device__ __forceinline__
DEVICE u32 shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// Each block adds to what the block before it left.
extern "C" __global__ void chain(u32* flags, u32* values) {
    if (threadIdx.x == 0) {
        u32 b = blockIdx.x, seen;
        if (b > 0) do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(flags + b - 1) : "memory");
            while (!seen);
        values[b] = (b > 0 ? values[b - 1] : 0) + b;
        asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(flags + b), "r"(1) : "memory");
    }
}

// All blocks meet in the middle.
extern "C" __global__ void grid_barrier(u32* counter, u32* a, u32* b) {
    a[blockIdx.x * 32 + threadIdx.x] = blockIdx.x + threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1);
        while (*(volatile u32*)counter < gridDim.x) {}
        __threadfence();
    }
    __syncthreads();
    u32 other = (blockIdx.x + 1) % gridDim.x;
    b[blockIdx.x * 32 + threadIdx.x] = a[other * 32 + threadIdx.x];
}

// Copies whose completion an mbarrier shows.
extern "C" __global__ void copies(const u32* x, u32* y, int rounds) {
    __shared__ __align__(16) u32 tile[2][128];
    __shared__ __align__(8) u64 full[2];
    if (threadIdx.x < 2) asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(&full[threadIdx.x])), "r"(32));
    __syncthreads();
    for (int r = 0; r < rounds; r++) {
        u32 s = r % 2;
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(shared(&tile[s][threadIdx.x * 4])), "l"(x + r * 128 + threadIdx.x * 4) : "memory");
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared(&full[s])) : "memory");
        asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.test_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(shared(&full[s])), "r"(r / 2 % 2) : "memory");
        y[r * 32 + threadIdx.x] = tile[s][threadIdx.x] + tile[s][127 - threadIdx.x];
        __syncthreads();
    }
}

// Blocks of a cluster pass a token on by arriving at each other's mbarriers.
extern "C" __global__ void __cluster_dims__(4, 1, 1) ring(u32* out, int rounds) {
    __shared__ u32 token;
    __shared__ __align__(8) u64 bar;
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared(&bar)), "r"(1));
        asm volatile("fence.mbarrier_init.release.cluster;");
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (threadIdx.x == 0) {
        u32 next = (rank + 1) % 4, to, there;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared(&token)), "r"(next));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared(&bar)), "r"(next));
        for (int r = 0; r < rounds; r++) {
            u32 value = 0;
            if (rank > 0 || r > 0) {
                u32 parity = (rank > 0 ? r : r - 1) % 2;
                asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(shared(&bar)), "r"(parity) : "memory");
                value = token;
            }
            asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(to), "r"(value + 1) : "memory");
            asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
            out[rank * rounds + r] = value;
        }
    }
    asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Exchanges within a warp.
extern "C" __global__ void exchange(const u32* x, u32* y) {
    u32 t = threadIdx.x, v = x[t], r = 0;
    y[t] = __shfl_up_sync(~0u, v, 3);
    y[32 + t] = __shfl_down_sync(~0u, v, 5, 8);
    y[64 + t] = __shfl_sync(~0u, v, v & 31);
    y[96 + t] = __match_any_sync(~0u, v % 3);
    y[128 + t] = __reduce_max_sync(~0u, v);
    y[160 + t] = __reduce_xor_sync(0xffff0000u >> (t < 16 ? 16 : 0), v);
    if (t % 2) r = __ballot_sync(0xaaaaaaaau, v > 16); else r = __ballot_sync(0x55555555u, v > 16);
    y[192 + t] = r;
    y[224 + t] = __syncthreads_count(v > 16) + 100 * __syncthreads_or(v == 77) + 1000 * __syncthreads_and(v < 500);
}

// Atomics on shared and global memory.
extern "C" __global__ void atomics(u32* g, float* f, u64* w) {
    __shared__ u32 bins[4];
    u32 t = threadIdx.x;
    if (t < 4) bins[t] = 0;
    __syncthreads();
    atomicAdd(&bins[t % 4], t);
    __syncthreads();
    if (t < 4) atomicAdd(&g[t], bins[t]);
    atomicMax(&g[4], blockIdx.x * blockDim.x + t);
    atomicMin((int*)&g[5], -(int)t);
    atomicOr(&g[6], 1u << (t % 32));
    atomicInc(&g[7], 9);
    atomicAdd(f, 0.5f);
    atomicAdd(w, 0x100000001ull);
    u32 old = 0;
    while (atomicCAS(&g[8], old, old + 1) != old) old++;
}

// Matrices of 8 x 8 through shared memory, straight and transposed.
extern "C" __global__ void matrices(u32* y) {
    __shared__ __align__(128) unsigned short tile[64];
    u32 t = threadIdx.x, a, b, c;
    tile[t] = t;
    tile[t + 32] = t + 32;
    __syncwarp();
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(a) : "r"(shared(tile) + t % 8 * 16) : "memory");
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(b) : "r"(shared(tile) + t % 8 * 16) : "memory");
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(c) : "r"(a));
    y[t] = a;
    y[32 + t] = b;
    y[64 + t] = c;
    __syncwarp();
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(shared(tile) + t % 8 * 16), "r"(a) : "memory");
    __syncwarp();
    y[96 + t] = tile[2 * t] | tile[2 * t + 1] << 16;
}

// All threads leave something, one of them says so, and the last block reads it all.
extern "C" __global__ void publish(u32* counter, u32* parts, u32* out) {
    __shared__ u32 last;
    parts[blockIdx.x * 64 + threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0)
        asm volatile("atom.global.acq_rel.gpu.add.u32 %0, [%1], 1;" : "=r"(last) : "l"(counter) : "memory");
    __syncthreads();
    if (last != gridDim.x - 1) return;
    u32 sum = 0;
    for (u32 b = 0; b < gridDim.x; b++) sum += parts[b * 64 + 63 - threadIdx.x];
    out[threadIdx.x] = sum;
    if (threadIdx.x == 0) *counter = 0;
}
