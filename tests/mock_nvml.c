// A stand-in for libnvidia-ml, built by the tests with the system's C compiler. Macros:
//   UUID="GPU-..."  the GPU that it knows
//   HEAT_FROM=n     from the n-th time that it is asked, the GPU has been slowed down for heat,
//   HEAT_FOR=n      and more so for n times
//   BUSY            the process that started this one computes on the GPU
#include <string.h>
#include <unistd.h>

#ifndef HEAT_FROM
#define HEAT_FROM 0
#endif
#ifndef HEAT_FOR
#define HEAT_FOR 0
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef struct { unsigned long long reference_us, violation_ns; } Violation;
typedef struct {
    unsigned pid;
    unsigned long long timestamp_us;
    unsigned sm, memory, encoder, decoder;
} Sample;

static int gpu;

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    strncpy(version, "580.65.06", length);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    *device = &gpu;
    return strcmp(uuid, UUID) == 0 ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) {
    *celsius = 61;
    return device == &gpu && sensor == 0 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetViolationStatus(void *device, int policy, Violation *violation) {
    static int asked;
    int hot = asked++ - HEAT_FROM + 1;
    violation->reference_us = asked;
    violation->violation_ns = HEAT_FOR == 0 || hot < 0 ? 0 : hot < HEAT_FOR ? hot : HEAT_FOR;
    return device == &gpu && policy == 1 ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlDeviceGetProcessUtilization(
    void *device, Sample *samples, unsigned *count, unsigned long long seen_us
) {
#ifdef BUSY
    static unsigned long long now_us;
    if (samples == 0) {
        *count = 2;
        return INSUFFICIENT_SIZE;
    }
    // One that only holds memory disturbs nobody.
    samples[0] = (Sample){.pid = getppid(), .timestamp_us = ++now_us, .sm = 40};
    samples[1] = (Sample){.pid = 1, .timestamp_us = now_us, .sm = 0};
    *count = 2;
#else
    *count = 0;
#endif
    return device == &gpu ? SUCCESS : INVALID_ARGUMENT;
}
