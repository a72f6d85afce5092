// Kernels written by hand for the executor's tests: small, deterministic, and unforgiving about order and coverage.
#include <stdint.h>
#include <string.h>
#include <time.h>

struct IngotLaunch {
  void* const* args;
  const int32_t* dims;
  void* scratch;
};

extern "C" {

extern const uint32_t ingot_abi;
const uint32_t ingot_abi = 1;

// args: u32 source[256], u32 target[256]; unit = one element of the target. Reads all over the source, so a step that
// starts before the one that wrote the source is done gives another value; reads its own target, so a unit run twice does too.
void mix(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const uint32_t* source = (const uint32_t*)launch->args[0];
  uint32_t* target = (uint32_t*)launch->args[1];
  const uint32_t t = (uint32_t)launch->dims[0];
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t value = source[((uint32_t)i * 37u + t) & 255u] * 2654435761u;
    target[i] = ((target[i] << 5) | (target[i] >> 27)) + (value ^ (uint32_t)i);
  }
}

// args: f32 x, f32 y (arrays); y[i] += T * x[i].
void axpy(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* x = (const float*)launch->args[0];
  float* y = (float*)launch->args[1];
  for (int64_t i = begin; i < end; ++i) y[i] += (float)launch->dims[0] * x[i];
}

// args: i32 counts, i32 begins, i32 ends; notes for every unit how often it ran and in which range.
void trace(const IngotLaunch* launch, int64_t begin, int64_t end) {
  int32_t* counts = (int32_t*)launch->args[0];
  int32_t* begins = (int32_t*)launch->args[1];
  int32_t* ends = (int32_t*)launch->args[2];
  for (int64_t i = begin; i < end; ++i) {
    counts[i] += 1;
    begins[i] = (int32_t)begin;
    ends[i] = (int32_t)end;
  }
}

// args: f32 x in weights, f32 partial sums; one unit per 64 numbers, through the scratch.
void sum(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* x = (const float*)launch->args[0];
  float* sums = (float*)launch->args[1];
  float* scratch = (float*)launch->scratch;
  for (int64_t i = begin; i < end; ++i) {
    memcpy(scratch, x + i * 64, 64 * sizeof(float));
    float total = 0;
    for (int k = 0; k < 64; ++k) total += scratch[k];
    sums[i] = total;
  }
}

// Each unit takes T milliseconds of wall time.
void wait_ms(const IngotLaunch* launch, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    struct timespec t = {launch->dims[0] / 1000, (launch->dims[0] % 1000) * 1000000L};
    nanosleep(&t, 0);
  }
}

void nothing(const IngotLaunch* launch, int64_t begin, int64_t end) {
  (void)launch;
  (void)begin;
  (void)end;
}

}
