// paged_attention_f32_16x8x128
// s[t, h, p] = q[t, h] · K[p] · 0.08838834764831843;  out[t, h] = acc with acc = Σ_p softmax_p(s) · V[p]
// over the positions p of token t's own sequence: 0 … positions[t]
//
// Cache of the layer: [block][kv head][K | V][64 tokens][128] f32.
//
// Grid: a block is one token and one kv head, and owns the outputs of its 2 query heads. Warps take positions in turns; a lane has every
// 32nd element of a head. Warps' sums are merged in order.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef float cached;

constexpr int kWarps = 128 / 32;
constexpr int kThreads = 128;
constexpr int kHeadDim = 128;
constexpr int kPerLane = (kHeadDim + 31) / 32;
constexpr int kHeads = 16;
constexpr int kKvHeads = 8;
constexpr int kGroup = kHeads / kKvHeads;
constexpr int kBlockSize = 64;

// What is read and written around the sums.
struct Slots {
  float* out;  // (rows, 2048) f32
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 2048 + col] = acc;
}

INGOT_DEVICE float element_of(const float* row, int i) {
  const int d = lane_id() + 32 * i;
  return d < kHeadDim ? row[d] : 0.0f;
}
template <class T>
INGOT_DEVICE float element_of(const T* row, int i) {
  const int d = lane_id() + 32 * i;
  return d < kHeadDim ? widen(row[d]) : 0.0f;
}

}  // namespace

INGOT_KERNEL(128, 1) paged_attention_f32_16x8x128(
    const float* q,  // (rows, 2048) f32
    const float* cache,  // [block][kv head][K | V][token][128]
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    const int32_t* block_tables,  // (B, P)
    float* out,  // (rows, 2048) f32
    const int32_t* num_rows,  // rows of this step
    const int32_t* blocks_per_table  // entries of a block table
) {
  INGOT_DYNAMIC_SHARED(memory);
  float* queries = (float*)memory;                    // (kGroup, kHeadDim)
  float* sums = queries + kGroup * kHeadDim;          // (kWarps, kGroup, kHeadDim)
  float* maxima = sums + kWarps * kGroup * kHeadDim;  // (kWarps, kGroup)
  float* weights = maxima + kWarps * kGroup;          // (kWarps, kGroup)
  wait_for_inputs();
  const int t = block_id() / kKvHeads, kv_head = block_id() % kKvHeads;
  if (t >= *num_rows) return;
  const Slots slots{out};
  for (int i = thread_id(); i < kGroup * kHeadDim; i += kThreads) {
    queries[i] = q[(int64_t(t) * kHeads + kv_head * kGroup) * kHeadDim + i] * 0.088388346f;
  }
  sync_block();
  const int32_t* table = block_tables + int64_t(seq_ids[t]) * *blocks_per_table;
  const int position = positions[t];
  float sum[kGroup][kPerLane] = {};
  float max[kGroup], weight[kGroup];
  INGOT_UNROLL for (int h = 0; h < kGroup; ++h) {
    max[h] = -infinity();
    weight[h] = 0.0f;
  }
  for (int p = 0 + warp_id(); p <= position; p += kWarps) {
    const cached* keys = cache + ((int64_t(table[p / kBlockSize]) * kKvHeads + kv_head) * 2 * kBlockSize + p % kBlockSize) * kHeadDim;
    const cached* values = keys + kBlockSize * kHeadDim;
    INGOT_UNROLL for (int h = 0; h < kGroup; ++h) {
      float score = 0.0f;
      INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) { score = fma(element_of(queries + h * kHeadDim, i), element_of(keys, i), score); }
      score = warp_sum(score);
      const float largest = maximum(max[h], score);
      const float rescale = exp(max[h] - largest), share = exp(score - largest);
      max[h] = largest;
      weight[h] = fma(weight[h], rescale, share);
      INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) { sum[h][i] = fma(sum[h][i], rescale, share * element_of(values, i)); }
    }
  }
  INGOT_UNROLL for (int h = 0; h < kGroup; ++h) {
    const int at = warp_id() * kGroup + h;
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) {
      if (lane_id() + 32 * i < kHeadDim) sums[at * kHeadDim + lane_id() + 32 * i] = sum[h][i];
    }
    if (lane_id() == 0) {
      maxima[at] = max[h];
      weights[at] = weight[h];
    }
  }
  sync_block();
  for (int i = thread_id(); i < kGroup * kHeadDim; i += kThreads) {
    const int h = i / kHeadDim;
    float largest = -infinity();
    INGOT_UNROLL for (int warp = 0; warp < kWarps; ++warp) { largest = maximum(largest, maxima[warp * kGroup + h]); }
    float value = 0.0f;
    float total = 0.0f;
    INGOT_UNROLL for (int warp = 0; warp < kWarps; ++warp) {
      const int at = warp * kGroup + h;
      const float scale = exp(maxima[at] - largest);
      value = fma(sums[at * kHeadDim + i % kHeadDim], scale, value);
      total = fma(weights[at], scale, total);
    }
    write(slots, t, (kv_head * kGroup + h) * kHeadDim + i % kHeadDim, value / total);
  }
}

}  // namespace ingot
