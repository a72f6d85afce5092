// layer_norm_gather_f32_768
// acc[t, j] = (x[source_rows[t], j] − mean) / sqrt(variance + 0.00001) · gain[j] + bias[j];  out[t, j] = acc
//
// Grid: a block of 192 threads is one row of out and owns it; a thread holds 4 of its elements.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 192;
constexpr int kCols = 768;
constexpr int kPerThread = 4;

// What is read and written around the sums.
struct Slots {
  float* out;  // (rows, 768) f32
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 768 + col] = acc;
}

}  // namespace

INGOT_KERNEL(192, 1) layer_norm_gather_f32_768(
    const float* x,  // (rows, 768) f32
    const int32_t* source_rows,  // (S)
    const float* gain,  // (768) f32
    const float* bias,  // (768) f32
    float* out,  // (rows, 768) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{out};
  const auto* source = x + int64_t(source_rows[row]) * kCols;
  float values[kPerThread];
  float sum = 0.0f;
  INGOT_UNROLL for (int i = 0; i < kPerThread; ++i) {
    const int col = thread_id() + i * kThreads;
    values[i] = col < kCols ? widen(source[col]) : 0.0f;
    sum += values[i];
  }
  const float mean = block_sum<kThreads>(sum) / float(kCols);
  float squares = 0.0f;
  INGOT_UNROLL for (int i = 0; i < kPerThread; ++i) {
    const float distance = thread_id() + i * kThreads < kCols ? values[i] - mean : 0.0f;
    squares = fma(distance, distance, squares);
  }
  const float scale = reciprocal_sqrt(block_sum<kThreads>(squares) / float(kCols) + 0.00001f);
  INGOT_UNROLL for (int i = 0; i < kPerThread; ++i) {
    const int col = thread_id() + i * kThreads;
    if (col < kCols) write(slots, row, col, (values[i] - mean) * scale * widen(gain[col]) + widen(bias[col]));
  }
}

}  // namespace ingot
