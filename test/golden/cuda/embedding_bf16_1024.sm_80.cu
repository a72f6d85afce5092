// embedding_bf16_1024
// acc[t, j] = table[ids[t], j];  out[t, j] = acc
// An id below 0 is one that the step before sampled and nobody else has seen: −1 − its row. Where that had no token to sample, −1, the
// row is of a request that fails: it is computed on as any other.
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

INGOT_KERNEL(256, 1) embedding_bf16_1024(
    const int32_t* ids,  // (T)
    const bf16* table,  // (151936, 1024) bf16
    float* out,  // (rows, 1024) f32
    const int32_t* sampled_ids,  // of the step before
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id();
  if (row >= *num_rows) return;
  const Slots slots{out};
  const int id = ids[row] < 0 ? max_of(sampled_ids[-1 - ids[row]], 0) : ids[row];
  for (int col = thread_id(); col < kCols; col += kThreads) write(slots, row, col, widen(table[int64_t(id) * kCols + col]));
}

}  // namespace ingot
