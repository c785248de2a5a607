// Products of matrices by a producer warpgroup and two consumer warpgroups, as published
// kernels do them: blocks that stay for several tiles, registers moved to the consumers,
// stages that one thread of a warpgroup releases for its four warps.
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
// An arrival at the barrier of this block, or of block `rank` of the cluster.
DEVICE void arrive(u32 bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEVICE void arrive_at(u32 bar, u32 rank) {
    u32 there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(bar), "r"(rank));
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(there) : "memory");
}
template <int CLUSTER> DEVICE void wait(u32 bar, u32 parity) {
    if (CLUSTER > 1)
        asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(bar), "r"(parity) : "memory");
    else
        asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(bar), "r"(parity) : "memory");
}
DEVICE void load(u32 to, const Map* map, int x, int y, u32 bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(bar) : "memory");
}
DEVICE void load_for_all(u32 to, const Map* map, int x, int y, u32 bar, u16 blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to), "l"(map), "r"(x), "r"(y), "r"(bar), "h"(blocks) : "memory");
}
DEVICE u32 rank() { u32 r; asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
DEVICE void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
DEVICE u64 descriptor(u32 address) {
    return (u64)((address & 0x3ffff) >> 4) | (u64)1 << 16 | (u64)(1024 >> 4) << 32 | (u64)1 << 62;
}
DEVICE u32 pack(float low, float high) {
    u32 d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}
#define D16(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define D32(d) D16(d), D16((d + 16))
#define R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define R32 R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
DEVICE void mma(float* d, u64 a, u64 b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" R32 "}, %32, %33, p, 1, 1, 0, 0;\n}" : D32(d) : "l"(a), "l"(b), "r"(keep));
}
DEVICE void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> DEVICE void finish(float* d) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
    for (int i = 0; i < 32; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#define STAGES 3
extern __shared__ __align__(1024) unsigned char smem[];
#define A_BYTES (128 * 128)
#define B_BYTES (64 * 128)
#define STAGE_BYTES (A_BYTES + B_BYTES)

struct Shared {
    u32 tiles, out, full, empty;
    DEVICE u32 filled(u32 n) const { return full + n % STAGES * 8; }
    DEVICE u32 freed(u32 n) const { return empty + n % STAGES * 8; }
    DEVICE u32 stage(u32 n) const { return tiles + n % STAGES * STAGE_BYTES; }
};

// One thread fills the stages, for all tiles of the block one after the other. In a
// cluster each block brings its half of B to both.
template <int CLUSTER> DEVICE void produce(const Shared& s, const Map* a, const Map* b, int tiles_m, int tiles, int steps) {
    u32 n = 0, r = CLUSTER > 1 ? rank() : 0;
    for (int tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER)
        for (int k = 0; k < steps; k++, n++) {
            int row = (tile % tiles_m * CLUSTER + r) * 128, col = tile / tiles_m * 64;
            wait<CLUSTER>(s.freed(n), n / STAGES % 2 ^ 1);
            expect(s.filled(n), STAGE_BYTES);
            load(s.stage(n), a, k * 64, row, s.filled(n));
            u32 to = s.stage(n) + A_BYTES;
            if (CLUSTER == 1) load(to, b, k * 64, col, s.filled(n));
            else load_for_all(to + r * (B_BYTES / 2), b, k * 64, col + r * 32, s.filled(n), 3);
        }
}

template <int CLUSTER> DEVICE void release(const Shared& s, u32 n) {
    u32 thread = threadIdx.x % 128;
    if (CLUSTER == 1) {
        if (thread == 0) arrive(s.freed(n));
    } else if (thread < CLUSTER) arrive_at(s.freed(n), thread);
}

// The warpgroup's 64 x 64 results through shared memory to `c`.
DEVICE void store(u32 out, const float* d, const Map* c, int row, int col, u32 id) {
    u32 thread = threadIdx.x % 128, lane = thread % 32;
    if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
    u32 to = out + (thread / 32 * 16 + lane % 16) * 128 + lane / 16 * 16;
    for (int i = 0; i < 4; i++) {
        const float* v = d + 8 * i;
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to + i * 32), "r"(pack(v[0], v[1])), "r"(pack(v[2], v[3])), "r"(pack(v[4], v[5])), "r"(pack(v[6], v[7])) : "memory");
    }
    proxy_fence();
    asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
    if (thread == 0) {
        asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(c), "r"(col), "r"(row), "r"(out) : "memory");
        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    }
}

// LATE: how many products stay under way while the next is issued.
template <int CLUSTER, int LATE> DEVICE void consume(const Shared& s, const Map* c, int tiles_m, int tiles, int steps) {
    u32 n = 0, r = CLUSTER > 1 ? rank() : 0, group = threadIdx.x / 128 - 1;
    for (int tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
        float d[32];
        for (int k = 0; k < steps; k++, n++) {
            wait<CLUSTER>(s.filled(n), n / STAGES % 2);
            u64 da = descriptor(s.stage(n) + group * 8192), db = descriptor(s.stage(n) + A_BYTES);
            fence();
            for (int j = 0; j < 4; j++) mma(d, da + 2 * j, db + 2 * j, k + j > 0);
            commit();
            finish<LATE>(d);
            // No agreement of the four warps: what one has waited for is done.
            if (k >= LATE) release<CLUSTER>(s, n - LATE);
        }
        if (LATE > 0) {
            finish<0>(d);
            release<CLUSTER>(s, n - 1);
        }
        int row = (tile % tiles_m * CLUSTER + r) * 128 + group * 64;
        store(s.out + group * 8192, d, c, row, tile / tiles_m * 64, 1 + group);
    }
    if (threadIdx.x % 128 == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

// C[M, N] = A[M, K] * B[N, K]^T in bf16.
template <int CLUSTER, int LATE> DEVICE void product(const Map* a, const Map* b, const Map* c, int tiles_m, int tiles, int steps) {
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    Shared s = {shared(smem), shared(smem) + STAGES * STAGE_BYTES, shared(full), shared(empty)};
    if (threadIdx.x == 0) {
        for (int n = 0; n < STAGES; n++) { init(s.filled(n), 1); init(s.freed(n), 2 * CLUSTER); }
        init_fence();
    }
    if (CLUSTER > 1) cluster_sync();
    else __syncthreads();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) produce<CLUSTER>(s, a, b, tiles_m, tiles, steps);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<CLUSTER, LATE>(s, c, tiles_m, tiles, steps);
    }
    // The other block's arrivals and copies end before this block does.
    if (CLUSTER > 1) {
        __syncwarp();
        cluster_sync();
    }
}

#define PRODUCT(name, cluster, late) extern "C" __global__ void __launch_bounds__(384, 1) name(const __grid_constant__ Map a, const __grid_constant__ Map b, const __grid_constant__ Map c, int tiles_m, int tiles, int steps) { product<cluster, late>(&a, &b, &c, tiles_m, tiles, steps); }
PRODUCT(persistent, 1, 0)
PRODUCT(pipelined, 1, 1)
PRODUCT(clustered, 2, 0)

#define D64(d) D32(d), D32((d + 32))
#define R64 R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
DEVICE void mma128(float* d, u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" R64 "}, %64, %65, 1, 1, 1, 0, 0;" : D64(d) : "l"(a), "l"(b));
}

// One tile of 256 x 128 of C: each consumer has 128 rows, by two products for each step.
extern "C" __global__ void __launch_bounds__(384) wide(const __grid_constant__ Map a, const __grid_constant__ Map b, float* c, int steps) {
    const u32 a_bytes = 256 * 128, b_bytes = 128 * 128, stage_bytes = a_bytes + b_bytes;
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
    Shared s = {shared(smem), 0, shared(full), shared(empty)};
    if (threadIdx.x == 0) {
        for (int n = 0; n < STAGES; n++) { init(s.filled(n), 1); init(s.freed(n), 2); }
        init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        if (threadIdx.x == 0)
            for (int k = 0; k < steps; k++) {
                u32 to = s.tiles + k % STAGES * stage_bytes;
                wait<1>(s.freed(k), k / STAGES % 2 ^ 1);
                expect(s.filled(k), stage_bytes);
                load(to, &a, k * 64, 0, s.filled(k));
                load(to + a_bytes, &b, k * 64, 0, s.filled(k));
            }
        return;
    }
    float d[2][64];
    for (int i = 0; i < 128; i++) d[i / 64][i % 64] = 0;
    u32 group = threadIdx.x / 128 - 1, thread = threadIdx.x % 128;
    for (int k = 0; k < steps; k++) {
        u32 from = s.tiles + k % STAGES * stage_bytes;
        u64 da = descriptor(from + group * 16384), db = descriptor(from + a_bytes);
        wait<1>(s.filled(k), k / STAGES % 2);
        fence();
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) mma128(d[i], da + i * 512 + 2 * j, db + 2 * j);
        commit();
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
        if (thread == 0) arrive(s.freed(k));
    }
    for (int n = 0; n < 128; n++) {
        int i = n % 64, row = group * 128 + n / 64 * 64 + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
        c[row * 128 + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[n / 64][i];
    }
}
