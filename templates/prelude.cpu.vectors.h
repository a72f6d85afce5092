// Vectors of one hardware register in the compiler's own notation: what the sampler's passes over a vocabulary are written in.
//
// As wide as the level's registers, where `f32x16` is sixteen lanes everywhere; the compiler takes wider vectors apart badly.
#pragma once

#include "prelude.cpu.h"

namespace ingot {
namespace vectors {

#if defined(__AVX512F__)
enum { kLanes = 16 };
#elif defined(__AVX__)
enum { kLanes = 8 };
#else
enum { kLanes = 4 };
#endif

typedef float f32v __attribute__((vector_size(4 * kLanes)));
typedef int32_t i32v __attribute__((vector_size(4 * kLanes)));

INGOT_INLINE f32v load(const float* p) {
  f32v v;
  memcpy(&v, p, sizeof v);
  return v;
}

INGOT_INLINE void store(float* p, f32v v) { memcpy(p, &v, sizeof v); }

INGOT_INLINE f32v splat(float x) { return f32v{} + x; }

// `n` < kLanes values and `fill` after them.
INGOT_INLINE f32v load_tail(const float* p, int64_t n, float fill) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}

INGOT_INLINE f32v max_by_lane(f32v a, f32v b) { return a > b ? a : b; }

INGOT_INLINE float max_of(f32v v) {
  float lanes[kLanes];
  store(lanes, v);
  float m = lanes[0];
  for (int i = 1; i < kLanes; ++i) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

INGOT_INLINE double sum_of(f32v v) {
  float lanes[kLanes];
  store(lanes, v);
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

// exp(x) for x <= 0, relative error 2e-7; 0 below -87, where the result would leave the normal numbers.
INGOT_INLINE f32v exp_of(f32v x) {
  const f32v y = max_by_lane(x, splat(-87.0f));
  const i32v n = __builtin_convertvector(y * 1.44269504f - 0.5f, i32v);  // truncation after −½ rounds to nearest
  const f32v f = __builtin_convertvector(n, f32v);
  const f32v r = (y - f * 0.693359375f) + f * 2.12194440e-4f;  // ln 2 in two pieces
  f32v p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const i32v bits = (n + 127) << 23;
  f32v scale;
  memcpy(&scale, &bits, sizeof scale);
  return x < -87.0f ? f32v{} : p * scale;
}

// NaN and +∞, by their bits: true whatever the compiler assumes about floating point.
INGOT_INLINE i32v unusable(f32v v) {
  i32v bits;
  memcpy(&bits, &v, sizeof bits);
  return ((bits & 0x7f800000) == 0x7f800000) & (bits != (int32_t)0xff800000);
}

}  // namespace vectors
}  // namespace ingot
