// route_8of128__softmax_top_k
// Chooses 8 experts for each token:
//   v0 (128) = x[t]
//   v1 (128) = softmax(v0)
//   v2 (8) = columns of the 8 largest of v1
//   v3 (8) = v1 at v2
//
// Grid: a warp is one token and owns its row of the results; lanes share its arrays, which lie in shared memory.
#include "prelude.cuda.h"

namespace ingot {
namespace {

constexpr int kWarps = 128 / 32;

// y ← eˣ / Σ eˣ
template <int kSize>
INGOT_DEVICE void softmax(const float* x, float* y) {
  float max = -infinity();
  for (int i = lane_id(); i < kSize; i += 32) max = maximum(max, x[i]);
  max = warp_max(max);
  float sum = 0.0f;
  for (int i = lane_id(); i < kSize; i += 32) sum += exp(x[i] - max);
  sum = warp_sum(sum);
  for (int i = lane_id(); i < kSize; i += 32) y[i] = exp(x[i] - max) / sum;
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

}  // namespace

INGOT_KERNEL(128, 1) route_8of128__softmax_top_k(
    const float* input0,  // (rows, 128) f32
    int32_t* out0,  // (rows, 8) i32
    float* out1,  // (rows, 8) f32
    const int32_t* num_rows  // rows of this step
) {
  wait_for_inputs();
  const int row = block_id() * kWarps + warp_id();
  if (row >= *num_rows) return;
  INGOT_SHARED(float, all_v0, kWarps * 128);
  INGOT_SHARED(float, all_v1, kWarps * 128);
  INGOT_SHARED(int32_t, all_v2, kWarps * 8);
  INGOT_SHARED(float, all_v3, kWarps * 8);
  float* v0 = all_v0 + warp_id() * 128;
  for (int i = lane_id(); i < 128; i += 32) v0[i] = widen(input0[int64_t(row) * 128 + i]);
  sync_warp();
  float* v1 = all_v1 + warp_id() * 128;
  softmax<128>(v0, v1);
  sync_warp();
  int32_t* v2 = all_v2 + warp_id() * 8;
  top_k<128, 8>(v1, v2);
  sync_warp();
  float* v3 = all_v3 + warp_id() * 8;
  for (int i = lane_id(); i < 8; i += 32) v3[i] = v1[v2[i]];
  sync_warp();
  for (int i = lane_id(); i < 8; i += 32) out0[int64_t(row) * 8 + i] = v2[i];
  for (int i = lane_id(); i < 8; i += 32) out1[int64_t(row) * 8 + i] = v3[i];
}

}  // namespace ingot
