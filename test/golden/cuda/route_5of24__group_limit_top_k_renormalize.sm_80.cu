// route_5of24__group_limit_top_k_renormalize
// Chooses 5 experts for each token:
//   v0 (24) = x[t]
//   v1 (24) = sigmoid(v0)
//   v2 (24) = a vector of weights
//   v3 (24) = v1 + v2
//   v4 (24) = v3 in the 2 best of 4 groups, −∞ elsewhere
//   v5 (5) = columns of the 5 largest of v4
//   v6 (5) = v1 at v5
//   v7 (5) = v6 / (Σ v6 + 1e-20)
//   v8 (5) = v7 · 2.5
//
// Grid: a warp is one token and owns its row of the results; lanes share its arrays, which lie in shared memory.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kWarps = 128 / 32;

// y ← x / (Σ x + eps)
template <int kSize>
INGOT_DEVICE void renormalize(const float* x, float eps, float* y) {
  float sum = 0.0f;
  for (int i = lane_id(); i < kSize; i += 32) sum += x[i];
  sum = warp_sum(sum);
  for (int i = lane_id(); i < kSize; i += 32) y[i] = x[i] / (sum + eps);
}

// Whether column i of value x comes before column j of value y: the larger value, NaN after all, and of equals the lower column.
INGOT_DEVICE bool comes_before(float x, int i, float y, int j) {
  const bool is_nan = x != x, other_is_nan = y != y;
  if (is_nan || other_is_nan) return is_nan == other_is_nan ? i < j : other_is_nan;
  return x > y || (x == y && i < j);
}

// ids ← columns of the k largest of kSize values, largest first, of equal ones the lower first; k distinct ones even among NaN.
template <int kSize, int kCount>
INGOT_DEVICE void top_k(const float* x, int32_t* ids) {
  float before = 0.0f;  // what was taken last: the next one comes after it
  int before_id = -1;
  for (int taken = 0; taken < kCount; ++taken) {
    float best = 0.0f;
    int best_id = kSize;
    for (int i = lane_id(); i < kSize; i += 32) {
      const bool is_left = taken == 0 || comes_before(before, before_id, x[i], i);
      if (is_left && (best_id == kSize || comes_before(x[i], i, best, best_id))) {
        best = x[i];
        best_id = i;
      }
    }
    INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) {
      const float other = shuffle_xor(best, offset);
      const int other_id = shuffle_xor(best_id, offset);
      if (other_id != kSize && (best_id == kSize || comes_before(other, other_id, best, best_id))) {
        best = other;
        best_id = other_id;
      }
    }
    before = best;
    before_id = best_id;
    if (lane_id() == 0) ids[taken] = best_id;
  }
}

// y ← x in the kKeep best of kGroups groups, −∞ elsewhere; a group is as good as the sum of its kBest highest scores.
template <int kSize, int kGroups, int kKeep, int kBest>
INGOT_DEVICE void group_limit(const float* x, float* y, float* worth, int32_t* ids) {
  constexpr int kGroup = kSize / kGroups;
  for (int g = 0; g < kGroups; ++g) {
    top_k<kGroup, kBest>(x + g * kGroup, ids);
    sync_warp();
    float sum = 0.0f;
    for (int i = 0; i < kBest; ++i) sum += x[g * kGroup + ids[i]];
    if (lane_id() == 0) worth[g] = sum;
    sync_warp();
  }
  top_k<kGroups, kKeep>(worth, ids);
  sync_warp();
  for (int i = lane_id(); i < kSize; i += 32) {
    bool is_kept = false;
    for (int g = 0; g < kKeep; ++g) is_kept = is_kept || ids[g] == i / kGroup;
    y[i] = is_kept ? x[i] : -infinity();
  }
}

}  // namespace

INGOT_KERNEL(128, 1) route_5of24__group_limit_top_k_renormalize(
    const float* input0,  // (rows, 24) f32
    const float* input1,  // (24) f32
    int32_t* out0,  // (rows, 5) i32
    float* out1,  // (rows, 5) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id() * kWarps + warp_id();
  if (row >= *num_rows) return;
  INGOT_SHARED(float, all_worth, kWarps * 4);
  INGOT_SHARED(int32_t, all_kept, kWarps * 2);
  INGOT_SHARED(float, all_v0, kWarps * 24);
  INGOT_SHARED(float, all_v1, kWarps * 24);
  INGOT_SHARED(float, all_v2, kWarps * 24);
  INGOT_SHARED(float, all_v3, kWarps * 24);
  INGOT_SHARED(float, all_v4, kWarps * 24);
  INGOT_SHARED(int32_t, all_v5, kWarps * 5);
  INGOT_SHARED(float, all_v6, kWarps * 5);
  INGOT_SHARED(float, all_v7, kWarps * 5);
  INGOT_SHARED(float, all_v8, kWarps * 5);
  float* v0 = all_v0 + warp_id() * 24;
  for (int i = lane_id(); i < 24; i += 32) v0[i] = widen(input0[int64_t(row) * 24 + i]);
  sync_warp();
  float* v1 = all_v1 + warp_id() * 24;
  for (int i = lane_id(); i < 24; i += 32) v1[i] = sigmoid(v0[i]);
  sync_warp();
  float* v2 = all_v2 + warp_id() * 24;
  for (int i = lane_id(); i < 24; i += 32) v2[i] = widen(input1[i]);
  sync_warp();
  float* v3 = all_v3 + warp_id() * 24;
  for (int i = lane_id(); i < 24; i += 32) v3[i] = v1[i] + v2[i];
  sync_warp();
  float* v4 = all_v4 + warp_id() * 24;
  group_limit<24, 4, 2, 2>(v3, v4, all_worth + warp_id() * 4, all_kept + warp_id() * 2);
  sync_warp();
  int32_t* v5 = all_v5 + warp_id() * 5;
  top_k<24, 5>(v4, v5);
  sync_warp();
  float* v6 = all_v6 + warp_id() * 5;
  for (int i = lane_id(); i < 5; i += 32) v6[i] = v1[v5[i]];
  sync_warp();
  float* v7 = all_v7 + warp_id() * 5;
  renormalize<5>(v6, 1e-20f, v7);
  sync_warp();
  float* v8 = all_v8 + warp_id() * 5;
  for (int i = lane_id(); i < 5; i += 32) v8[i] = v7[i] * 2.5f;
  sync_warp();
  for (int i = lane_id(); i < 5; i += 32) out0[int64_t(row) * 5 + i] = v5[i];
  for (int i = lane_id(); i < 5; i += 32) out1[int64_t(row) * 5 + i] = v8[i];
}

}  // namespace ingot
