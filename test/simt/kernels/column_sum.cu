// y[row] = Σ x[row], one row a block: a tree in shared memory.
#include "prelude.cuda.h"

namespace ingot {

INGOT_KERNEL(128, 1) column_sum(const float* __restrict__ x, float* __restrict__ y) {
  INGOT_SHARED(float, parts, 128);
  const int t = thread_id();
  wait_for_inputs();
  parts[t] = x[block_id() * 128 + t];
  for (int half = 64; half > 0; half /= 2) {
    sync_block();
    if (t < half) parts[t] += parts[t + half];
  }
  if (t == 0) y[block_id()] = parts[0];
}

}  // namespace ingot
