// Conversions of f16 and e4m3 by their bits: compilers for x86-64 know no 16-bit float before g++ 12 and clang 15.
#include <string.h>

#include "simt_kernel.hpp"

namespace simt {

namespace {

float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

}  // namespace

float f16_value(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moved into place the exponent is 112 too small; the product is exact, for subnormals too.
  const float x = float_of(magnitude << 13) * float_of((112u + 127u) << 23);
  return sign ? -x : x;
}

uint16_t f16_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffu;                      // the one NaN of cvt.rn
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);    // 65,520 and more round to infinity
  if (magnitude < 0x38800000u) {                                    // below 2^-14: a multiple of 2^-24
    const float shifted = float_of(magnitude) + 0.5f;               // whose last bit is 2^-24: the addition rounds
    uint32_t rounded;
    memcpy(&rounded, &shifted, 4);
    return uint16_t(sign | (rounded - 0x3f000000u));
  }
  return uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

// 1.4.3, bias 7; no infinity, NaN is S.1111.111.
float e4m3_value(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return float_of(0x7fc00000u);
  const float x = float_of(magnitude << 20) * float_of((120u + 127u) << 23);
  return bits & 0x80u ? -x : x;
}

}  // namespace simt
