// What kernels print, and assertions.
extern "C" __device__ int printf(const char*, ...);
extern "C" __device__ __attribute__((noreturn)) void __assertfail(const char*, const char*, unsigned, const char*, size_t);
#define check(e) ((e) ? (void)0 : __assertfail(#e, __FILE__, __LINE__, __func__, 1))
extern "C" __global__ void say(int n, double x) {
    if (threadIdx.x % 16 == 3)
        printf("block %d thread %2u: %5.2f %s %c %lld %#x %%\n", blockIdx.x, threadIdx.x, x * threadIdx.x, "text", 'a' + blockIdx.x, 1ll << 40, n);
    if (threadIdx.x == 0 && blockIdx.x == 0) printf("no arguments\n");
}
extern "C" __global__ void asserts(const int* x, int* y) {
    int v = x[threadIdx.x];
    check(v >= 0);
    y[threadIdx.x] = v;
}
extern "C" __global__ void traps(const int* x, int* y) {
    if (x[threadIdx.x] < 0) __trap();
    y[threadIdx.x] = 1;
}
