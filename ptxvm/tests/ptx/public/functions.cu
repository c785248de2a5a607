// Functions that are called: by value, by pointer to a structure, through tables of pointers.
struct Pair { float a; int b; double c[2]; };

__noinline__ __device__ float scale(float x, int n) {
    for (int i = 0; i < n; i++) x = x * 1.5f + 1.0f;
    return x;
}
__noinline__ __device__ Pair make(float a, int b) {
    Pair p; p.a = scale(a, b & 3); p.b = b * 3; p.c[0] = a + b; p.c[1] = a - b;
    return p;
}
__noinline__ __device__ double use(Pair p, const int* extra) {
    if (p.b % 2) return p.c[p.b & 1] + *extra;
    return p.a + p.c[0];
}
extern "C" __global__ void functions(const float* x, double* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int extra = i * 2;
    Pair p = make(x[i], i);
    y[i] = use(p, &extra);
}

typedef float (*Op)(float, float);
__device__ float plus(float a, float b) { return a + b; }
__device__ float times(float a, float b) { return a * b; }
__device__ float most(float a, float b) { return a > b ? a : b; }
__device__ Op table[3] = {plus, times, most};
extern "C" __global__ void pointers(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = table[i % 3](x[i], 2.0f);
}
struct Shape { __device__ virtual float area(float s) const = 0; };
struct Square : Shape { __device__ float area(float s) const override { return s * s; } };
struct Disc : Shape { __device__ float area(float s) const override { return 3.0f * s * s; } };
extern "C" __global__ void virtuals(float* y, int n) {
    Square square; Disc disc;
    int i = threadIdx.x;
    const Shape* shape = i % 2 ? (const Shape*)&square : (const Shape*)&disc;
    if (i < n) y[i] = shape->area(i);
}
__noinline__ __device__ int depth(int n) { return n <= 1 ? 1 : depth(n - 1) + depth(n - 2); }
extern "C" __global__ void recursive(int* y) { y[threadIdx.x] = depth(threadIdx.x); }
