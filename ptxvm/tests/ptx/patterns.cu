// How kernels usually communicate through global memory: each of these is right.
typedef unsigned int u32;
typedef unsigned long long u64;

// Partial sums, a fence, and a counter that wraps round to 0: the last block adds them up.
// As in the programming guide, what the blocks leave is volatile.
extern "C" __global__ void last_block(const u32* x, volatile u32* parts, u32* count, u32* out) {
    __shared__ u32 bins[64];
    __shared__ bool last;
    u32 t = threadIdx.x;
    bins[t] = x[blockIdx.x * 64 + t];
    __syncthreads();
    for (u32 s = 32; s > 0; s >>= 1) {
        if (t < s) bins[t] += bins[t + s];
        __syncthreads();
    }
    if (t == 0) {
        parts[blockIdx.x] = bins[0];
        __threadfence();
        last = atomicInc(count, gridDim.x - 1) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && t == 0) {
        u32 sum = 0;
        for (u32 b = 0; b < gridDim.x; b++) sum += parts[b];
        *out = sum;
    }
}

// A tree from its leaves to its root: the second thread that reaches a node goes on. Nodes
// are numbered as in a heap, from 1; there are `leaves` leaves.
extern "C" __global__ void tree(u32* sums, u32* visits, u32 leaves) {
    u32 node = leaves + blockIdx.x * blockDim.x + threadIdx.x;
    sums[node] = node;
    while (node > 1) {
        node /= 2;
        __threadfence();
        if (atomicAdd(&visits[node], 1) == 0) return;
        __threadfence();
        sums[node] = sums[2 * node] + sums[2 * node + 1];
    }
}

// A sum of all blocks before this one, which each publishes with a flag.
extern "C" __global__ void look_back(const u32* x, u32* ticket, u32* sums, volatile u32* flags, u32* out) {
    __shared__ u32 block, before;
    if (threadIdx.x == 0) block = atomicAdd(ticket, 1);
    __syncthreads();
    u32 own = __reduce_add_sync(~0u, x[block * 32 + threadIdx.x]);
    if (threadIdx.x == 0) {
        u32 sum = 0;
        if (block > 0) {
            while (flags[block - 1] == 0) {}
            __threadfence();
            sum = sums[block - 1];
        }
        sums[block] = sum + own;
        __threadfence();
        flags[block] = 1;
        before = sum;
    }
    __syncthreads();
    out[block * 32 + threadIdx.x] = before + threadIdx.x;
}

// A lock for the whole grid, taken by every thread.
extern "C" __global__ void lock(u32* lock, u32* x) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            x[0] += 1;
            x[1] = x[0] * 2;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

// The barrier of a grid, as cooperative groups have it: the top bit flips.
__device__ void grid_sync(volatile u32* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 add = blockIdx.x == 0 ? 0x80000000u - (gridDim.x - 1) : 1;
        __threadfence();
        u32 old = atomicAdd((u32*)arrived, add);
        while (((old ^ *arrived) & 0x80000000u) == 0) {}
        __threadfence();
    }
    __syncthreads();
}

extern "C" __global__ void rounds(u32* arrived, u32* a, u32* b, u32 count) {
    u32 at = blockIdx.x * blockDim.x + threadIdx.x, all = gridDim.x * blockDim.x;
    for (u32 n = 0; n < count; n++) {
        b[at] = a[(at + 65) % all] + 1;
        grid_sync(arrived);
        a[at] = b[(at + 1) % all];
        grid_sync(arrived);
    }
}

// Lanes that take part are found by a vote, and one reserves places for them all.
extern "C" __global__ void compact(const u32* x, u32* count, u32* out) {
    u32 v = x[blockIdx.x * blockDim.x + threadIdx.x], lane = threadIdx.x % 32, at = 0;
    if (v % 3 == 0) {
        u32 mask = __activemask(), leader = __ffs(mask) - 1;
        if (lane == leader) at = atomicAdd(count, __popc(mask));
        at = __shfl_sync(mask, at, leader) + __popc(mask & ((1u << lane) - 1));
        out[at] = v;
    }
}

// An atomic addition by comparing and swapping, as in the programming guide.
extern "C" __global__ void add_by_cas(double* sum) {
    u64 *address = (u64*)sum, old = *address, assumed;
    do {
        assumed = old;
        old = atomicCAS(address, assumed, __double_as_longlong(1.0 + __longlong_as_double(assumed)));
    } while (assumed != old);
}

// Blocks add to the same tile one after another, in the order of their numbers.
extern "C" __global__ void in_turn(u32* turn, u32* tile) {
    if (threadIdx.x == 0) {
        u32 now;
        do asm volatile("ld.global.acquire.gpu.b32 %0, [%1];" : "=r"(now) : "l"(turn) : "memory");
        while (now != blockIdx.x);
    }
    __syncthreads();
    tile[threadIdx.x] = tile[threadIdx.x] * 3 + blockIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) asm volatile("st.global.release.gpu.b32 [%0], %1;" ::"l"(turn), "r"(blockIdx.x + 1) : "memory");
}

// Two warps of a block hand words over by flags in global memory of the block's scope, as
// atomic_ref with thread_scope_block has it.
extern "C" __global__ void pair(u32* flags, u32* data, u32 count) {
    u32 lane = threadIdx.x % 32, *flag = flags + blockIdx.x, *x = data + blockIdx.x * 32, seen;
    for (u32 n = 0; n < count; n++) {
        u32 turn = 2 * n + threadIdx.x / 32;
        do asm volatile("ld.acquire.cta.b32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory");
        while (seen != turn);
        __syncwarp();
        u32 v = x[31 - lane] + turn + 1;
        __syncwarp();
        x[lane] = v;
        __syncwarp();
        if (lane == 0) asm volatile("fence.acq_rel.cta; st.relaxed.cta.b32 [%0], %1;" ::"l"(flag), "r"(turn + 1) : "memory");
    }
}

// Halves of words, in place, by threads of which neighbours are in other warps and blocks.
extern "C" __global__ void halves(unsigned short* x, unsigned char* y, u32 columns) {
    for (u32 c = threadIdx.x; c < columns; c += blockDim.x) {
        u32 at = blockIdx.x * columns + c;
        x[at] = x[at] * 2 + 1;
        y[at] = y[at] + (unsigned char)c;
    }
}
