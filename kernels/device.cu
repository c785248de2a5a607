// Kernels that the device needs beside those under test: input data, clocks, and
// one that holds the queue until the host has filled it.
//
// Launch: as stated at each kernel.
#include "ptx.cuh"

// Does nothing: what a launch costs.
KERNEL(32, 1) empty() {}

// --- Holding the queue -----------------------------------------------------------

struct HoldParams {
  const volatile u32 *go;  // host memory; not zero: continue
  volatile u32 *timed_out; // host memory; 1 if the host did not set `go` in time
  u64 timeout_ns;
};

// Waits until the host sets `go`, so that launches queued after it run back to back
// however long the host takes to queue them. One thread.
KERNEL(32, 1) hold(const __grid_constant__ HoldParams p) {
  const u64 start = globaltimer();
  while (*p.go == 0) {
    if (globaltimer() - start > p.timeout_ns) {
      *p.timed_out = 1;
      return;
    }
  }
}

// --- Clocks ------------------------------------------------------------------------

struct ClockParams {
  u64 *cycles;  // by SM number
  u64 *ns;      // by SM number
  u32 sms;
  u32 unused;
};

// Every SM's cycle count beside the wall clock. One block for each SM; blocks
// are spread over idle SMs, and an SM that gets none keeps its old entry.
KERNEL(32, 1) read_clocks(const __grid_constant__ ClockParams p) {
  const u32 sm = smid();
  if (threadIdx.x == 0 && sm < p.sms) {
    p.cycles[sm] = clock64_cycles();
    p.ns[sm] = globaltimer();
  }
}

struct SpinParams {
  u64 ns;
};

// Waits for a given wall-clock time, to check the clock of events. One thread.
KERNEL(32, 1) spin(const __grid_constant__ SpinParams p) {
  const u64 start = globaltimer();
  while (globaltimer() - start < p.ns) {
  }
}

// --- Input data --------------------------------------------------------------------

// What a tensor is to hold: the values that data.rs draws for a key, eight bytes a draw,
// encoded in a format.
struct FillJob {
  u64 key;  // of bytes that are copied, where they lie
  u64 *to;
  u64 draws;
  // 0 as drawn, 1 f32, 2 bf16, 3 f16, 4 fp8 e4m3, 5 records of latents, 6 scales, 7 tf32,
  // 8 scales in binary16, 9 ones in all bits, 10 copied bytes
  u32 format;
  u16 latent_dim;
  u16 rope_dim;
  float largest;  // of scales, a power of two
  u32 unused;
};

struct FillParams {
  const FillJob *jobs;
  u64 count;
};

// The finaliser of splitmix64.
DEVICE u64 mix(u64 x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

DEVICE u32 encode_f32(u32 bits) {
  return __float_as_uint(float(i32(bits) >> 8) * (1.0f / (1 << 23)));
}

DEVICE u32 encode_bf16(u32 bits) {
  const float value = float(2 * (i32(bits << 16) >> 24) + 1) * (1.0f / 256.0f);
  return __float_as_uint(value) >> 16;
}

// Eleven of the bits as a multiple of 2^-10.
DEVICE float f16_value(u32 bits) { return float(i32(bits << 16) >> 21) * (1.0f / 1024.0f); }

// Of a value that binary16 holds, normal or zero.
DEVICE u32 f16_bits(float value) {
  const u32 wide = __float_as_uint(value), size = (wide & 0x7fffffff) >> 13;
  return (size == 0 ? 0 : size - (112 << 10)) | (wide >> 31 << 15);
}

DEVICE u32 encode_f16(u32 bits) { return f16_bits(f16_value(bits)); }

DEVICE u32 encode_tf32(u32 bits) {
  return __float_as_uint(float(i32(bits) >> 21) * (1.0f / 1024.0f));
}

DEVICE u32 encode_e4m3(u32 bits) {
  return ((bits >> 3) & 7) == 7 ? bits & 0x87 : bits & 0xbf;
}

// A scale between a half of the largest and all of it.
DEVICE u32 encode_scale(u32 bits, float largest) {
  return __float_as_uint(largest * (0.5f + 0.5f * fabsf(__uint_as_float(encode_f32(bits)))));
}

DEVICE u32 encode_half_scale(u32 bits, float largest) {
  return f16_bits(largest * (0.5f + 0.5f * fabsf(f16_value(bits))));
}

enum Format : u32 {
  AS_DRAWN, F32, BF16, F16, E4M3, LATENT_RECORDS, SCALES, TF32, HALF_SCALES, ONES, COPIED
};

// The format of draw number `i` of a tensor: the latents of a record, their scales (one
// for each 128) and its rope elements have different formats.
DEVICE u32 format_of_draw(const FillJob &p, u64 i) {
  if (p.format != LATENT_RECORDS) return p.format;
  const u32 latents = p.latent_dim / 8, scales = p.latent_dim / 256, rest = p.rope_dim / 4;
  const u32 at = i % (latents + scales + rest);
  return at < latents ? E4M3 : at < latents + scales ? SCALES : BF16;
}

DEVICE u64 encode(u64 draw, u32 format, float largest) {
  u64 bytes = 0;
  switch (format) {
    case F32:
      return encode_f32(u32(draw)) | u64(encode_f32(u32(draw >> 32))) << 32;
    case TF32:
      return encode_tf32(u32(draw)) | u64(encode_tf32(u32(draw >> 32))) << 32;
    case SCALES:
      return encode_scale(u32(draw), largest) | u64(encode_scale(u32(draw >> 32), largest)) << 32;
    case HALF_SCALES:
      for (u32 at = 0; at < 64; at += 16)
        bytes |= u64(encode_half_scale(u32(draw >> at) & 0xffff, largest)) << at;
      return bytes;
    case BF16:
      for (u32 at = 0; at < 64; at += 16)
        bytes |= u64(encode_bf16(u32(draw >> at) & 0xffff)) << at;
      return bytes;
    case F16:
      for (u32 at = 0; at < 64; at += 16)
        bytes |= u64(encode_f16(u32(draw >> at) & 0xffff)) << at;
      return bytes;
    case E4M3:
      for (u32 at = 0; at < 64; at += 8) bytes |= u64(encode_e4m3(u32(draw >> at) & 0xff)) << at;
      return bytes;
    default:
      return draw;
  }
}

DEVICE u64 filled(const FillJob &job, u64 i) {
  if (job.format == ONES) return ~0ull;
  if (job.format == COPIED) return reinterpret_cast<const u64 *>(job.key)[i];
  const u64 draw = mix(job.key ^ (i * 0x9e3779b97f4a7c15ull));
  return encode(draw, format_of_draw(job, i), job.largest);
}

// 2-D grid of any size, 256 threads: blocks along x share the draws of a tensor, those along
// y the tensors.
KERNEL(256, 1) fill(const __grid_constant__ FillParams p) {
  const u64 stride = u64(gridDim.x) * blockDim.x;
  for (u64 number = blockIdx.y; number < p.count; number += gridDim.y) {
    const FillJob job = p.jobs[number];
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < job.draws; i += stride)
      job.to[i] = filled(job, i);
  }
}

// --- Digests -------------------------------------------------------------------------

// What data.rs calls the digest of an array.
struct DigestParams {
  const u64 *pairs;
  u64 *sum;  // added to
  u64 count;
};

// 1-D grid of any size, 256 threads.
KERNEL(256, 1) digest(const __grid_constant__ DigestParams p) {
  const u64 stride = u64(gridDim.x) * blockDim.x;
  u64 sum = 0;
  for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += stride)
    sum += mix(p.pairs[i] ^ ((i + 1) * 0x9e3779b97f4a7c15ull));
  atomicAdd(p.sum, sum);
}
