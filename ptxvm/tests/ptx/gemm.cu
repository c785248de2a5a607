// C[M, N] = A[M, K] * B[N, K]^T in bf16, f32 accumulation, by cp.async, ldmatrix and mma.
typedef unsigned int u32;
typedef unsigned short u16;

__device__ __forceinline__ u32 shared(const void* p) { return (u32)__cvta_generic_to_shared(p); }

struct Gemm {
    const u16* a;
    const u16* b;
    float* c;
    int m, n, k;
};

#define STAGES 3
#define BK 32

__device__ __forceinline__ void copy16(u32 to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Rows of 64 bytes; chunks of 16 bytes are swizzled by the row.
__device__ __forceinline__ u32 at(u32 base, int row, int chunk) {
    return base + row * 64 + ((chunk ^ (row / 2 % 4)) * 16);
}

// A block of 4 warps makes 64 x 64; a warp 32 x 32.
extern "C" __global__ void __launch_bounds__(128) gemm(const __grid_constant__ Gemm p) {
    extern __shared__ __align__(128) unsigned char smem[];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int bm = blockIdx.y * 64, bn = blockIdx.x * 64;
    float acc[2][4][4] = {};
    int steps = (p.k + BK - 1) / BK;
    auto load = [&](int step) {
        u32 base = shared(smem) + step % STAGES * 8192;
        for (int j = threadIdx.x; j < 256; j += 128) {
            int row = j / 4, chunk = j % 4, k = step * BK + chunk * 8;
            int ra = bm + row, rb = bn + row;
            int size_a = ra < p.m && k < p.k ? 16 : 0, size_b = rb < p.n && k < p.k ? 16 : 0;
            copy16(at(base, row, chunk), size_a ? p.a + (unsigned long long)ra * p.k + k : p.a, size_a);
            copy16(at(base + 4096, row, chunk), size_b ? p.b + (unsigned long long)rb * p.k + k : p.b, size_b);
        }
    };
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(s);
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    for (int s = 0; s < steps; s++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (s + STAGES - 1 < steps) load(s + STAGES - 1);
        asm volatile("cp.async.commit_group;" ::: "memory");
        u32 base = shared(smem) + s % STAGES * 8192;
        for (int kk = 0; kk < 2; kk++) {
            u32 a[2][4], b[4][2];
            for (int i = 0; i < 2; i++) {
                int row = warp / 2 * 32 + i * 16 + lane % 16;
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3])
                             : "r"(at(base, row, kk * 2 + lane / 16)) : "memory");
            }
            for (int j = 0; j < 2; j++) {
                int row = warp % 2 * 32 + j * 16 + lane % 8 + lane / 16 * 8;
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(b[2 * j][0]), "=r"(b[2 * j][1]), "=r"(b[2 * j + 1][0]), "=r"(b[2 * j + 1][1])
                             : "r"(at(base + 4096, row, kk * 2 + lane / 8 % 2)) : "memory");
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) {
                    float* d = acc[i][j];
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                                 : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
                }
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++) {
                int row = bm + warp / 2 * 32 + i * 16 + lane / 4 + h * 8;
                int col = bn + warp % 2 * 32 + j * 8 + lane % 4 * 2;
                for (int e = 0; e < 2; e++)
                    if (row < p.m && col + e < p.n) p.c[(unsigned long long)row * p.n + col + e] = acc[i][j][h * 2 + e];
            }
}
