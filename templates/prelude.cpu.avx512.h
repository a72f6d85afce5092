// The device vocabulary on AVX-512 (F, BW, VL): sixteen lanes are one register.
#pragma once

#include <immintrin.h>

#include "prelude.cpu.h"

namespace ingot {

typedef __m512 f32x16;  // + − · / are the compiler's own on vectors

INGOT_INLINE f32x16 splat(float x) { return _mm512_set1_ps(x); }
INGOT_INLINE f32x16 zero() { return _mm512_setzero_ps(); }
INGOT_INLINE f32x16 load(const float* p) { return _mm512_loadu_ps(p); }
INGOT_INLINE void store(float* p, f32x16 x) { _mm512_storeu_ps(p, x); }
INGOT_INLINE f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand wins if either is NaN.
INGOT_INLINE f32x16 max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
INGOT_INLINE f32x16 min(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); }
// a < b ? x : y, lane by lane.
INGOT_INLINE f32x16 select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
// x where it is NaN, else y.
INGOT_INLINE f32x16 nan_or(f32x16 x, f32x16 y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), y, x);
}

// 2^n where t = 1.5 · 2^23 + n: the low bits of t are n.
INGOT_INLINE f32x16 pow2_of_shifted(f32x16 t) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(t), 23), _mm512_set1_epi32(0x3f800000)));
}

// Rounded to the nearest bf16, still in f32. (VCVTNEPS2BF16 would flush subnormals.)
INGOT_INLINE f32x16 round_bf16(f32x16 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i chosen =
      _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  return _mm512_castsi512_ps(_mm512_and_si512(chosen, _mm512_set1_epi32(int(0xffff0000))));
}

INGOT_INLINE f32x16 load(const bf16* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INGOT_INLINE void store(bf16* p, f32x16 x) {
  const __m512i high = _mm512_srli_epi32(_mm512_castps_si512(round_bf16(x)), 16);
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(high));
}
INGOT_INLINE f32x16 load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INGOT_INLINE void store(f16* p, f32x16 x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
INGOT_INLINE f32x16 round_f16(f32x16 x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }

// Lane c of a bf16 pair row holds (k, k + 1) of column c in its low and high half: the even and the odd k as f32.
INGOT_INLINE f32x16 load_even(const bf16* pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
INGOT_INLINE f32x16 load_odd(const bf16* pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(int(0xffff0000))));
}

INGOT_INLINE __m256 upper_half(f32x16 x) {
  return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
}
// Halves are folded onto each other: 16 lanes to 8, 4, 2, 1. The same order on every instruction set.
INGOT_INLINE float reduce_add(f32x16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), upper_half(x));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INGOT_INLINE float reduce_max(f32x16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), upper_half(x));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace ingot

#include "prelude.cpu.math.h"
