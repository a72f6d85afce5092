// Products of bf16 pairs (AVX-512 BF16): in each of sixteen lanes c + x1 · w1 + x0 · w0, the pair's second product first.
//
// Included after a prelude with lanes. With INGOT_PAIR_TWIN the same functions are plain C++ and run on any machine, bit for bit
// what the instruction computes: each step one fused multiply-add, subnormals counted as zero before and after it.
#pragma once

namespace ingot {

#if !defined(INGOT_PAIR_TWIN)

typedef __m512i bf16x32;  // sixteen pairs

INGOT_INLINE bf16x32 load_pairs(const bf16* p) { return _mm512_loadu_si512(p); }
// The pair at p in every lane.
INGOT_INLINE bf16x32 splat_pair(const bf16* p) {
  int pair;
  memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
// (x, 0) in every lane.
INGOT_INLINE bf16x32 splat_single(bf16 x) { return _mm512_set1_epi32(x.bits); }
INGOT_INLINE f32x16 dot_pairs(bf16x32 x, bf16x32 w, f32x16 c) {
  return _mm512_dpbf16_ps(c, (__m512bh)x, (__m512bh)w);
}

#else

struct bf16x32 {
  bf16 pair[16][2];
};

INGOT_INLINE bf16x32 load_pairs(const bf16* p) {
  bf16x32 r;
  memcpy(&r, p, sizeof r);
  return r;
}
INGOT_INLINE bf16x32 splat_pair(const bf16* p) {
  bf16x32 r;
  for (int lane = 0; lane < 16; ++lane) memcpy(r.pair[lane], p, 4);
  return r;
}
INGOT_INLINE bf16x32 splat_single(bf16 x) {
  const bf16 pair[2] = {x, {0}};
  return splat_pair(pair);
}
INGOT_INLINE f32x16 dot_pairs(bf16x32 x, bf16x32 w, f32x16 c) {
  float sum[16];
  store(sum, c);
  for (int lane = 0; lane < 16; ++lane) {
    for (int i = 1; i >= 0; --i) {
      const float a = flushed(widen(x.pair[lane][i])), b = flushed(widen(w.pair[lane][i]));
      sum[lane] = flushed(fmaf(a, b, flushed(sum[lane])));
    }
  }
  return load(sum);
}

#endif

}  // namespace ingot
