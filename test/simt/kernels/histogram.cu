// counts[i] = how many of x are i, below 8: by atomics on shared memory, then one row of counts a block.
#include "prelude.cuda.h"

namespace ingot {

INGOT_CONSTANT int kBins[2] = {8, 7};

INGOT_KERNEL(96, 1) histogram(const int* __restrict__ x, int* counts, const int* n) {
  INGOT_SHARED(uint64_t, bins, 8);
  wait_for_inputs();
  if (thread_id() < kBins[0]) bins[thread_id()] = 0;
  sync_block();
  for (int i = thread_id(); i < *n; i += 96) atomic_add(&bins[x[block_id() * *n + i] & kBins[1]], 1);
  sync_block();  // before they are read
  if (thread_id() < 8) counts[block_id() * 8 + thread_id()] = int(bins[thread_id()]);
}

}  // namespace ingot
