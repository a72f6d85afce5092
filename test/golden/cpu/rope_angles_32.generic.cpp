// rope_angles_32
// out[t, i] = cos(positions[t] · f[i]) · 1;  out[t, 32 + i] = sin of the same
// positions (T), out (T, 64) f32; f: the 32 inverse frequencies below
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.h"

using namespace ingot;

namespace {

constexpr int64_t kHalf = 32;
constexpr float kInvFreq[kHalf] = {
    1.0f, 0.7498942f, 0.56234133f, 0.4216965f, 0.31622776f, 0.23713738f, 0.17782794f, 0.13335215f,
    0.1f, 0.07498942f, 0.056234132f, 0.04216965f, 0.031622775f, 0.023713738f, 0.017782794f, 0.013335214f,
    0.01f, 0.0074989423f, 0.0056234132f, 0.004216965f, 0.0031622776f, 0.0023713738f, 0.0017782794f, 0.0013335214f,
    0.001f, 0.0007498942f, 0.0005623413f, 0.00042169652f, 0.00031622776f, 0.00023713737f, 0.00017782794f, 0.00013335215f,
};

}  // namespace

INGOT_KERNEL void rope_angles_32(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const int32_t* positions = (const int32_t*)launch->args[0];
  float* out = (float*)launch->args[1];
  for (int64_t row = begin; row < end; ++row) {
    float* angles = out + row * 2 * kHalf;
    for (int64_t i = 0; i < kHalf; ++i) {
      const float angle = float(positions[row]) * kInvFreq[i];
      angles[i] = cosf(angle) * 1.0f;
      angles[kHalf + i] = sinf(angle) * 1.0f;
    }
  }
}
