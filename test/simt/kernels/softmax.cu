// y = softmax(x), one row a warp, by shuffles: no barrier and no shared memory.
#include "prelude.cuda.h"

namespace ingot {

INGOT_KERNEL(64, 1) softmax(const float* __restrict__ x, float* __restrict__ y, const int* sizes) {
  wait_for_inputs();
  const int rows = sizes[0], n = sizes[1], lane = lane_id();
  const int row = block_id() * 2 + warp_id();
  const int end = row < rows ? n : 0;
  const float* from = x + row * n;
  float largest = -infinity();
  for (int i = lane; i < end; i += 32) largest = maximum(largest, from[i]);
  INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) { largest = maximum(largest, shuffle_xor(largest, offset)); }
  float sum = 0.0f;
  for (int i = lane; i < end; i += 32) sum += exp(from[i] - largest);
  sum = shuffle(warp_sum(sum), 0);
  for (int i = lane; i < end; i += 32) y[row * n + i] = exp(from[i] - largest) / sum;
}

}  // namespace ingot
