/* Enough of NVRTC to test the loader: built by the tests with the version that
   they want. A text that holds "reject" does not compile. */
#include <stdlib.h>
#include <string.h>

struct program { int rejected, real; };

int nvrtcVersion(int *major, int *minor) { *major = MAJOR; *minor = MINOR; return 0; }
int nvrtcGetNumSupportedArchs(int *count) { *count = 2; return 0; }
int nvrtcGetSupportedArchs(int *archs) { archs[0] = 80; archs[1] = 90; return 0; }
const char *nvrtcGetErrorString(int code) { return code ? "MOCK_ERROR" : "MOCK_SUCCESS"; }

int nvrtcCreateProgram(struct program **p, const char *text, const char *name, int headers,
                       const char *const *texts, const char *const *names) {
  *p = calloc(1, sizeof **p);
  (*p)->rejected = strstr(text, "reject") != NULL;
  for (int i = 0; i < headers; ++i) (*p)->rejected |= strstr(texts[i], "reject") != NULL;
  return 0;
}
int nvrtcDestroyProgram(struct program **p) { free(*p); *p = NULL; return 0; }
int nvrtcCompileProgram(struct program *p, int count, const char *const *options) {
  p->real = count > 0 && strstr(options[0], "=sm_") != NULL;
  return p->rejected ? 6 : 0;
}

static const char LOG[] = "ptxas info    : Compiling entry function 'k' for 'sm_90'\n"
                          "ptxas info    : Used 24 registers, used 0 barriers\n";
#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
static const char PTX[] = "// Cuda compilation tools, release " TEXT(MAJOR) "." TEXT(MINOR)
                          ", V" TEXT(MAJOR) "." TEXT(MINOR) ".7\n.entry k(.param .u64 k_0)\n{\n}\n";

int nvrtcGetProgramLogSize(struct program *p, size_t *n) { *n = sizeof LOG; return 0; }
int nvrtcGetProgramLog(struct program *p, char *log) { memcpy(log, LOG, sizeof LOG); return 0; }
int nvrtcGetPTXSize(struct program *p, size_t *n) { *n = sizeof PTX; return 0; }
int nvrtcGetPTX(struct program *p, char *ptx) { memcpy(ptx, PTX, sizeof PTX); return 0; }
int nvrtcGetCUBINSize(struct program *p, size_t *n) { *n = p->real ? 5 : 0; return 0; }
#ifndef OLD
int nvrtcGetCUBIN(struct program *p, char *cubin) { memcpy(cubin, "image", 5); return 0; }
#endif
