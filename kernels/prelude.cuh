// What every kernel starts from. No host headers: NVRTC brings none, and a
// kernel that needs none compiles in milliseconds, anywhere.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef int i32;
typedef long long i64;

static_assert(sizeof(void *) == 8, "pointers are passed as 64-bit addresses");

#define DEVICE __device__ __forceinline__
// One kernel: a C name, its block size, and how many blocks must fit on an SM.
#define KERNEL(threads, blocks_per_sm) \
  extern "C" __global__ void __launch_bounds__(threads, blocks_per_sm)

// Number formats, for templates.
struct Bf16 {};
struct F16 {};
struct Tf32 {};
struct E4m3 {};
struct E5m2 {};
struct Int8 {};

constexpr u32 WARP = 32;
constexpr u32 ALL_LANES = 0xffffffffu;

// What a thread reads or writes at once, up to 16 bytes.
struct alignas(16) Words4 {
  u32 w[4];
};

struct alignas(8) Words2 {
  u32 w[2];
};

struct alignas(16) Floats4 {
  float x[4];
};

struct alignas(8) Floats2 {
  float x[2];
};

template <typename T>
DEVICE constexpr T min_of(T a, T b) { return a < b ? a : b; }
template <typename T>
DEVICE constexpr T max_of(T a, T b) { return a < b ? b : a; }
template <typename T>
DEVICE constexpr T ceil_div(T a, T b) { return (a + b - 1) / b; }

// Index of this thread in its warp, and of its warp in the block.
DEVICE u32 lane_index() { return threadIdx.x % WARP; }
DEVICE u32 warp_index() { return threadIdx.x / WARP; }

// Lower than every finite value.
DEVICE float minus_infinity() { return __int_as_float(0xff800000); }
