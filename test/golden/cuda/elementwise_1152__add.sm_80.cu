// elementwise_1152__add
// out[t, j] = operand0 + operand1
//
// Grid: a block of 256 threads is one row of out and owns it.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int kCols = 1152;

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (rows, 1152) f32
  const bf16* operand1;  // (rows, 1152) bf16
  float* out;  // (rows, 1152) f32
};

// out[row, col] = operand0 + operand1
INGOT_DEVICE void write(const Slots& slots, int row, int col) {
  const float operand0 = widen(slots.operand0[int64_t(row) * 1152 + col]);
  const float operand1 = widen(slots.operand1[int64_t(row) * 1152 + col]);
  slots.out[int64_t(row) * 1152 + col] = operand0 + operand1;
}

}  // namespace

INGOT_KERNEL(256, 1) elementwise_1152__add(
    const float* operand0,  // (rows, 1152) f32
    const bf16* operand1,  // (rows, 1152) bf16
    float* out,  // (rows, 1152) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{operand0, operand1, out};
  for (int col = thread_id(); col < kCols; col += kThreads) write(slots, row, col);
}

}  // namespace ingot
