// rope_angles_64
// out[t, i] = cos(positions[t] · f[i]) · 1;  out[t, 64 + i] = sin of the same
//
// Grid: a block of 64 threads is one row of out and owns it.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 64;
constexpr int kHalf = 64;
INGOT_CONSTANT float kInvFreq[kHalf] = {
    1.0f, 0.86596435f, 0.7498942f, 0.64938164f, 0.56234133f, 0.48696753f, 0.4216965f, 0.3651741f,
    0.31622776f, 0.27384198f, 0.23713738f, 0.2053525f, 0.17782794f, 0.15399265f, 0.13335215f, 0.115478195f,
    0.1f, 0.08659643f, 0.07498942f, 0.064938165f, 0.056234132f, 0.048696753f, 0.04216965f, 0.03651741f,
    0.031622775f, 0.027384195f, 0.023713738f, 0.020535251f, 0.017782794f, 0.015399265f, 0.013335214f, 0.01154782f,
    0.01f, 0.008659643f, 0.0074989423f, 0.006493816f, 0.0056234132f, 0.0048696753f, 0.004216965f, 0.0036517412f,
    0.0031622776f, 0.0027384197f, 0.0023713738f, 0.002053525f, 0.0017782794f, 0.0015399265f, 0.0013335214f, 0.001154782f,
    0.001f, 0.00086596434f, 0.0007498942f, 0.0006493816f, 0.0005623413f, 0.00048696753f, 0.00042169652f, 0.0003651741f,
    0.00031622776f, 0.00027384196f, 0.00023713737f, 0.00020535251f, 0.00017782794f, 0.00015399266f, 0.00013335215f, 0.0001154782f,
};

}  // namespace

INGOT_KERNEL(64, 1) rope_angles_64(
    const int32_t* positions,  // (T)
    float* out,  // (rows, 128) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const float position = float(positions[row]);
  for (int i = thread_id(); i < kHalf; i += kThreads) {
    const float angle = wrap_angle(position * kInvFreq[i]);
    out[int64_t(row) * 2 * kHalf + i] = cosine(angle) * 1.0f;
    out[int64_t(row) * 2 * kHalf + kHalf + i] = sine(angle) * 1.0f;
  }
}

}  // namespace ingot
