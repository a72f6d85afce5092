// sort_slots_8of128
// Sorts the slots t · 8 + j of ids (rows, 8) by expert, then by token, into the plan:
// number of active experts | expert, first row, rows of each of them (room for all 128) | slot of each sorted row. Every expert's first row
// is a multiple of 16.
//
// Grid: one block; counting sort, in which a warp counts and places the slots of one expert at a time.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kExperts = 128;
constexpr int kPerToken = 8;

}  // namespace

INGOT_KERNEL(1024, 1) sort_slots_8of128(
    const int32_t* ids,  // (rows, 8) i32
    int32_t* plan,  // (n) i32
    const int32_t* num_rows  // rows of this step
) {
  INGOT_SHARED(int, counts, kExperts);
  INGOT_SHARED(int, firsts, kExperts);
  wait_for_inputs();
  const int slots = *num_rows * kPerToken;
  for (int expert = warp_id(); expert < kExperts; expert += kWarps) {
    int count = 0;
    for (int slot0 = 0; slot0 < slots; slot0 += 32) {
      const int slot = slot0 + lane_id();
      count += count_bits(ballot(slot < slots && ids[slot] == expert));
    }
    if (lane_id() == 0) counts[expert] = count;
  }
  sync_block();
  if (thread_id() == 0) {
    int active = 0, first = 0;
    for (int expert = 0; expert < kExperts; ++expert) {
      firsts[expert] = first;
      if (counts[expert] == 0) continue;
      int32_t* entry = plan + 1 + 3 * active++;
      entry[0] = expert;
      entry[1] = first;
      entry[2] = counts[expert];
      first += ceil_div(counts[expert], 16) * 16;
    }
    plan[0] = active;
  }
  sync_block();
  int32_t* sorted = plan + 1 + 3 * kExperts;
  for (int expert = warp_id(); expert < kExperts; expert += kWarps) {
    int row = firsts[expert];
    for (int slot0 = 0; slot0 < slots && counts[expert] > 0; slot0 += 32) {
      const int slot = slot0 + lane_id();
      const bool is_own = slot < slots && ids[slot] == expert;
      const uint32_t own = ballot(is_own);
      if (is_own) sorted[row + count_bits(own & ((1u << lane_id()) - 1))] = slot;
      row += count_bits(own);
    }
  }
}

}  // namespace ingot
