// What every CPU kernel starts from: the calling convention, the narrow dtypes, and exact conversions between them and f32.
//
// Plain C++17 without vectors. An instruction set's own prelude (`prelude.cpu.<isa>.h`) adds `f32x16`, sixteen f32 lanes, one
// for each column of a weight panel; `prelude.cpu.math.h` adds what can be said in those lanes on every machine.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

// One launch of a kernel. Units begin … end − 1 are this call's; other threads run other ranges at the same time.
struct IngotLaunch {
  void* const* args;    // inputs in the order of the kernel's spec, the output last
  const int32_t* dims;  // {T tokens, B sequences, S sampled rows, P blocks per block table}
  void* scratch;        // this thread's own, 64-byte aligned, content undefined
};

#define INGOT_KERNEL extern "C" __attribute__((visibility("default")))
#define INGOT_INLINE static inline __attribute__((always_inline))

// Unrolls the next loop, whose trip count is a small constant, so that arrays of accumulators become registers.
#if defined(__clang__)
#define INGOT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define INGOT_UNROLL _Pragma("GCC unroll 16")
#endif

namespace ingot {

// Index of each symbol in IngotLaunch::dims.
enum Symbol : int { kTokens = 0, kSequences = 1, kSampledRows = 2, kBlocksPerTable = 3 };

// Storage of the narrow dtypes; arithmetic is always in f32.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

INGOT_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

INGOT_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// Zero of its sign where x is subnormal.
INGOT_INLINE float flushed(float x) {
  const uint32_t bits = bits_of(x);
  return (bits & 0x7f800000) == 0 ? float_of(bits & 0x80000000) : x;
}

INGOT_INLINE float widen(float x) { return x; }
INGOT_INLINE float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
INGOT_INLINE float widen(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16;
  const uint32_t rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
  if (rest >= 0x0400) return float_of(sign | ((rest << 13) + 0x38000000));
  const float subnormal = float(rest) * 0x1p-24f;  // exact
  return float_of(sign | bits_of(subnormal));
}

// Round to nearest, ties to even; NaN stays a (quiet) NaN.
INGOT_INLINE void narrow(float x, float* to) { *to = x; }
INGOT_INLINE void narrow(float x, bf16* to) {
  const uint32_t bits = bits_of(x);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  to->bits = uint16_t(nan ? (bits >> 16 | 0x40) : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INGOT_INLINE void narrow(float x, f16* to) {
  const uint32_t bits = bits_of(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t rest = bits & 0x7fffffff;
  uint32_t half;
  if (rest > 0x7f800000) {
    half = 0x7e00 | (rest >> 13 & 0x3ff);
  } else if (rest >= 0x477ff000) {  // rounds to 2^16 or more
    half = 0x7c00;
  } else if (rest >= 0x38800000) {  // normal: at least 2^-14
    half = (rest + 0xfff + (rest >> 13 & 1) - 0x38000000) >> 13;
  } else {  // subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits
    half = bits_of(float_of(rest) + 0.5f) - 0x3f000000;
  }
  to->bits = uint16_t(sign | half);
}

INGOT_INLINE void prefetch(const void* line) { __builtin_prefetch(line, 0, 3); }
INGOT_INLINE void prefetch_l2(const void* line) { __builtin_prefetch(line, 0, 2); }

// Buffers of activations. `rows` is row-major; `tile16x32` is [ceil(rows / 16)][ceil(cols / 32)][16][32], the order in which
// matrix units read their left operand; whoever writes it writes zeros beyond `cols`.
template <int64_t kCols>
constexpr int64_t rows_at(int64_t row, int64_t col) {
  return row * kCols + col;
}
template <int64_t kCols>
constexpr int64_t tile16x32_at(int64_t row, int64_t col) {
  return (int64_t(uint64_t(row) / 16) * ceil_div(kCols, 32) + int64_t(uint64_t(col) / 32)) * 512 +
         int64_t(uint64_t(row) % 16) * 32 + int64_t(uint64_t(col) % 32);
}

// Weights in `panel16`: panels of 16 output columns; inside, (k, column) for f32 and f16, (k / 2, column, k % 2) for bf16.
template <class T>
constexpr int64_t panel16_at(int64_t k, int64_t lane) {
  return k * 16 + lane;
}
template <>
constexpr int64_t panel16_at<bf16>(int64_t k, int64_t lane) {
  return int64_t(uint64_t(k) / 2) * 32 + lane * 2 + int64_t(uint64_t(k) % 2);
}

}  // namespace ingot
