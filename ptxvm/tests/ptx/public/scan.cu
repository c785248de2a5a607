// Templates with shared memory: a scan and a reduction of a block.
template <typename T, int N>
struct BlockScan {
    struct Temp { T warps[N / 32]; };
    Temp& temp;
    __device__ BlockScan(Temp& temp) : temp(temp) {}
    __device__ T inclusive(T v) {
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        for (int d = 1; d < 32; d *= 2) {
            T other = __shfl_up_sync(~0u, v, d);
            if (lane >= d) v += other;
        }
        if (lane == 31) temp.warps[warp] = v;
        __syncthreads();
        T before = 0;
        for (int w = 0; w < warp; w++) before += temp.warps[w];
        __syncthreads();
        return v + before;
    }
};
template <typename T>
__device__ void scan(const T* x, T* y) {
    __shared__ typename BlockScan<T, 128>::Temp temp;
    int i = blockIdx.x * 128 + threadIdx.x;
    y[i] = BlockScan<T, 128>(temp).inclusive(x[i]);
}
extern "C" __global__ void scan_int(const int* x, int* y) { scan(x, y); }
extern "C" __global__ void scan_double(const double* x, double* y) { scan(x, y); }
extern "C" __global__ void scan_long(const long long* x, long long* y) { scan(x, y); }
