// The device vocabulary on 64-bit ARM: sixteen lanes are four registers.
#pragma once

#include <arm_neon.h>

#include "prelude.cpu.h"

namespace ingot {

struct f32x16 {
  float32x4_t v[4];
};

#define INGOT_EACH4(expression)             \
  f32x16 r;                                 \
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { \
    r.v[i] = expression;                    \
  }                                         \
  return r

INGOT_INLINE f32x16 splat(float x) { INGOT_EACH4(vdupq_n_f32(x)); }
INGOT_INLINE f32x16 zero() { return splat(0.0f); }
INGOT_INLINE f32x16 load(const float* p) { INGOT_EACH4(vld1q_f32(p + 4 * i)); }
INGOT_INLINE void store(float* p, f32x16 x) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { vst1q_f32(p + 4 * i, x.v[i]); }
}
INGOT_INLINE f32x16 operator+(f32x16 a, f32x16 b) { INGOT_EACH4(vaddq_f32(a.v[i], b.v[i])); }
INGOT_INLINE f32x16 operator-(f32x16 a, f32x16 b) { INGOT_EACH4(vsubq_f32(a.v[i], b.v[i])); }
INGOT_INLINE f32x16 operator*(f32x16 a, f32x16 b) { INGOT_EACH4(vmulq_f32(a.v[i], b.v[i])); }
INGOT_INLINE f32x16 operator/(f32x16 a, f32x16 b) { INGOT_EACH4(vdivq_f32(a.v[i], b.v[i])); }
INGOT_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { INGOT_EACH4(vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
// The second operand wins if either is NaN.
INGOT_INLINE f32x16 max(f32x16 a, f32x16 b) { INGOT_EACH4(vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
INGOT_INLINE f32x16 min(f32x16 a, f32x16 b) { INGOT_EACH4(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
// a < b ? x : y, lane by lane.
INGOT_INLINE f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  INGOT_EACH4(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), x.v[i], y.v[i]));
}
// x where it is NaN, else y.
INGOT_INLINE f32x16 nan_or(f32x16 x, f32x16 y) { INGOT_EACH4(vbslq_f32(vceqq_f32(x.v[i], x.v[i]), y.v[i], x.v[i])); }

// 2^n where t = 1.5 · 2^23 + n: the low bits of t are n.
INGOT_INLINE f32x16 pow2_of_shifted(f32x16 t) {
  INGOT_EACH4(vreinterpretq_f32_u32(vaddq_u32(vshlq_n_u32(vreinterpretq_u32_f32(t.v[i]), 23), vdupq_n_u32(0x3f800000))));
}

INGOT_INLINE uint32x4_t round_bf16_4(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vandq_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), vdupq_n_u32(0xffff0000));
}
// Rounded to the nearest bf16, still in f32.
INGOT_INLINE f32x16 round_bf16(f32x16 x) { INGOT_EACH4(vreinterpretq_f32_u32(round_bf16_4(x.v[i]))); }

INGOT_INLINE f32x16 load(const bf16* p) {
  INGOT_EACH4(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16((const uint16_t*)p + 4 * i), 16)));
}
INGOT_INLINE void store(bf16* p, f32x16 x) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { vst1_u16((uint16_t*)p + 4 * i, vshrn_n_u32(round_bf16_4(x.v[i]), 16)); }
}
INGOT_INLINE float16x4_t load_half4(const f16* p) { return vreinterpret_f16_u16(vld1_u16((const uint16_t*)p)); }
INGOT_INLINE f32x16 load(const f16* p) { INGOT_EACH4(vcvt_f32_f16(load_half4(p + 4 * i))); }
INGOT_INLINE void store(f16* p, f32x16 x) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    vst1_u16((uint16_t*)p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
  }
}
INGOT_INLINE f32x16 round_f16(f32x16 x) { INGOT_EACH4(vcvt_f32_f16(vcvt_f16_f32(x.v[i]))); }

// Lane c of a bf16 pair row holds (k, k + 1) of column c in its low and high half: the even and the odd k as f32.
INGOT_INLINE uint32x4_t load_pairs4(const bf16* pairs) { return vreinterpretq_u32_u16(vld1q_u16((const uint16_t*)pairs)); }
INGOT_INLINE f32x16 load_even(const bf16* pairs) {
  INGOT_EACH4(vreinterpretq_f32_u32(vshlq_n_u32(load_pairs4(pairs + 8 * i), 16)));
}
INGOT_INLINE f32x16 load_odd(const bf16* pairs) {
  INGOT_EACH4(vreinterpretq_f32_u32(vandq_u32(load_pairs4(pairs + 8 * i), vdupq_n_u32(0xffff0000))));
}

// Halves are folded onto each other: 16 lanes to 8, 4, 2, 1. The same order on every instruction set.
INGOT_INLINE float reduce_add(f32x16 x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
INGOT_INLINE float reduce_max(f32x16 x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[2]), vmaxq_f32(x.v[1], x.v[3])));
}

#undef INGOT_EACH4

}  // namespace ingot

#include "prelude.cpu.math.h"
