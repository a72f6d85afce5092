// slot_sum_8x2048__add
// acc[t, c] = Σ_j weights[t, j] · y[t · 8 + j, c], in increasing j;  out[t, c] = acc + operand0
//
// Grid: a block of 256 threads is one row of out and owns it.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int kCols = 2048;
constexpr int kPerToken = 8;

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (rows, 2048) f32
  float* out;  // (rows, 2048) f32
};

// out[row, col] = acc + operand0
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  const float operand0 = widen(slots.operand0[int64_t(row) * 2048 + col]);
  slots.out[int64_t(row) * 2048 + col] = acc + operand0;
}

}  // namespace

INGOT_KERNEL(256, 1) slot_sum_8x2048__add(
    const float* y,  // (8 · rows, 2048) f32
    const float* weights,  // (rows, 8) f32
    const float* operand0,  // (rows, 2048) f32
    float* out,  // (rows, 2048) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{operand0, out};
  for (int col = thread_id(); col < kCols; col += kThreads) {
    float sum = 0.0f;
    INGOT_UNROLL for (int j = 0; j < kPerToken; ++j) {
      const int64_t slot = int64_t(row) * kPerToken + j;
      sum = fma(weights[slot], y[slot * kCols + col], sum);
    }
    write(slots, row, col, sum);
  }
}

}  // namespace ingot
