// rope_angles_48_beyond_4096
// out[t, i] = cos(positions[t] · f[i]) · 1.19;  out[t, 48 + i] = sin of the same
// f: kInvFreq, or kLongInvFreq for a token whose sequence has more than 4096 tokens
//
// Grid: a block of 64 threads is one row of out and owns it.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 64;
constexpr int kHalf = 48;
INGOT_CONSTANT float kInvFreq[kHalf] = {
    1.0f, 0.82540417f, 0.68129206f, 0.56234133f, 0.4641589f, 0.3831187f, 0.31622776f, 0.2610157f,
    0.21544346f, 0.17782794f, 0.14677992f, 0.121152766f, 0.1f, 0.082540415f, 0.068129204f, 0.056234132f,
    0.046415888f, 0.03831187f, 0.031622775f, 0.026101572f, 0.021544347f, 0.017782794f, 0.014677993f, 0.012115276f,
    0.01f, 0.008254042f, 0.006812921f, 0.0056234132f, 0.004641589f, 0.0038311868f, 0.0031622776f, 0.0026101572f,
    0.0021544348f, 0.0017782794f, 0.0014677993f, 0.0012115276f, 0.001f, 0.0008254042f, 0.0006812921f, 0.0005623413f,
    0.0004641589f, 0.0003831187f, 0.00031622776f, 0.00026101572f, 0.00021544346f, 0.00017782794f, 0.00014677993f, 0.00012115276f,
};
INGOT_CONSTANT float kLongInvFreq[kHalf] = {
    0.25f, 0.20635104f, 0.17032301f, 0.14058533f, 0.11603972f, 0.09577967f, 0.07905694f, 0.06525393f,
    0.053860866f, 0.044456985f, 0.03669498f, 0.030288192f, 0.025f, 0.020635104f, 0.017032301f, 0.014058533f,
    0.011603972f, 0.009577967f, 0.007905694f, 0.006525393f, 0.0053860866f, 0.0044456986f, 0.0036694983f, 0.003028819f,
    0.0025f, 0.0020635105f, 0.0017032302f, 0.0014058533f, 0.0011603972f, 0.0009577967f, 0.0007905694f, 0.0006525393f,
    0.0005386087f, 0.00044456986f, 0.00036694983f, 0.0003028819f, 0.00025f, 0.00020635105f, 0.00017032302f, 0.00014058533f,
    0.00011603972f, 0.00009577967f, 0.00007905694f, 0.00006525393f, 0.000053860866f, 0.000044456985f, 0.000036694983f, 0.00003028819f,
};

}  // namespace

INGOT_KERNEL(64, 1) rope_angles_48_beyond_4096(
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    const int32_t* seq_lens,  // (B)
    float* out,  // (rows, 96) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const float position = float(positions[row]);
  const bool is_long = seq_lens[seq_ids[row]] > 4096;
  for (int i = thread_id(); i < kHalf; i += kThreads) {
    const float angle = wrap_angle(position * (is_long ? kLongInvFreq[i] : kInvFreq[i]));
    out[int64_t(row) * 2 * kHalf + i] = cosine(angle) * 1.19f;
    out[int64_t(row) * 2 * kHalf + kHalf + i] = sine(angle) * 1.19f;
  }
}

}  // namespace ingot
