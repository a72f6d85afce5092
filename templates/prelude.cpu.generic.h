// The device vocabulary in plain C++: sixteen lanes as four vectors of four, which every compiler lowers to what it has.
//
// No fused multiply-add is assumed, so sums may differ from the other instruction sets in the last bit.
#pragma once

#include "prelude.cpu.h"

namespace ingot {

typedef float f32x4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t u32x4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i32x4 __attribute__((vector_size(16)));

struct f32x16 {
  f32x4 v[4];
};

#define INGOT_EACH4(expression)             \
  f32x16 r;                                 \
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { \
    r.v[i] = expression;                    \
  }                                         \
  return r

INGOT_INLINE f32x16 splat(float x) { INGOT_EACH4((f32x4{x, x, x, x})); }
INGOT_INLINE f32x16 zero() { return splat(0.0f); }
INGOT_INLINE f32x16 load(const float* p) { INGOT_EACH4(((const f32x4*)p)[i]); }
INGOT_INLINE void store(float* p, f32x16 x) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { ((f32x4*)p)[i] = x.v[i]; }
}
INGOT_INLINE f32x16 operator+(f32x16 a, f32x16 b) { INGOT_EACH4(a.v[i] + b.v[i]); }
INGOT_INLINE f32x16 operator-(f32x16 a, f32x16 b) { INGOT_EACH4(a.v[i] - b.v[i]); }
INGOT_INLINE f32x16 operator*(f32x16 a, f32x16 b) { INGOT_EACH4(a.v[i] * b.v[i]); }
INGOT_INLINE f32x16 operator/(f32x16 a, f32x16 b) { INGOT_EACH4(a.v[i] / b.v[i]); }
INGOT_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { INGOT_EACH4(a.v[i] * b.v[i] + c.v[i]); }
INGOT_INLINE f32x4 select4(i32x4 mask, f32x4 a, f32x4 b) { return (f32x4)((mask & (i32x4)a) | (~mask & (i32x4)b)); }
// The second operand wins if either is NaN.
INGOT_INLINE f32x16 max(f32x16 a, f32x16 b) { INGOT_EACH4(select4((i32x4)(a.v[i] > b.v[i]), a.v[i], b.v[i])); }
INGOT_INLINE f32x16 min(f32x16 a, f32x16 b) { INGOT_EACH4(select4((i32x4)(a.v[i] < b.v[i]), a.v[i], b.v[i])); }
// a < b ? x : y, lane by lane.
INGOT_INLINE f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  INGOT_EACH4(select4((i32x4)(a.v[i] < b.v[i]), x.v[i], y.v[i]));
}
// x where it is NaN, else y.
INGOT_INLINE f32x16 nan_or(f32x16 x, f32x16 y) { INGOT_EACH4(select4((i32x4)(x.v[i] == x.v[i]), y.v[i], x.v[i])); }

// 2^n where t = 1.5 · 2^23 + n: the low bits of t are n.
INGOT_INLINE f32x16 pow2_of_shifted(f32x16 t) { INGOT_EACH4((f32x4)(((u32x4)t.v[i] << 23) + 0x3f800000u)); }

// Rounded to the nearest bf16, still in f32.
INGOT_INLINE f32x16 round_bf16(f32x16 x) {
  f32x16 r;
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    const u32x4 bits = (u32x4)x.v[i];
    const u32x4 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
    r.v[i] = select4((i32x4)(x.v[i] == x.v[i]), (f32x4)rounded, (f32x4)((bits | 0x400000u) & 0xffff0000u));
  }
  return r;
}

template <class T>
INGOT_INLINE f32x16 load_scalars(const T* p) {
  float x[16];
  for (int i = 0; i < 16; ++i) x[i] = widen(p[i]);
  return load(x);
}
template <class T>
INGOT_INLINE void store_scalars(T* p, f32x16 v) {
  float x[16];
  store(x, v);
  for (int i = 0; i < 16; ++i) narrow(x[i], &p[i]);
}
INGOT_INLINE f32x16 load(const bf16* p) { return load_scalars(p); }
INGOT_INLINE f32x16 load(const f16* p) { return load_scalars(p); }
INGOT_INLINE void store(bf16* p, f32x16 v) { store_scalars(p, v); }
INGOT_INLINE void store(f16* p, f32x16 v) { store_scalars(p, v); }
INGOT_INLINE f32x16 round_f16(f32x16 x) {
  f16 half[16];
  store(half, x);
  return load(half);
}

// Lane c of a bf16 pair row holds (k, k + 1) of column c in its low and high half: the even and the odd k as f32.
INGOT_INLINE f32x16 load_even(const bf16* pairs) {
  f32x16 r;
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    u32x4 word;
    memcpy(&word, pairs + 8 * i, sizeof word);
    r.v[i] = (f32x4)(word << 16);
  }
  return r;
}
INGOT_INLINE f32x16 load_odd(const bf16* pairs) {
  f32x16 r;
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    u32x4 word;
    memcpy(&word, pairs + 8 * i, sizeof word);
    r.v[i] = (f32x4)(word & 0xffff0000u);
  }
  return r;
}

// Halves are folded onto each other: 16 lanes to 8, 4, 2, 1. The same order on every instruction set.
INGOT_INLINE float reduce_add(f32x16 x) {
  const f32x4 s = (x.v[0] + x.v[2]) + (x.v[1] + x.v[3]);
  return (s[0] + s[2]) + (s[1] + s[3]);
}
INGOT_INLINE float reduce_max(f32x16 x) {
  float lanes[16];
  store(lanes, x);
  float m = lanes[0];
  for (int i = 1; i < 16; ++i) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

#undef INGOT_EACH4

}  // namespace ingot

#include "prelude.cpu.math.h"
