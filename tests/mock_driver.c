// A stand-in for libcuda, built by the tests with the system's C compiler.
//
// Device memory is host memory. Launches run at once and, for the few kernels
// implemented here, do what the real ones do; other kernels do nothing. Macros
// make it a driver that something is wrong with:
//   INIT_ERROR=n       cuInit answers n
//   VERSION=n          the version that the driver says it has
//   WITHOUT_LAUNCH     it has no cuLaunchKernelEx
//   WITHOUT_PARAM_INFO it has no cuFuncGetParamInfo, as before CUDA 12.4
//   STREAM_PARAM_BYTES=n  what the kernels of stream.cu declare
//   GPUS=n             how many GPUs there are
//   FAULT="entry"      that kernel faults, and everything after it too
//   REFUSE_PTX="text"  PTX with this text in it does not compile
//   HOLD_TIMES_OUT     the host is never fast enough
//   MEMORY_BYTES=n     device memory
//   SHARED_BYTES=n     most shared memory of a block
//   COPY_FAULT=n       copies of n bytes to the device fault, and everything after them too
//   COPY_DAMAGE=n      copies of n bytes change a bit of the last byte
//   HOST_BYTES=n       host memory that can be pinned
//
// What a driver refuses or waits for ever on is an error here: pageable memory that is copied
// while launches are recorded, or while the GPU is held.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef INIT_ERROR
#define INIT_ERROR 0
#endif
#ifndef VERSION
#define VERSION 13000
#endif
#ifndef GPUS
#define GPUS 1
#endif
#ifndef FAULT
#define FAULT ""
#endif
#ifndef REFUSE_PTX
#define REFUSE_PTX ""
#endif
#ifndef STREAM_PARAM_BYTES
#define STREAM_PARAM_BYTES 64
#endif
#ifndef SHARED_BYTES
#define SHARED_BYTES 232448
#endif
#ifndef COPY_FAULT
#define COPY_FAULT 0
#endif
#ifndef COPY_DAMAGE
#define COPY_DAMAGE 0
#endif
#ifndef HOST_BYTES
#define HOST_BYTES (1ull << 30)
#endif
#ifndef MEMORY_BYTES
#define MEMORY_BYTES (1ull << 30)
#endif

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200,
       INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
       LAUNCH_TIMEOUT = 702, CAPTURE_UNSUPPORTED = 900 };

typedef uint64_t u64;
typedef uint32_t u32;

static int broken = OK;
static u64 allocated = 0;

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : INIT_ERROR; }
// NVRTC loads the driver too, for tables that a mock does not have.
int cuGetExportTable(const void **table, const void *id) { return NOT_FOUND; }
int cuDriverGetVersion(int *version) { *version = VERSION; return OK; }
int cuGetErrorString(int error, const char **text) {
  switch (error) {
    case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; return OK;
    case OUT_OF_MEMORY: *text = "out of memory"; return OK;
    case NO_DEVICE: *text = "no CUDA-capable device is detected"; return OK;
    case 803: *text = "system has unsupported display driver / cuda driver combination"; return OK;
  }
  *text = "an error of the mock driver";
  return OK;
}

// --- Device and context ---------------------------------------------------------

int cuDeviceGetCount(int *count) { *count = GPUS; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDeviceGetName(char *name, int bytes, int device) {
  strncpy(name, "Mock GPU 9000", bytes);
  return OK;
}
int cuDeviceGetUuid_v2(void *uuid, int device) { memset(uuid, 7, 16); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 75: *value = 9; return OK;        // compute capability, major
    case 76: *value = 0; return OK;        // minor
    case 16: *value = 4; return OK;        // SMs
    case 39: *value = 2048; return OK;     // threads per SM
    case 81: *value = 233472; return OK;   // shared bytes per SM
    case 97: *value = SHARED_BYTES; return OK;  // shared bytes per block
    case 111: *value = 1024; return OK;    // of these reserved for the system
    case 38: *value = 1 << 20; return OK;  // L2 bytes
    case 13: *value = 1980000; return OK;  // SM clock, kHz
    case 36: *value = 2619000; return OK;  // memory clock, kHz
    case 37: *value = 5120; return OK;     // bus bits
    case 32: *value = 1; return OK;        // ECC
  }
  return INVALID_VALUE;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = &broken; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
int cuCtxSetCurrent(void *context) { return context == &broken ? OK : INVALID_VALUE; }
int cuCtxSynchronize(void) { return broken; }
int cuCtxResetPersistingL2Cache(void) { return broken; }
int cuProfilerStart(void) { return broken; }
int cuProfilerStop(void) { return broken; }

// --- Memory ---------------------------------------------------------------------

int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
  *free_bytes = MEMORY_BYTES - allocated;
  *total = MEMORY_BYTES;
  return OK;
}
// The size stands in front of every allocation.
int cuMemAlloc_v2(u64 *address, size_t bytes) {
  if (broken) return broken;
  if (allocated + bytes > MEMORY_BYTES) return OUT_OF_MEMORY;
  char *memory = aligned_alloc(256, (bytes + 256 + 255) / 256 * 256);
  *(size_t *)memory = bytes;
  allocated += bytes;
  *address = (u64)(memory + 256);
  return OK;
}
int cuMemFree_v2(u64 address) {
  char *memory = (char *)address - 256;
  allocated -= *(size_t *)memory;
  free(memory);
  return OK;
}
// Pinned memory: of buffers without flags, of pages that kernels write with flag 2.
typedef struct Pinned { char *memory; size_t bytes; struct Pinned *next; } Pinned;
static Pinned *pinned = NULL;
static size_t pinned_bytes = 0;
// The word that the last kernel which held the GPU waited for.
static volatile u32 *held = NULL;

int cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  if (flags != 0 && flags != 2) return INVALID_VALUE;
  if (pinned_bytes + bytes > HOST_BYTES) return OUT_OF_MEMORY;
  Pinned *entry = calloc(1, sizeof(Pinned));
  entry->memory = *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  entry->bytes = bytes;
  entry->next = pinned;
  pinned = entry;
  pinned_bytes += bytes;
  memset(*memory, 0, bytes);
  return OK;
}
int cuMemFreeHost(void *memory) {
  for (Pinned **at = &pinned; *at; at = &(*at)->next) {
    Pinned *entry = *at;
    if (entry->memory != memory) continue;
    if (held && (char *)held >= entry->memory && (char *)held < entry->memory + entry->bytes)
      held = NULL;
    *at = entry->next;
    pinned_bytes -= entry->bytes;
    free(entry);
    free(memory);
    return OK;
  }
  return INVALID_VALUE;
}
static int is_pinned(const void *memory, size_t bytes) {
  for (Pinned *entry = pinned; entry; entry = entry->next)
    if ((char *)memory >= entry->memory && (char *)memory + bytes <= entry->memory + entry->bytes)
      return 1;
  return 0;
}
int cuMemHostGetDevicePointer_v2(u64 *address, void *memory, unsigned flags) {
  *address = (u64)memory;
  return OK;
}
static int record_copy(void *to, const void *from, size_t bytes);
static int is_recording(void);

static void copy(void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
  if (COPY_DAMAGE && bytes == COPY_DAMAGE) ((char *)to)[bytes - 1] ^= 1;
}
static int host_copy(void *to, const void *from, size_t bytes, const void *host) {
  const int pinned_host = is_pinned(host, bytes);
  if (broken) return broken;
  if (!pinned_host && is_recording()) return CAPTURE_UNSUPPORTED;
  if (!pinned_host && held && !*held) return broken = LAUNCH_TIMEOUT;
  if (is_recording()) return record_copy(to, from, bytes);
  copy(to, from, bytes);
  return OK;
}
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, void *stream) {
  if (COPY_FAULT && bytes == COPY_FAULT) broken = ILLEGAL_ADDRESS;
  return host_copy((void *)to, from, bytes, from);
}
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, void *stream) {
  return host_copy(to, (void *)from, bytes, to);
}
int cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, void *stream) {
  memset((void *)to, value, bytes);
  return broken;
}

// --- Modules and functions --------------------------------------------------------

typedef struct {
  char name[64];
  int shared_bytes;
} Function;

int cuModuleLoadData(void **module, const void *image) {
  if (memcmp(image, "\177ELF", 4)) return INVALID_IMAGE;
  *module = &broken;
  return OK;
}
// Takes PTX; of the options, it knows the log and its size, in this order.
int cuModuleLoadDataEx(void **module, const void *image, unsigned count, const int *options,
                       void **values) {
  if (broken) return broken;
  if (!memcmp(image, "\177ELF", 4) || !strstr(image, ".version")) return INVALID_IMAGE;
  if (*REFUSE_PTX && strstr(image, REFUSE_PTX)) {
    if (count == 2 && options[0] == 5 && options[1] == 6)
      strncpy(values[0], "ptxas fatal : not by the mock", (size_t)values[1]);
    return INVALID_PTX;
  }
  *module = &broken;
  return OK;
}
int cuModuleUnload(void *module) { return OK; }
int cuModuleGetFunction(Function **function, void *module, const char *name) {
  if (strcmp(name, "missing") == 0) return NOT_FOUND;
  *function = calloc(1, sizeof(Function));
  strncpy((*function)->name, name, 63);
  (*function)->shared_bytes = 48 << 10;
  return OK;
}
// Whether an entry is one of stream.cu, and not of stream_bulk.cu.
static int is_stream(const char *entry) {
  return !strncmp(entry, "stream_", 7) && strncmp(entry, "stream_bulk", 11);
}

#ifndef WITHOUT_PARAM_INFO
// What the one parameter of a kernel implemented here has; 0 for one without, and for kernels
// that are not implemented here.
static size_t param_bytes(const char *entry) {
  if (is_stream(entry)) return STREAM_PARAM_BYTES;
  if (!strcmp(entry, "fill")) return 16;
  if (!strcmp(entry, "hold") || !strcmp(entry, "read_clocks") || !strcmp(entry, "digest"))
    return 24;
  if (!strcmp(entry, "spin") || !strcmp(entry, "report_attributes")) return 8;
  return 0;
}
int cuFuncGetParamInfo(Function *function, size_t index, size_t *offset, size_t *bytes) {
  *offset = 0;
  *bytes = param_bytes(function->name);
  return index > 0 || *bytes == 0 ? INVALID_VALUE : OK;
}
#endif
int cuFuncGetAttribute(int *value, int attribute, Function *function) {
  switch (attribute) {
    case 1: *value = 64; return OK;  // static shared bytes
    case 3: *value = 0; return OK;   // local bytes
    case 4: *value = 40; return OK;  // registers
  }
  return INVALID_VALUE;
}
int cuFuncSetAttribute(Function *function, int attribute, int value) {
  if (attribute == 9 && value >= -1 && value <= 100) return OK;  // less shared memory, more L1
  if (attribute != 8 || value > 232448) return INVALID_VALUE;
  function->shared_bytes = value;
  return OK;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *f, int threads,
                                                size_t shared_bytes) {
  *blocks = 2048 / threads;
  return OK;
}

// --- Kernels --------------------------------------------------------------------

typedef struct { u32 grid[3], block[3], shared_bytes; void *stream; void *attributes; u32 count; }
    Config;
typedef struct { u32 id; char pad[4]; u32 value[16]; } Attribute;

static u64 now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1000000000ull * t.tv_sec + t.tv_nsec;
}

static u64 mix(u64 x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static u32 float_bits(float x) {
  u32 bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// Formats as kernels/device.cu has them: 0 as drawn, 1 f32, 2 bf16, 4 fp8 e4m3, 6 scales.
static u64 encode(u64 draw, u32 format, float largest) {
  u64 bytes = 0;
  switch (format) {
    case 1:
      for (u32 at = 0; at < 64; at += 32)
        bytes |= (u64)float_bits((float)((int32_t)(draw >> at) >> 8) / (1 << 23)) << at;
      return bytes;
    case 2:
      for (u32 at = 0; at < 64; at += 16) {
        const int32_t high = (int16_t)(draw >> at) >> 8;
        bytes |= (u64)(float_bits((float)(2 * high + 1) / 256.0f) >> 16) << at;
      }
      return bytes;
    case 4:
      for (u32 at = 0; at < 64; at += 8) {
        const u32 bits = draw >> at & 0xff;
        bytes |= (u64)((bits >> 3 & 7) == 7 ? bits & 0x87 : bits & 0xbf) << at;
      }
      return bytes;
    case 6:
      for (u32 at = 0; at < 64; at += 32) {
        const float value = (float)((int32_t)(draw >> at) >> 8) / (1 << 23);
        const float size = value < 0 ? -value : value;
        bytes |= (u64)float_bits(largest * (0.5f + 0.5f * size)) << at;
      }
      return bytes;
    default:
      return draw;
  }
}

// key or source, to, draws, format, the largest scale
static void fill_one(const u64 *p) {
  u64 *to = (u64 *)p[1];
  const u32 format = p[3];
  const float largest = *(const float *)&p[4];
  for (u64 i = 0; i < p[2]; ++i)
    to[i] = format == 9 ? ~0ull
          : format == 10 ? ((const u64 *)p[0])[i]
          : encode(mix(p[0] ^ (i * 0x9e3779b97f4a7c15ull)), format, largest);
}

// jobs, count
static void fill(const u64 *p) {
  for (u64 i = 0; i < p[1]; ++i) fill_one((const u64 *)p[0] + 5 * i);
}

static void digest(const u64 *p) {
  const u64 *pairs = (const u64 *)p[0];
  for (u64 i = 0; i < p[2]; ++i)
    *(u64 *)p[1] += mix(pairs[i] ^ ((i + 1) * 0x9e3779b97f4a7c15ull));
}

// source, second, target, checksum, progress, vectors, passes, pattern; of stream.cu
static void stream(const char *entry, const u64 *p) {
  const u32 *source = (const u32 *)p[0];
  u32 *target = (u32 *)p[2];
  u32 sum = 0;
  for (u64 i = 0; i < 4 * p[5]; ++i) {
    if (!strcmp(entry, "stream_read")) sum += source[i];
    if (!strcmp(entry, "stream_write")) target[i] = (u32)p[7];
    if (!strcmp(entry, "stream_copy")) target[i] = source[i];
  }
  if (!strcmp(entry, "stream_read")) *(u32 *)p[3] = sum * (u32)p[6];
}

static void read_clocks(const u64 *p) {
  const u64 ns = now_ns();
  for (u32 sm = 0; sm < (u32)p[2]; ++sm) {
    ((u64 *)p[0])[sm] = ns * 3 / 2;  // 1.5 GHz
    ((u64 *)p[1])[sm] = ns;
  }
}

// How a test sees what reached the driver: number of attributes, then the id
// and four values of each, as 32-bit words at the address in the parameter.
static void report_attributes(const Config *config, const u64 *p) {
  u32 *to = (u32 *)p[0];
  const Attribute *attributes = config->attributes;
  *to++ = config->count;
  for (u32 i = 0; i < config->count; ++i) {
    *to++ = attributes[i].id;
    for (u32 j = 0; j < 4; ++j) *to++ = attributes[i].value[j];
  }
}

static void run(const Config *config, const Function *function, const void *params) {
  const char *entry = function->name;
  if (*FAULT && !strcmp(entry, FAULT)) broken = ILLEGAL_ADDRESS;
  if (!strcmp(entry, "fill")) fill(params);
  if (!strcmp(entry, "digest")) digest(params);
  if (is_stream(entry)) stream(entry, params);
  if (!strcmp(entry, "read_clocks")) read_clocks(params);
  if (!strcmp(entry, "hold")) held = *(u32 **)params;
  if (!strcmp(entry, "report_attributes")) report_attributes(config, params);
  if (!strcmp(entry, "spin")) {
    const u64 end = now_ns() + *(const u64 *)params;
    while (now_ns() < end) {
    }
  }
#ifdef HOLD_TIMES_OUT
  if (!strcmp(entry, "hold")) **(u32 **)((char *)params + 8) = 1;
#endif
}

// --- Streams, graphs, launches ------------------------------------------------------

// The most bytes that a parameter of a kernel implemented here has.
enum { PARAM_BYTES = 64 };
// A launch, or without a function a copy.
typedef struct Node {
  Config config;
  Function *function;
  char params[PARAM_BYTES];
  void *to;
  const void *from;
  size_t bytes;
  // Of another library's mock: what it has queued.
  void (*call)(void *);
  void *data;
  struct Node *next;
} Node;
typedef struct { Node *first, **last; } Graph;

static Graph *captured = NULL;

static int is_recording(void) { return captured != NULL; }
static void record(Node *node) {
  *captured->last = node;
  captured->last = &node->next;
}
static int record_copy(void *to, const void *from, size_t bytes) {
  Node *node = calloc(1, sizeof(Node));
  node->to = to;
  node->from = from;
  node->bytes = bytes;
  record(node);
  return OK;
}

// For mocks of libraries that queue work of their own: calls now, or when what is being
// recorded is launched. `data` stays theirs.
void mockQueue(void (*call)(void *), void *data) {
  if (!captured) {
    call(data);
    return;
  }
  Node *node = calloc(1, sizeof(Node));
  node->call = call;
  node->data = data;
  record(node);
}

int cuStreamCreate(void **stream, unsigned flags) { *stream = &captured; return OK; }
int cuStreamDestroy_v2(void *stream) { return OK; }
int cuStreamSynchronize(void *stream) { return broken; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return broken; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
  captured = calloc(1, sizeof(Graph));
  captured->last = &captured->first;
  return OK;
}
int cuStreamEndCapture(void *stream, Graph **graph) {
  *graph = captured;
  captured = NULL;
  return OK;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long flags) {
  *executable = graph;
  return OK;
}
int cuGraphUpload(Graph *graph, void *stream) { return broken; }
int cuGraphLaunch(Graph *graph, void *stream) {
  for (Node *node = graph->first; node; node = node->next) {
    if (node->call) node->call(node->data);
    else if (node->function) run(&node->config, node->function, node->params);
    else copy(node->to, node->from, node->bytes);
  }
  return OK;
}
int cuGraphExecDestroy(Graph *graph) { return OK; }
int cuGraphDestroy(Graph *graph) {
  for (Node *node = graph->first, *next; node; node = next) {
    next = node->next;
    free(node);
  }
  free(graph);
  return OK;
}
#ifndef WITHOUT_LAUNCH
int cuLaunchKernelEx(const Config *config, Function *function, void **params, void **extra) {
  const u64 threads = (u64)config->block[0] * config->block[1] * config->block[2];
  if (broken) return broken;
  if (threads == 0 || threads > 1024 || config->grid[0] == 0) return INVALID_VALUE;
  if (config->shared_bytes > (u32)function->shared_bytes) return INVALID_VALUE;
  const void *param = params ? params[0] : NULL;
  if (!captured) {
    run(config, function, param);
    return OK;
  }
  Node *node = calloc(1, sizeof(Node));
  node->config = *config;
  node->function = function;
  // Only kernels implemented here have their parameter read, and all of those
  // have at least this much but for the small ones, which are never captured.
  if (is_stream(function->name)) memcpy(node->params, param, 64);
  record(node);
  return OK;
}
#endif

// --- Events ---------------------------------------------------------------------

// When it was passed, and whether it was asked to keep time: flag 2 says that it need not.
int cuEventCreate(u64 **event, unsigned flags) {
  if (flags != 0 && flags != 2) return INVALID_VALUE;
  *event = calloc(2, sizeof(u64));
  (*event)[1] = flags == 0;
  return OK;
}
int cuEventDestroy_v2(u64 *event) { free(event); return OK; }
int cuEventRecord(u64 *event, void *stream) { *event = now_ns(); return OK; }
int cuEventElapsedTime(float *ms, const u64 *start, const u64 *stop) {
  // A program that forgets to ask for timing shows here.
  if (!start[1] || !stop[1]) return INVALID_HANDLE;
  *ms = (float)((*stop - *start) * 1e-6);
  return broken;
}

// --- Tensor maps ------------------------------------------------------------------

// Echoes its arguments into the map.
int cuTensorMapEncodeTiled(u64 *map, int type, u32 rank, void *address, const u64 *extents,
                           const u64 *strides, const u32 *tile, const u32 *steps, int interleave,
                           int swizzle, int promotion, int fill) {
  memset(map, 0, 128);
  if (rank < 1 || rank > 5 || steps[0] != 1) return INVALID_VALUE;
  map[0] = (u64)address;
  map[1] = type;
  map[2] = rank;
  map[3] = extents[rank - 1];
  map[4] = rank > 1 ? strides[rank - 2] : 0;
  map[5] = tile[rank - 1];
  map[6] = swizzle;
  return OK;
}
