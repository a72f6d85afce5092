// route_5of24__group_limit_top_k_renormalize
// Chooses 5 experts for each token:
//   v0 (24) = x[t]
//   v1 (24) = sigmoid(v0)
//   v2 (24) = a vector of weights
//   v3 (24) = v1 + v2
//   v4 (24) = v3 in the 2 best of 4 groups, −∞ elsewhere
//   v5 (5) = columns of the 5 largest of v4
//   v6 (5) = v1 at columns v5
//   v7 (5) = v6 / (Σ v6 + 1e-20)
//   v8 (5) = v7 · 2.5
//
// Grid: a unit is one token and owns its row of the results.
#include "prelude.cpu.avx512.h"

using namespace ingot;

namespace {

// y ← x / (Σ x + eps)
template <int64_t kSize>
void renormalize(const float* x, float eps, float* y) {
  float sum = 0;
  for (int64_t i = 0; i < kSize; ++i) sum += x[i];
  for (int64_t i = 0; i < kSize; ++i) y[i] = x[i] / (sum + eps);
}

// ids ← columns of the k largest values, largest first, of equal ones the lower first; k distinct ones even among NaN.
template <int64_t kSize, int64_t kCount>
void top_k(const float* x, int32_t* ids) {
  float best[kCount];
  for (int64_t i = 0, count = 0; i < kSize; ++i) {
    if (count == kCount && !(x[i] > best[count - 1])) continue;
    int64_t at = count < kCount ? count++ : count - 1;
    for (; at > 0 && x[i] > best[at - 1]; --at) best[at] = best[at - 1], ids[at] = ids[at - 1];
    best[at] = x[i], ids[at] = int32_t(i);
  }
}

// y ← x in the kKeep best of kGroups groups, −∞ elsewhere; a group is as good as the sum of its kBest highest scores.
template <int64_t kSize, int64_t kGroups, int64_t kKeep, int64_t kBest>
void group_limit(const float* x, float* y) {
  constexpr int64_t kGroup = kSize / kGroups;
  float worth[kGroups];
  for (int64_t g = 0; g < kGroups; ++g) {
    int32_t ids[kBest];
    top_k<kGroup, kBest>(x + g * kGroup, ids);
    worth[g] = 0;
    for (int64_t i = 0; i < kBest; ++i) worth[g] += x[g * kGroup + ids[i]];
  }
  int32_t kept[kKeep];
  top_k<kGroups, kKeep>(worth, kept);
  for (int64_t i = 0; i < kSize; ++i) y[i] = -INFINITY;
  for (int64_t i = 0; i < kKeep; ++i) memcpy(y + kept[i] * kGroup, x + kept[i] * kGroup, sizeof(float) * kGroup);
}

}  // namespace

INGOT_KERNEL void route_5of24__group_limit_top_k_renormalize(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* input0 = (const float*)launch->args[0];
  const float* input1 = (const float*)launch->args[1];
  int32_t* out0 = (int32_t*)launch->args[2];
  float* out1 = (float*)launch->args[3];
  for (int64_t row = begin; row < end; ++row) {
    alignas(64) float v0[32];
    memcpy(v0, input0 + row * 24, 24 * sizeof(float));
    alignas(64) float v1[32];
    for (int64_t i = 0; i < 24; i += 16) {
      const f32x16 operand0 = load(v0 + i);
      store(v1 + i, sigmoid(operand0));
    }
    alignas(64) float v2[32];
    memcpy(v2, input1, 24 * sizeof(float));
    alignas(64) float v3[32];
    for (int64_t i = 0; i < 24; i += 16) {
      const f32x16 operand0 = load(v1 + i);
      const f32x16 operand1 = load(v2 + i);
      store(v3 + i, operand0 + operand1);
    }
    alignas(64) float v4[32];
    group_limit<24, 4, 2, 2>(v3, v4);
    alignas(64) int32_t v5[16];
    top_k<24, 5>(v4, v5);
    alignas(64) float v6[16];
    for (int64_t i = 0; i < 5; ++i) v6[i] = v1[v5[i]];
    alignas(64) float v7[16];
    renormalize<5>(v6, 1e-20f, v7);
    alignas(64) float v8[16];
    for (int64_t i = 0; i < 5; i += 16) {
      const f32x16 operand0 = load(v7 + i);
      store(v8 + i, operand0 * splat(2.5f));
    }
    memcpy(out0 + row * 5, v5, 5 * sizeof(int32_t));
    memcpy(out1 + row * 5, v8, 5 * sizeof(float));
  }
}
