// The vocabulary of CUDA kernels: kernel text uses the names below and the language's own, nothing else.
//
// Device compilers get their bodies from prelude.cuda.device.h, the only file with PTX in it. A host compiler gets twins of them from
// simt_prelude.h, which stands beside the tests: the text that ships is the text that runs under their checker.
#pragma once

namespace ingot {
// Says which dtype is meant where no argument does.
template <class T>
struct Type {};
}  // namespace ingot

#ifdef __CUDACC__
#include "prelude.cuda.device.h"
#else
#include "simt_prelude.h"
#endif

namespace ingot {

// Integers of a launch.
INGOT_DEVICE int min_of(int a, int b) { return a < b ? a : b; }
INGOT_DEVICE int max_of(int a, int b) { return a > b ? a : b; }
INGOT_DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

INGOT_DEVICE float widen(float x) { return x; }

INGOT_DEVICE float narrow(float x, Type<float>) { return x; }

// The nearest e4m3, of two the even one; what is too large becomes the largest, 448.
INGOT_DEVICE fp8 narrow(float x, Type<fp8>) {
  const float size = absolute(x);
  const uint32_t sign = bits_of(x) >> 24 & 0x80u;
  if (x != x) return fp8{0x7f};
  if (size >= 448.0f) return fp8{uint8_t(sign | 0x7eu)};
  if (size < 0.015625f) return fp8{uint8_t(sign | uint32_t(round_to_integer(size * 512.0f)))};  // subnormal: multiples of 2⁻⁹
  const uint32_t bits = bits_of(size);
  const uint32_t rounded = bits + 0x7ffffu + (bits >> 20 & 1u);
  return fp8{uint8_t(sign | ((rounded >> 20) - (120u << 3)))};
}

// Scalar functions of slots, in f32.
INGOT_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }
INGOT_DEVICE float silu(float x) { return x / (1.0f + exp(-x)); }
INGOT_DEVICE float minimum(float a, float b) { return a < b || a != a ? a : b; }  // NaN stays
INGOT_DEVICE float maximum(float a, float b) { return a > b || a != a ? a : b; }
INGOT_DEVICE float tanh(float x) {
  const float e = exp(-2.0f * absolute(x));
  return with_sign((1.0f - e) / (1.0f + e), x);
}
INGOT_DEVICE float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}
// An angle's equal from about −π to π: whole turns are taken off in two parts of 2π. To 10⁻⁷ for angles of up to 2·10⁵.
INGOT_DEVICE float wrap_angle(float x) {
  const float turns = round_to_integer(x * 0.15915494f);
  return fma(turns, 1.7484555e-7f, fma(-turns, 6.2831855f, x));
}
INGOT_DEVICE float round_bf16(float x) { return widen(narrow(x, Type<bf16>())); }
INGOT_DEVICE float round_f16(float x) { return widen(narrow(x, Type<f16>())); }

// Sixteen bytes as f32: eight halves, or four floats.
INGOT_DEVICE void unpack(const Bytes16& b, float (&x)[8], Type<bf16>) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    x[2 * i] = float_of(b.words[i] << 16);
    x[2 * i + 1] = float_of(b.words[i] & 0xffff0000u);
  }
}
INGOT_DEVICE void unpack(const Bytes16& b, float (&x)[8], Type<f16>) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) {
    x[2 * i] = widen(f16{uint16_t(b.words[i])});
    x[2 * i + 1] = widen(f16{uint16_t(b.words[i] >> 16)});
  }
}
INGOT_DEVICE void unpack(const Bytes16& b, float (&x)[4], Type<float>) {
  INGOT_UNROLL for (int i = 0; i < 4; ++i) { x[i] = float_of(b.words[i]); }
}

// The sum, and the largest, of one value a thread, known to every thread of a block of kThreads. The order is fixed.
template <int kThreads>
INGOT_DEVICE float block_sum(float x) {
  INGOT_SHARED(float, parts, 32);
  x = warp_sum(x);
  if (kThreads == 32) return x;
  sync_block();  // parts may still be read from the call before
  if (lane_id() == 0) parts[warp_id()] = x;
  sync_block();
  return warp_sum(lane_id() < kThreads / 32 ? parts[lane_id()] : 0.0f);
}
template <int kThreads>
INGOT_DEVICE float block_max(float x) {
  INGOT_SHARED(float, parts, 32);
  x = warp_max(x);
  if (kThreads == 32) return x;
  sync_block();
  if (lane_id() == 0) parts[warp_id()] = x;
  sync_block();
  return warp_max(lane_id() < kThreads / 32 ? parts[lane_id()] : -infinity());
}

}  // namespace ingot
