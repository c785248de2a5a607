// What sm_90 adds: mbarriers, bulk and tensor copies, wgmma, clusters.
typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
struct alignas(64) Map { char bytes[128]; };

#define DEVICE __device__ __forceinline__
DEVICE u32 shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }
DEVICE void init(u32 bar, u32 count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count)); }
DEVICE void init_fence() { asm volatile("fence.mbarrier_init.release.cluster;"); }
DEVICE void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void expect(u32 bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
DEVICE void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEVICE void wait(u32 bar, u32 parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(bar), "r"(parity) : "memory");
}
DEVICE void load2d(u32 to, const Map* map, int x, int y, u32 bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
DEVICE u32 rank() { u32 r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// A row of bytes in, one added, and out again, all by bulk copies.
extern "C" __global__ void bulk_copy(const u32* x, u32* y) {
    __shared__ __align__(128) u32 tile[256];
    __shared__ __align__(8) u64 bar;
    if (threadIdx.x == 0) { init(shared(&bar), 1); init_fence(); }
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(shared(&bar), 1024);
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared(tile)), "l"(x + blockIdx.x * 256), "r"(1024), "r"(shared(&bar)) : "memory");
    }
    wait(shared(&bar), 0);
    for (int i = threadIdx.x; i < 256; i += blockDim.x) tile[i] += 1;
    proxy_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(y + blockIdx.x * 256), "r"(shared(tile)), "r"(1024) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
    }
}

// A box of a tensor of three dimensions, copied to and fro with its edges outside.
extern "C" __global__ void box(const __grid_constant__ Map from, const __grid_constant__ Map to, int x, int y, int z) {
    __shared__ __align__(1024) unsigned char tile[8192];
    __shared__ __align__(8) u64 bar;
    if (threadIdx.x == 0) {
        init(shared(&bar), 1);
        init_fence();
        expect(shared(&bar), 8192);
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared(tile)), "l"(&from), "r"(x), "r"(y), "r"(z), "r"(shared(&bar)) : "memory");
        wait(shared(&bar), 0);
        asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(&to), "r"(x), "r"(y), "r"(z), "r"(shared(tile)) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
    }
}

#define STAGES 2
#define A_BYTES 8192
#define B_BYTES 8192

DEVICE u64 descriptor(u32 address, u32 leading, u32 stride) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)1 << 62;
}
#define D16(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define D32(d) D16(d), D16((d + 16))
#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

template <int TRANSPOSE> DEVICE void mma64(float* d, u64 a, u64 b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, %32, %33, p, 1, 1, 0, %35;\n}" : D32(d) : "l"(a), "l"(b), "r"(keep), "n"(TRANSPOSE));
}

// C[64, 64] = A[64, K] * B, B as [64, K] or, transposed, as [K, 64]: a producer warp
// with a ring of two stages, and a consumer warpgroup.
template <int TRANSPOSE> DEVICE void product(const Map* a, const Map* b, float* c, int k) {
    extern __shared__ __align__(1024) unsigned char smem[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) { init(shared(&full[s]), 1); init(shared(&empty[s]), 4); }
        init_fence();
    }
    __syncthreads();
    int steps = k / 64;
    if (threadIdx.x >= 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 128)
            for (int s = 0; s < steps; s++) {
                u32 stage = s % STAGES, base = shared(smem) + stage * (A_BYTES + B_BYTES);
                wait(shared(&empty[stage]), s / STAGES % 2 ^ 1);
                expect(shared(&full[stage]), A_BYTES + B_BYTES);
                load2d(base, a, s * 64, 0, shared(&full[stage]));
                if (TRANSPOSE) load2d(base + A_BYTES, b, 0, s * 64, shared(&full[stage]));
                else load2d(base + A_BYTES, b, s * 64, 0, shared(&full[stage]));
            }
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[32];
    for (int i = 0; i < 32; i++) d[i] = 0;
    for (int s = 0; s < steps; s++) {
        u32 stage = s % STAGES, base = shared(smem) + stage * (A_BYTES + B_BYTES);
        wait(shared(&full[stage]), s / STAGES % 2);
        for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
        u64 da = descriptor(base, 16, 1024), db = descriptor(base + A_BYTES, TRANSPOSE ? 8192 : 16, 1024);
        for (int j = 0; j < 4; j++) mma64<TRANSPOSE>(d, da + 2 * j, db + (TRANSPOSE ? 128 : 2) * j, 1);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
        if (threadIdx.x % 32 == 0) arrive(shared(&empty[stage]));
    }
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < 32; i++) {
        int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
        c[row * 64 + col] = d[i];
    }
}
extern "C" __global__ void __launch_bounds__(256) product_nt(const __grid_constant__ Map a, const __grid_constant__ Map b, float* c, int k) { product<0>(&a, &b, c, k); }
extern "C" __global__ void __launch_bounds__(256) product_nn(const __grid_constant__ Map a, const __grid_constant__ Map b, float* c, int k) { product<1>(&a, &b, c, k); }

// A in registers, from global memory; B [8, 16] without a swizzle.
extern "C" __global__ void __launch_bounds__(128) product_rs(const u32* a, const u32* b, float* c) {
    __shared__ __align__(128) u32 tile[64];
    if (threadIdx.x < 64) {
        // Core matrices of 8 x 8: row n, columns k.
        int n = threadIdx.x / 8, k = threadIdx.x % 8;
        tile[k / 4 * 32 + n * 4 + k % 4] = b[n * 8 + k];
    }
    proxy_fence();
    __syncthreads();
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, col = lane % 4;
    u32 a0 = a[row * 8 + col], a1 = a[(row + 8) * 8 + col], a2 = a[row * 8 + col + 4], a3 = a[(row + 8) * 8 + col + 4];
    float d[4];
    u64 db = (u64)((shared(tile) & 0x3ffff) >> 4) | (u64)(128 >> 4) << 16 | (u64)(128 >> 4) << 32;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\nwgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, p, 1, 1, 0;\n}" : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(db), "r"(0));
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[i])::"memory");
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + col * 2 + i % 2] = d[i];
}

// 8-bit integers: A [64, 32] and B [8, 32], rows of 32 bytes, 32-byte swizzle.
extern "C" __global__ void __launch_bounds__(128) product_s8(const __grid_constant__ Map a, const __grid_constant__ Map b, int* c) {
    __shared__ __align__(1024) unsigned char ta[2048], tb[256];
    __shared__ __align__(8) u64 bar;
    if (threadIdx.x == 0) {
        init(shared(&bar), 1);
        init_fence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        expect(shared(&bar), 2048 + 256);
        load2d(shared(ta), &a, 0, 0, shared(&bar));
        load2d(shared(tb), &b, 0, 0, shared(&bar));
    }
    wait(shared(&bar), 0);
    int d[4];
    u64 da = (u64)((shared(ta) & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(256 >> 4) << 32 | (u64)3 << 62;
    u64 db = (u64)((shared(tb) & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(256 >> 4) << 32 | (u64)3 << 62;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\nwgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {%0,%1,%2,%3}, %4, %5, p;\n}" : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "l"(da), "l"(db), "r"(0));
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 4; i++) asm volatile("" : "+r"(d[i])::"memory");
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
    for (int i = 0; i < 4; i++) c[(row + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// Blocks of a cluster add up in the shared memory of the first.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_sum(const u32* x, u32* y) {
    __shared__ u32 parts[4];
    u32 value = __reduce_add_sync(~0u, x[blockIdx.x * 32 + threadIdx.x]);
    cluster_sync();
    if (threadIdx.x == 0) {
        u32 to, here = shared(&parts[rank()]);
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(here), "r"(0));
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(to), "r"(value) : "memory");
    }
    cluster_sync();
    if (rank() == 0 && threadIdx.x == 0) y[blockIdx.x / 4] = parts[0] + parts[1] + parts[2] + parts[3];
}

// Each of two blocks sends its half of a tile to both.
extern "C" __global__ void __cluster_dims__(2, 1, 1) multicast(const __grid_constant__ Map map, u32* y) {
    __shared__ __align__(128) u32 tile[64];
    __shared__ __align__(8) u64 bar;
    u32 r = rank();
    if (threadIdx.x == 0) { init(shared(&bar), 1); init_fence(); }
    cluster_sync();
    if (threadIdx.x == 0) {
        expect(shared(&bar), 256);
        asm volatile("cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2}], [%3], %4;" ::"r"(shared(tile) + r * 128), "l"(&map), "r"(r * 32), "r"(shared(&bar)), "h"((u16)3) : "memory");
    }
    wait(shared(&bar), 0);
    for (int i = threadIdx.x; i < 64; i += 32) y[blockIdx.x * 64 + i] = tile[i];
    cluster_sync();
}

// stmatrix, then a tensor store of the tile by one elected thread.
extern "C" __global__ void store_tile(const __grid_constant__ Map map, const u32* x) {
    __shared__ __align__(128) unsigned char tile[512];
    u32 v[4];
    for (int i = 0; i < 4; i++) v[i] = x[threadIdx.x * 4 + i];
    u32 row = shared(tile) + threadIdx.x % 16 * 32 + threadIdx.x / 16 * 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
    proxy_fence();
    __syncwarp();
    u32 leader;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(leader));
    if (leader) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map), "r"(0), "r"(0), "r"(shared(tile)) : "memory");
        asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
    }
}

// Each block of a pair sends its tile to the other's shared memory; the wait is on a
// state token, and the sender arrives for the receiver.
extern "C" __global__ void __cluster_dims__(2, 1, 1) pass_on(const u32* x, u32* y) {
    __shared__ __align__(128) u32 mine[64], theirs[64];
    __shared__ __align__(8) u64 bar;
    u32 r = rank(), to, there, back;
    u64 token;
    if (threadIdx.x == 0) { init(shared(&bar), 1); init_fence(); }
    for (int i = threadIdx.x; i < 64; i += 32) mine[i] = x[blockIdx.x * 64 + i];
    proxy_fence();
    cluster_sync();
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 %0, [%1], %2;" : "=l"(token) : "r"(shared(&bar)), "r"(256) : "memory");
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared(theirs)), "r"(r ^ 1));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared(&bar)), "r"(r ^ 1));
        asm volatile("getctarank.shared::cluster.u32 %0, %1;" : "=r"(back) : "r"(to));
        asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "r"(shared(mine)), "r"(256), "r"(there) : "memory");
        asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.test_wait.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(shared(&bar)), "l"(token) : "memory");
        y[blockIdx.x * 65 + 64] = back;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 64; i += 32) y[blockIdx.x * 65 + i] = theirs[i];
    cluster_sync();
}
