// rope_angles_8_beyond_4096
// out[t, i] = cos(positions[t] · f[i]) · 1.19;  out[t, 8 + i] = sin of the same
// positions (T), seq_ids (T), seq_lens (B), out (T, 16) f32; f: one of the two rows of 8 inverse frequencies below,
// kLongInvFreq where seq_lens[seq_ids[t]] > 4096
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.h"

using namespace ingot;

namespace {

constexpr int64_t kHalf = 8;
constexpr float kInvFreq[kHalf] = {
    1.0f, 0.31622776f, 0.1f, 0.031622775f, 0.01f, 0.0031622776f, 0.001f, 0.00031622776f,
};
constexpr float kLongInvFreq[kHalf] = {
    1.0f, 0.15811388f, 0.033333335f, 0.007905694f, 0.002f, 0.0005270463f, 0.00014285714f, 0.00003952847f,
};

}  // namespace

INGOT_KERNEL void rope_angles_8_beyond_4096(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const int32_t* positions = (const int32_t*)launch->args[0];
  const int32_t* seq_ids = (const int32_t*)launch->args[1];
  const int32_t* seq_lens = (const int32_t*)launch->args[2];
  float* out = (float*)launch->args[3];
  for (int64_t row = begin; row < end; ++row) {
    const float* inv_freq = seq_lens[seq_ids[row]] > 4096 ? kLongInvFreq : kInvFreq;
    float* angles = out + row * 2 * kHalf;
    for (int64_t i = 0; i < kHalf; ++i) {
      const float angle = float(positions[row]) * inv_freq[i];
      angles[i] = cosf(angle) * 1.19f;
      angles[kHalf + i] = sinf(angle) * 1.19f;
    }
  }
}
