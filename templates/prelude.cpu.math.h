// What can be said in sixteen lanes on every machine: partial loads and stores, exponentials, panel rows.
//
// Included at the end of each instruction set's prelude; the same text, so the same order of operations everywhere.
#pragma once

namespace ingot {

// The first `count` of sixteen lanes (1 … 16); the others read as zero, or are not written.
template <class T>
INGOT_INLINE f32x16 load_first(const T* p, int64_t count) {
  if (count >= 16) return load(p);
  T lanes[16] = {};
  memcpy(lanes, p, size_t(count) * sizeof(T));
  return load(lanes);
}
template <class T>
INGOT_INLINE void store_first(T* p, f32x16 x, int64_t count) {
  if (count >= 16) return store(p, x);
  T lanes[16];
  store(lanes, x);
  memcpy(p, lanes, size_t(count) * sizeof(T));
}

// 0, 1, … 15
INGOT_INLINE f32x16 lane_index() {
  static const float kIndex[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(kIndex);
}

// e^x within 2 ulp for −87.3 ≤ x ≤ 88.3; e^−87.3 below that, ∞ above 88.4; e^0 is exactly 1, e^NaN is NaN.
// x = n · ln 2 + r with |r| ≤ ln 2 / 2; e^r by a polynomial of degree 6 (coefficients of Cephes' expf).
INGOT_INLINE f32x16 exp(f32x16 x) {
  x = min(splat(89.0f), max(splat(-87.3f), x));
  const f32x16 shift = splat(0x1.8p23f);
  const f32x16 t = fma(x, splat(0x1.715476p0f), shift);
  const f32x16 n = t - shift;
  f32x16 r = fma(n, splat(-0x1.63p-1f), x);
  r = fma(n, splat(0x1.bd0106p-13f), r);
  f32x16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p * r, r, r) + splat(1.0f);
  return p * pow2_of_shifted(t);
}

// The smaller and the larger of two numbers, NaN if either is (IEEE 754's names for that). Of two zeros either.
INGOT_INLINE f32x16 minimum(f32x16 a, f32x16 b) { return nan_or(a, min(a, b)); }
INGOT_INLINE f32x16 maximum(f32x16 a, f32x16 b) { return nan_or(a, max(a, b)); }

// 1 / (1 + e^−x) and x / (1 + e^−x), to 4 ulp for x ≥ −88.3; 0 below −88.4, where sigmoid is less than the normal numbers.
INGOT_INLINE f32x16 sigmoid(f32x16 x) { return splat(1.0f) / (splat(1.0f) + exp(zero() - x)); }
INGOT_INLINE f32x16 silu(f32x16 x) { return x / (splat(1.0f) + exp(zero() - x)); }

// ½ x (1 + tanh u) = x / (1 + e^−2u) with u = √(2/π) (x + 0.044715 x³), which does not cancel for x < 0. Within 4 + 6 |u| ulp:
// what rounding u leaves of e^−2u.
INGOT_INLINE f32x16 gelu_tanh(f32x16 x) {
  const f32x16 minus_2u = x * fma(x * x, splat(-0.0713548163f), splat(-1.5957691f));
  return x / (splat(1.0f) + exp(minus_2u));
}

// Within 4 ulp: near 0 an odd polynomial (coefficients of Cephes' tanhf), elsewhere ±(1 − 2 / (1 + e^2|x|)).
INGOT_INLINE f32x16 tanh(f32x16 x) {
  const f32x16 size = max(zero() - x, x);
  const f32x16 far = splat(1.0f) - splat(2.0f) / (splat(1.0f) + exp(size + size));
  const f32x16 z = x * x;
  f32x16 p = splat(-5.70498872745e-3f);
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const f32x16 near = x * fma(p, z, splat(1.0f));
  return select_less(size, splat(0.625f), near, select_less(x, zero(), zero() - far, far));
}

// Sixteen columns of weights at k: row of a panel16. `kOdd` says whether k is odd, which bf16's pairs need to know.
template <bool kOdd>
INGOT_INLINE f32x16 panel_row(const float* panel, int64_t k) {
  return load(panel + k * 16);
}
template <bool kOdd>
INGOT_INLINE f32x16 panel_row(const f16* panel, int64_t k) {
  return load(panel + k * 16);
}
template <bool kOdd>
INGOT_INLINE f32x16 panel_row(const bf16* panel, int64_t k) {
  return kOdd ? load_odd(panel + (k - 1) * 16) : load_even(panel + k * 16);
}

}  // namespace ingot
