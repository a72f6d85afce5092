// Twin of prelude.cuda.device.h for host compilers: the same names with the same meaning on the emulator, so that kernel text runs
// unchanged. Nothing here ships. What a name promises is written in the device prelude.
//
// Bodies that are more than arithmetic are calls of simt_kernel.hpp; everything here is inlined into the kernel, so that the address a
// call returns to belongs to a line of kernel text.
#pragma once
#include <stdint.h>

#include "simt_kernel.hpp"

#define INGOT_DEVICE inline __attribute__((always_inline))
#define INGOT_UNROLL
#define INGOT_UNROLL_BY(n)
#define INGOT_CONSTANT static const
#define INGOT_KERNEL(threads, blocks) extern "C" __attribute__((visibility("default"), noinline)) void
#define INGOT_SHARED(T, name, count)   \
  static const char name##_shared = 0; \
  T(&name)[count] = *static_cast<T(*)[count]>(simt::shared_array(&name##_shared, sizeof(T[count]), #name))
#define INGOT_DYNAMIC_SHARED(name) unsigned char* const name = static_cast<unsigned char*>(simt::dynamic_shared())

namespace ingot {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct fp8 {  // e4m3
  uint8_t bits;
};

INGOT_DEVICE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
INGOT_DEVICE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
INGOT_DEVICE float infinity() { return __builtin_inff(); }
INGOT_DEVICE float absolute(float x) { return __builtin_fabsf(x); }
INGOT_DEVICE float with_sign(float x, float sign) { return __builtin_copysignf(x, sign); }
INGOT_DEVICE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INGOT_DEVICE float reciprocal_sqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
INGOT_DEVICE float exp(float x) { return __builtin_expf(x); }
INGOT_DEVICE float exp2(float x) { return __builtin_exp2f(x); }
INGOT_DEVICE float log(float x) { return __builtin_logf(x); }
INGOT_DEVICE float round_to_integer(float x) { return __builtin_rintf(x); }
// NaN where the device's are not promised to be right.
INGOT_DEVICE float cosine(float x) { return __builtin_fabsf(x) < 3.2f ? __builtin_cosf(x) : __builtin_nanf(""); }
INGOT_DEVICE float sine(float x) { return __builtin_fabsf(x) < 3.2f ? __builtin_sinf(x) : __builtin_nanf(""); }

INGOT_DEVICE float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
INGOT_DEVICE float widen(f16 x) { return simt::f16_value(x.bits); }
INGOT_DEVICE float widen(fp8 x) { return simt::e4m3_value(x.bits); }
// To nearest, ties to even; NaN becomes the one NaN that cvt.rn gives.
INGOT_DEVICE bf16 narrow(float x, Type<bf16>) {
  const uint32_t b = bits_of(x);
  return bf16{(b & 0x7fffffffu) > 0x7f800000u ? uint16_t(0x7fff) : uint16_t((b + 0x7fffu + (b >> 16 & 1u)) >> 16)};
}
INGOT_DEVICE f16 narrow(float x, Type<f16>) { return f16{simt::f16_bits(x)}; }

INGOT_DEVICE int thread_id() { return simt::thread_id(); }
INGOT_DEVICE int lane_id() { return simt::thread_id() & 31; }
INGOT_DEVICE int warp_id() { return simt::thread_id() >> 5; }
INGOT_DEVICE int block_id() { return simt::block_id(); }
INGOT_DEVICE int num_blocks() { return simt::num_blocks(); }

INGOT_DEVICE void sync_block() { simt::sync_block(); }
INGOT_DEVICE void sync_warp() { simt::sync_warp(); }

INGOT_DEVICE float shuffle_xor(float x, int mask) { return float_of(simt::shuffle_xor(bits_of(x), mask)); }
INGOT_DEVICE int shuffle_xor(int x, int mask) { return int(simt::shuffle_xor(uint32_t(x), mask)); }
INGOT_DEVICE float shuffle(float x, int lane) { return float_of(simt::shuffle(bits_of(x), lane)); }
INGOT_DEVICE int shuffle(int x, int lane) { return int(simt::shuffle(uint32_t(x), lane)); }
INGOT_DEVICE uint32_t ballot(bool is_true) { return simt::ballot(is_true); }
INGOT_DEVICE int count_bits(uint32_t x) { return __builtin_popcount(x); }
// One meeting of the lanes in place of five; the sums are those of the butterfly, bit for bit.
INGOT_DEVICE float warp_sum(float x) { return simt::warp_sum(x); }
INGOT_DEVICE float warp_max(float x) { return simt::warp_max(x); }

INGOT_DEVICE Bytes16 load16(const void* p) { return simt::load16(p); }
INGOT_DEVICE Bytes16 load16_once(const void* p) { return simt::load16(p); }
INGOT_DEVICE void store16(void* p, const Bytes16& b) { simt::store16(p, b); }
INGOT_DEVICE Bytes16 load16_shared(const void* p) { return simt::load16_shared(p); }
INGOT_DEVICE void store16_shared(void* p, const Bytes16& b) { simt::store16_shared(p, b); }
INGOT_DEVICE void prefetch_l2(const void* p) { simt::prefetch(p); }

INGOT_DEVICE void copy16_async(void* to, const void* from, bool valid) { simt::copy16_async(to, from, valid); }
INGOT_DEVICE void commit_copies() { simt::commit_copies(); }
template <int kGroups>
INGOT_DEVICE void wait_copies() {
  simt::wait_copies(kGroups);
}

// Registers go by value: an array whose address leaves the kernel would be memory to the checker.
INGOT_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  const simt::Words4 words = simt::load_matrices(row, false);
  for (int i = 0; i < 4; ++i) r[i] = words.x[i];
}
INGOT_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  const simt::Words4 words = simt::load_matrices(row, true);
  for (int i = 0; i < 4; ++i) r[i] = words.x[i];
}
INGOT_DEVICE void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, simt::Half type) {
  const simt::Floats4 sums =
      simt::multiply_16x8x16(simt::Floats4{{c[0], c[1], c[2], c[3]}}, simt::Words4{{a[0], a[1], a[2], a[3]}}, b0, b1, type);
  for (int i = 0; i < 4; ++i) c[i] = sums.x[i];
}
INGOT_DEVICE void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Type<bf16>) {
  multiply_16x8x16(c, a, b0, b1, simt::Half::kBf16);
}
INGOT_DEVICE void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Type<f16>) {
  multiply_16x8x16(c, a, b0, b1, simt::Half::kF16);
}
template <class T>
INGOT_DEVICE uint32_t pack(float low, float high, Type<T> type) {
  return narrow(low, type).bits | uint32_t(narrow(high, type).bits) << 16;
}

INGOT_DEVICE bool is_last_to_come(int32_t* counter, int total) { return simt::is_last_to_come(counter, total); }
INGOT_DEVICE void atomic_add(int* sum, int x) { simt::atomic_add(sum, x); }
INGOT_DEVICE void atomic_add(uint64_t* sum, uint64_t x) { simt::atomic_add(sum, x); }

INGOT_DEVICE void wait_for_inputs() { simt::wait_for_inputs(); }
INGOT_DEVICE void let_next_begin() { simt::let_next_begin(); }
INGOT_DEVICE int32_t load_extent(const int32_t* extent) { return *extent; }

}  // namespace ingot
