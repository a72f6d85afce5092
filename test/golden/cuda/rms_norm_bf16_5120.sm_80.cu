// rms_norm_bf16_5120
// acc[t, j] = x[t, j] / sqrt(mean_j x² + 0.000001) · gain[j];  out[t, j] = acc
//
// Grid: a block of 1024 threads is one row of out and owns it; a thread holds 5 of its elements.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 1024;
constexpr int kCols = 5120;
constexpr int kPerThread = 5;

// What is read and written around the sums.
struct Slots {
  bf16* out;  // (rows, 5120) bf16
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 5120 + col] = narrow(acc, Type<bf16>());
}

}  // namespace

INGOT_KERNEL(1024, 1) rms_norm_bf16_5120(
    const float* x,  // (rows, 5120) f32
    const bf16* gain,  // (5120) bf16
    bf16* out,  // (rows, 5120) bf16
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{out};
  const auto* source = x + int64_t(row) * kCols;
  float values[kPerThread];
  float sum = 0.0f;
  INGOT_UNROLL for (int i = 0; i < kPerThread; ++i) {
    const int col = thread_id() + i * kThreads;
    values[i] = col < kCols ? widen(source[col]) : 0.0f;
    sum = fma(values[i], values[i], sum);
  }
  const float scale = reciprocal_sqrt(block_sum<kThreads>(sum) / float(kCols) + 0.000001f);
  INGOT_UNROLL for (int i = 0; i < kPerThread; ++i) {
    const int col = thread_id() + i * kThreads;
    if (col < kCols) write(slots, row, col, values[i] * scale * widen(gain[col]));
  }
}

}  // namespace ingot
