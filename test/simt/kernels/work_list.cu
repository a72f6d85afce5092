// y[unit] = Σ x[unit] for a list of units that blocks take one by one until none is left.
#include "prelude.cuda.h"

namespace ingot {

INGOT_KERNEL(64, 1) work_list(const float* __restrict__ x, int* counter, float* y, const int* num_units) {
  INGOT_SHARED(int, taken, 1);
  wait_for_inputs();
  for (;;) {
    if (thread_id() == 0) taken[0] = take_unit(counter);
    sync_block();
    const int unit = taken[0];
    if (unit >= *num_units) break;
    const float sum = block_sum<64>(x[unit * 64 + thread_id()]);
    if (thread_id() == 0) y[unit] = sum;
    sync_block();  // taken may be written again
  }
}

}  // namespace ingot
