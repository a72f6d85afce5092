// sort_slots_8of128
// Sorts the slots t · 8 + j of ids (rows, 8) by expert, then by token, into the plan:
// number of active experts | expert, first row, rows of each of them (room for all 128) | slot of each sorted row. Every expert's first row
// is a multiple of 16.
//
// Grid: one block; a counting sort, in which a warp owns slots that lie side by side, and a count of each expert. Ids are read twice, eight
// a thread at a time: to be counted, and to be placed, where 7 votes tell the lanes of one expert. Expected: 3 µs for few slots, which are
// barriers and trips to memory; 40 µs for 65,536, whose warps each write 32 slots to as many lines, a line a clock.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kExperts = 128;
constexpr int kPerToken = 8;
constexpr int kBatch = 8;  // ids that a lane has on their way

// The slots of a warp: begin … end − 1, whose first is a multiple of 32.
struct Share {
  int begin, end;
};
INGOT_DEVICE Share share_of_warp(int slots) {
  const int share = ceil_div(slots, kThreads) * 32;
  const int begin = warp_id() * share;
  return {begin, min_of(begin + share, slots)};
}

// The experts of a lane's slots slot0 + lane + 32 · i; −1 beyond the end.
INGOT_DEVICE void load_experts(int (&experts)[kBatch], const int32_t* ids, int slot0, int end) {
  INGOT_UNROLL for (int i = 0; i < kBatch; ++i) {
    const int slot = slot0 + 32 * i + lane_id();
    experts[i] = slot < end ? ids[slot] : -1;
  }
}

// The lanes that have the expert of this one.
INGOT_DEVICE uint32_t lanes_of_same(int expert) {
  uint32_t same = ballot(expert >= 0);
  INGOT_UNROLL for (int bit = 1; bit < kExperts; bit *= 2) {
    const uint32_t having = ballot((expert & bit) != 0);
    same &= expert & bit ? having : ~having;
  }
  return same;
}

}  // namespace

INGOT_KERNEL(1024, 1) sort_slots_8of128(
    const int32_t* ids,  // (rows, 8) i32
    int32_t* plan,  // (n) i32
    const int32_t* num_rows  // rows of this step
) {
  INGOT_DYNAMIC_SHARED(memory);
  int* counts = (int*)memory;               // (kWarps, kExperts): slots of each warp, then those of the warps before it
  int* rows = counts + kWarps * kExperts;  // (kExperts): slots of all warps, then the first row
  for (int i = thread_id(); i < kWarps * kExperts; i += kThreads) counts[i] = 0;
  wait_for_inputs();
  sync_block();
  const Share share = share_of_warp(*num_rows * kPerToken);
  int* own = counts + warp_id() * kExperts;
  for (int slot0 = share.begin; slot0 < share.end; slot0 += 32 * kBatch) {
    int experts[kBatch];
    load_experts(experts, ids, slot0, share.end);
    INGOT_UNROLL for (int i = 0; i < kBatch; ++i) {
      if (experts[i] >= 0) atomic_add(own + experts[i], 1);
    }
  }
  sync_block();
  for (int expert = thread_id(); expert < kExperts; expert += kThreads) {
    int of_warps[kWarps];
    INGOT_UNROLL for (int warp = 0; warp < kWarps; ++warp) { of_warps[warp] = counts[warp * kExperts + expert]; }
    int sum = 0;
    INGOT_UNROLL for (int warp = 0; warp < kWarps; ++warp) {
      counts[warp * kExperts + expert] = sum;
      sum += of_warps[warp];
    }
    rows[expert] = sum;
  }
  sync_block();
  if (warp_id() == 0) {
    int active = 0, first = 0;  // before these 32 experts
    for (int expert0 = 0; expert0 < kExperts; expert0 += 32) {
      const int expert = expert0 + lane_id();
      const int count = expert < kExperts ? rows[expert] : 0;
      const int room = ceil_div(count, 16) * 16;
      int sum = room;  // of the lanes up to this one
      INGOT_UNROLL for (int offset = 1; offset < 32; offset *= 2) {
        const int other = shuffle(sum, max_of(0, lane_id() - offset));
        if (lane_id() >= offset) sum += other;
      }
      const uint32_t present = ballot(count > 0);
      const int row = first + sum - room;
      if (expert < kExperts) rows[expert] = row;
      if (count > 0) {
        int32_t* entry = plan + 1 + 3 * (active + count_bits(present & ((1u << lane_id()) - 1)));
        entry[0] = expert;
        entry[1] = row;
        entry[2] = count;
      }
      active += count_bits(present);
      first += shuffle(sum, 31);
    }
    if (lane_id() == 0) plan[0] = active;
  }
  sync_block();
  int32_t* sorted = plan + 1 + 3 * kExperts;
  for (int slot0 = share.begin; slot0 < share.end; slot0 += 32 * kBatch) {
    int experts[kBatch];
    load_experts(experts, ids, slot0, share.end);
    INGOT_UNROLL for (int i = 0; i < kBatch; ++i) {
      if (slot0 + 32 * i >= share.end) break;
      const int expert = experts[i];
      const uint32_t same = lanes_of_same(expert);
      const int before = count_bits(same & ((1u << lane_id()) - 1));
      if (expert >= 0) sorted[rows[expert] + own[expert] + before] = slot0 + 32 * i + lane_id();
      sync_warp();  // counts are read
      if (expert >= 0 && before == 0) own[expert] += count_bits(same);
      sync_warp();
    }
  }
}

}  // namespace ingot
