// y = w · x / √(mean(x²) + ε), one row a block: reduction through block_sum's two barriers.
#include "prelude.cuda.h"

namespace ingot {

constexpr int kThreads = 128;

INGOT_KERNEL(kThreads, 1) rms_norm(const bf16* __restrict__ x, const bf16* __restrict__ w, bf16* __restrict__ y, const int* n) {
  wait_for_inputs();
  const bf16* row = x + block_id() * *n;
  float squares = 0.0f;
  for (int i = thread_id(); i < *n; i += kThreads) {
    const float v = widen(row[i]);
    squares += v * v;
  }
  const float scale = reciprocal_sqrt(block_sum<kThreads>(squares) / float(*n) + 1e-6f);
  for (int i = thread_id(); i < *n; i += kThreads) y[block_id() * *n + i] = narrow(widen(row[i]) * scale * widen(w[i]), Type<bf16>());
}

}  // namespace ingot
