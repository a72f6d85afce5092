// sort_slots_8of128
// Sorts the slots t · 8 + j of ids (T, 8) by expert, then by token, into the plan out (1, 35073) i32.
//
// Grid: one unit; counting sort.
#include "prelude.cpu.experts.h"

using namespace ingot;

namespace {

constexpr int64_t kExperts = 128;
constexpr int64_t kPerToken = 8;

}  // namespace

INGOT_KERNEL void sort_slots_8of128(const IngotLaunch* launch, int64_t begin, int64_t end) {
  if (begin == end) return;
  const int32_t* ids = (const int32_t*)launch->args[0];
  int32_t* plan = (int32_t*)launch->args[1];
  int32_t* slots = plan + 1 + 3 * kExperts;
  const int64_t count = launch->dims[kTokens] * kPerToken;
  int32_t rows[kExperts] = {};
  for (int64_t slot = 0; slot < count; ++slot) ++rows[ids[slot]];
  int32_t next[kExperts];  // the row that an expert's next slot gets
  int32_t active = 0, first = 0;
  for (int64_t expert = 0; expert < kExperts; ++expert) {
    if (rows[expert] == 0) continue;
    int32_t* entry = plan + 1 + 3 * active++;
    entry[0] = int32_t(expert), entry[1] = first, entry[2] = rows[expert];
    next[expert] = first;
    first += int32_t(ceil_div(rows[expert], 16) * 16);
  }
  plan[0] = active;
  for (int64_t slot = 0; slot < count; ++slot) slots[next[ids[slot]]++] = int32_t(slot);
}
