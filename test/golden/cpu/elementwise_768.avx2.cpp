// elementwise_768
// out[t, j] = operand0 + operand1
// out (T, 768) f32
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.avx2.h"

using namespace ingot;

namespace {

constexpr int64_t kCols = 768;

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (T, 768) f32
  const float* operand1;  // (T, 768) f32
  float* out;  // (T, 768) f32
  explicit Slots(const IngotLaunch* launch)
      : operand0((const float*)launch->args[0]),
        operand1((const float*)launch->args[1]),
        out((float*)launch->args[2]) {}
};

// out[row, col … col + 15] = operand0 + operand1
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col) {
  const f32x16 operand0 = load(slots.operand0 + rows_at<768>(row, col));
  const f32x16 operand1 = load(slots.operand1 + rows_at<768>(row, col));
  store(slots.out + rows_at<768>(row, col), operand0 + operand1);
}

}  // namespace

INGOT_KERNEL void elementwise_768(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t col = 0; col < kCols; col += 16) write(slots, row, col);
  }
}
