__constant__ float weights[16] = {1, 2, 3, 4, 5};
__device__ int counter = 5;
__device__ int* where = &counter;
__device__ const char* names[2] = {"zero", "one"};
extern "C" __global__ void globals(int* y) {
    int i = threadIdx.x;
    y[i] = (int)weights[i & 7] + *where + names[i & 1][i & 3];
}
extern "C" __global__ void maths(const float* x, float* y, const double* u, double* v) {
    int i = threadIdx.x;
    y[i] = sinf(x[i]) + expf(x[i]) * powf(fabsf(x[i]) + 1, 0.3f) + erff(x[i]) + fmodf(x[i], 0.7f);
    v[i] = sin(u[i]) + exp(u[i]) / (1 + u[i] * u[i]) + pow(fabs(u[i]), 1.7);
}
extern "C" __global__ void indices(const int* x, int* y, int a, int b, int c) {
    int i = threadIdx.x;
    int q = x[i];
    y[i] = q / 7 + q % a + (int)(((long long)q * b) >> 5) + __popc(q) + __ffs(q) + __clz(q) + __brev(q) % 5 + (q ? a / q : 0) + __mulhi(q, c) + __dp4a(q, b, c);
}
extern "C" __global__ void heap(int** y) { y[threadIdx.x] = (int*)malloc(16); }

