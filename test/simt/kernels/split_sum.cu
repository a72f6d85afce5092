// y[row] = Σ x[row] by four blocks a row: each leaves its part, and the last to come adds the parts in their order.
#include "prelude.cuda.h"

namespace ingot {

constexpr int kSplits = 4, kThreads = 64;

INGOT_KERNEL(kThreads, 1) split_sum(const float* __restrict__ x, float* parts, int* counters, float* y, const int* n) {
  wait_for_inputs();
  const int row = block_id() / kSplits, split = block_id() % kSplits;
  const int length = *n / kSplits;
  const float* from = x + row * *n + split * length;
  float sum = 0.0f;
  for (int i = thread_id(); i < length; i += kThreads) sum += from[i];
  sum = block_sum<kThreads>(sum);
  if (thread_id() == 0) parts[block_id()] = sum;
  if (is_last_to_come(counters + row, kSplits)) {
    float total = 0.0f;
    for (int i = 0; i < kSplits; ++i) total += parts[row * kSplits + i];
    if (thread_id() == 0) y[row] = total;
  }
}

}  // namespace ingot
