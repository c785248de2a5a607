// A stand-in for libcublasLt, built by the tests with the system's C compiler, for the mock
// driver, whose device memory is host memory. It multiplies matrices as the library documents
// it, in column-major order and with the operands' transpositions, in bf16 and f32, and with
// scales of tensors and rows in FP8. Two algorithms are offered; macros:
//   WRONG=n    algorithm n, from 1, leaves a number out
//   FAILS=n    algorithm n cannot be run
//   SLOW=n     algorithm n takes longer
//   NONE       it has no algorithm
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef WRONG
#define WRONG 0
#endif
#ifndef FAILS
#define FAILS 0
#endif
#ifndef SLOW
#define SLOW 0
#endif

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16BF = 14, R_8F_E4M3 = 28, COMPUTE_32F = 68 };

typedef struct { int compute, scale_type, pointer_mode, transpose[2], scale_mode[2];
                 const float *scales[2]; } Product;
typedef struct { int type; uint64_t rows, columns; int64_t leading; } Layout;
typedef struct { uint64_t words[8]; } Algorithm;
typedef struct { Algorithm algorithm; size_t workspace; int status; float waves;
                 int reserved[4]; } Heuristic;

size_t cublasLtGetVersion(void) { return 130100; }
const char *cublasLtGetStatusName(int status) {
  return status == NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_INVALID_VALUE";
}
int cublasLtCreate(void **handle) { *handle = malloc(1); return OK; }
int cublasLtDestroy(void *handle) { free(handle); return OK; }
int cublasLtMatmulDescCreate(void **handle, int compute, int scale_type) {
  Product *product = calloc(1, sizeof(Product));
  product->compute = compute;
  product->scale_type = scale_type;
  *handle = product;
  return OK;
}
int cublasLtMatmulDescDestroy(void *handle) { free(handle); return OK; }
int cublasLtMatmulDescSetAttribute(Product *p, int attribute, const void *value, size_t bytes) {
  switch (attribute) {
    case 2: p->pointer_mode = *(const int *)value; return bytes == 4 ? OK : INVALID_VALUE;
    case 3: p->transpose[0] = *(const int *)value; return bytes == 4 ? OK : INVALID_VALUE;
    case 4: p->transpose[1] = *(const int *)value; return bytes == 4 ? OK : INVALID_VALUE;
    case 17: p->scales[0] = *(const float **)value; return bytes == 8 ? OK : INVALID_VALUE;
    case 18: p->scales[1] = *(const float **)value; return bytes == 8 ? OK : INVALID_VALUE;
    case 31: p->scale_mode[0] = *(const int *)value; return bytes == 4 ? OK : INVALID_VALUE;
    case 32: p->scale_mode[1] = *(const int *)value; return bytes == 4 ? OK : INVALID_VALUE;
  }
  return INVALID_VALUE;
}
int cublasLtMatrixLayoutCreate(void **handle, int type, uint64_t rows, uint64_t columns,
                               int64_t leading) {
  Layout *layout = malloc(sizeof(Layout));
  *layout = (Layout){type, rows, columns, leading};
  *handle = layout;
  return OK;
}
int cublasLtMatrixLayoutDestroy(void *handle) { free(handle); return OK; }
int cublasLtMatmulPreferenceCreate(void **handle) { *handle = calloc(1, 8); return OK; }
int cublasLtMatmulPreferenceDestroy(void *handle) { free(handle); return OK; }
int cublasLtMatmulPreferenceSetAttribute(void *p, int attribute, const void *value, size_t n) {
  return attribute == 1 && n == 8 ? OK : INVALID_VALUE;
}

static int fits(const Product *p, const Layout *a, const Layout *b, const Layout *d) {
  const uint64_t k = p->transpose[0] ? a->rows : a->columns;
  const uint64_t rows = p->transpose[0] ? a->columns : a->rows;
  return k == (p->transpose[1] ? b->columns : b->rows) && rows == d->rows
      && d->columns == (p->transpose[1] ? b->rows : b->columns);
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, const Product *p, const Layout *a,
                                   const Layout *b, const Layout *c, const Layout *d,
                                   void *preference, int most, Heuristic *found, int *count) {
  *count = 0;
#ifndef NONE
  if (!fits(p, a, b, d) || most < 2) return INVALID_VALUE;
  for (int i = 0; i < 2; ++i) {
    memset(&found[i], 0, sizeof(Heuristic));
    found[i].algorithm.words[0] = i + 1;
    found[i].workspace = 256;
  }
  *count = 2;
  return OK;
#else
  return NOT_SUPPORTED;
#endif
}

static float element(int type, const void *at, uint64_t index) {
  uint32_t bits = 0;
  if (type == R_32F) return ((const float *)at)[index];
  if (type == R_16BF) {
    bits = (uint32_t)((const uint16_t *)at)[index] << 16;
  } else {
    const uint8_t code = ((const uint8_t *)at)[index];
    const int exponent = code >> 3 & 15, fraction = code & 7;
    float value = exponent ? 1.0f + fraction / 8.0f : fraction / 8.0f;
    for (int e = exponent ? exponent : 1; e < 7; ++e) value /= 2;
    for (int e = 7; e < exponent; ++e) value *= 2;
    return code >> 7 ? -value : value;
  }
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static float scale(const Product *p, int operand, uint64_t row) {
  if (!p->scales[operand]) return 1;
  return p->scales[operand][p->scale_mode[operand] == 3 ? row : 0];
}

// A product that is queued.
typedef struct {
  Product product;
  Layout a_layout, b_layout, d_layout;
  const void *a, *b;
  void *d;
  float alpha;
  uint64_t algorithm;
} Queued;

static void multiply(void *queued) {
  const Queued *q = queued;
  const Product *p = &q->product;
  const Layout *al = &q->a_layout, *bl = &q->b_layout, *dl = &q->d_layout;
  if (q->algorithm == SLOW) {
    struct timespec wait = {0, 20000000};  // longer than what else runs may take
    nanosleep(&wait, 0);
  }
  const uint64_t k = p->transpose[0] ? al->rows : al->columns;
  for (uint64_t column = 0; column < dl->columns; ++column) {
    for (uint64_t row = 0; row < dl->rows; ++row) {
      double sum = 0;
      for (uint64_t i = q->algorithm == WRONG ? k / 2 : 0; i < k; ++i) {
        const uint64_t at_a = p->transpose[0] ? i + row * al->leading : row + i * al->leading;
        const uint64_t at_b =
            p->transpose[1] ? column + i * bl->leading : i + column * bl->leading;
        sum += (double)element(al->type, q->a, at_a) * element(bl->type, q->b, at_b);
      }
      const float value = (float)(sum * q->alpha * scale(p, 0, row) * scale(p, 1, column));
      const uint64_t to = row + column * dl->leading;
      if (dl->type == R_32F) {
        ((float *)q->d)[to] = value;
      } else {
        uint32_t bits;
        memcpy(&bits, &value, 4);
        ((uint16_t *)q->d)[to] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
      }
    }
  }
}

// The queue of the mock driver, which is open already.
static void queue(void (*call)(void *), void *data) {
  void *driver = dlopen("libcuda.so", RTLD_NOW);
  void (*into)(void (*)(void *), void *) = driver ? dlsym(driver, "mockQueue") : 0;
  if (into) into(call, data);
  else call(data);
}

int cublasLtMatmul(void *handle, const Product *p, const float *alpha, const void *a,
                   const Layout *al, const void *b, const Layout *bl, const float *beta,
                   const void *c, const Layout *cl, void *d, const Layout *dl,
                   const Algorithm *algorithm, void *workspace, size_t bytes, void *stream) {
  if (algorithm->words[0] == FAILS || !workspace || bytes != 256) return NOT_SUPPORTED;
  if (*beta != 0 || p->compute != COMPUTE_32F || p->scale_type != R_32F) return NOT_SUPPORTED;
  Queued *queued = malloc(sizeof(Queued));
  *queued = (Queued){*p, *al, *bl, *dl, a, b, d, *alpha, algorithm->words[0]};
  queue(multiply, queued);
  return OK;
}
