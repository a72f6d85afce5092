// gather_rows_1024
// acc[t, j] = x[source_rows[t], j];  out[t, j] = acc
//
// Grid: a block of 256 threads is one row of out and owns it.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 256;
constexpr int kCols = 1024;

// What is read and written around the sums.
struct Slots {
  float* out;  // (rows, 1024) f32
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 1024 + col] = acc;
}

}  // namespace

INGOT_KERNEL(256, 1) gather_rows_1024(
    const float* x,  // (rows, 1024) f32
    const int32_t* source_rows,  // (S)
    float* out,  // (rows, 1024) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{out};
  const auto* source = x + int64_t(source_rows[row]) * 1024 + 0;
  for (int col = thread_id(); col < kCols; col += kThreads) write(slots, row, col, widen(source[col]));
}

}  // namespace ingot
