#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
extern "C" __global__ void halves(const __half2* x, __half2* y) {
    int i = threadIdx.x;
    __half2 v = x[i];
    __half2 w = __hfma2(v, __float2half2_rn(0.5f), __float2half2_rn(1.0f));
    w = __hmax2(w, __hneg2(v));
    w = __hadd2(w, h2exp2(v));
    if (__hgt(__low2half(w), __high2half(w))) w = __lowhigh2highlow(w);
    y[i] = w;
}
extern "C" __global__ void eights(const float* x, unsigned char* e4, unsigned char* e5, float* y) {
    int i = threadIdx.x;
    __nv_fp8_e4m3 a(x[i]);
    __nv_fp8_e5m2 b(x[i]);
    e4[i] = a.__x; e5[i] = b.__x;
    y[i] = float(a) + float(b);
}
extern "C" __global__ void brains(const __nv_bfloat162* x, __nv_bfloat162* y) {
    int i = threadIdx.x;
    __nv_bfloat162 v = x[i];
    y[i] = __hfma2(v, v, __hadd2(v, __float2bfloat162_rn(3.0f)));
}
