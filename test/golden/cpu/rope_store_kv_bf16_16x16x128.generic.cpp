// rope_store_kv_bf16_16x16x128
// Takes one token's rows of q, k and v apart into heads of 128; q goes to out, k and v into the paged cache.
//   q: 16 heads from column 7 of x0, 128 elements rotated in halves
//   k: 16 heads from column 7 of x1, 128 elements rotated in halves
//   v: 16 heads from column 7 of x2
// x0 (T, 2055) f32, x1 (T, 2055) f32, x2 (T, 2055) f32, out (T, 2048) f32, cache bf16
//
// Cache of the layer: [block][kv head][K | V]. K of a block: groups of 16 tokens as panel16 (lanes are tokens); V of a
// block: (32, 128) row-major. Position p of a sequence: block_tables[seq, p / 32], offset p % 32.
//
// Grid: a unit is one token and owns its row of out and its slot of the cache.
#include "prelude.cpu.generic.h"

using namespace ingot;

namespace {

typedef bf16 cached;

constexpr int64_t kHeadDim = 128;
constexpr int64_t kKvHeads = 16;
constexpr int64_t kBlockSize = 32;
constexpr int64_t kHalfBlock = kBlockSize * kHeadDim;  // elements of K, and of V, of one head in one block

// Rotates pairs of the first 2 · kHalf elements by angles (cos | sin).
template <int64_t kHalf, bool kInterleaved>
INGOT_INLINE void rotate(float* head, const float* angles) {
  for (int64_t i = 0; i < kHalf; ++i) {
    float& a = head[kInterleaved ? 2 * i : i];
    float& b = head[kInterleaved ? 2 * i + 1 : i + kHalf];
    const float x = a, y = b, cosine = angles[i], sine = angles[kHalf + i];
    a = x * cosine - y * sine;
    b = y * cosine + x * sine;
  }
}

// Writes one token's key into its lane of a group of 16 tokens.
INGOT_INLINE void store_key(cached* group, int64_t lane, const float* head) {
  cached key[kHeadDim];
  for (int64_t d = 0; d < kHeadDim; d += 16) store(key + d, load(head + d));
  for (int64_t d = 0; d < kHeadDim; ++d) group[panel16_at<cached>(d, lane)] = key[d];
}

}  // namespace

INGOT_KERNEL void rope_store_kv_bf16_16x16x128(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const float* x0 = (const float*)launch->args[0];
  const float* x1 = (const float*)launch->args[1];
  const float* x2 = (const float*)launch->args[2];
  cached* cache = (cached*)launch->args[5];
  const int32_t* positions = (const int32_t*)launch->args[6];
  const int32_t* seq_ids = (const int32_t*)launch->args[7];
  const int32_t* block_tables = (const int32_t*)launch->args[8];
  float* out = (float*)launch->args[9];
  const int64_t blocks_per_table = launch->dims[kBlocksPerTable];
  const float* q_angles = (const float*)launch->args[3];
  const float* k_angles = (const float*)launch->args[4];
  for (int64_t t = begin; t < end; ++t) {
    const int64_t block = block_tables[seq_ids[t] * blocks_per_table + positions[t] / kBlockSize];
    const int64_t offset = positions[t] % kBlockSize;
    cached* keys = cache + block * kKvHeads * 2 * kHalfBlock + offset / 16 * 16 * kHeadDim;
    cached* values = cache + block * kKvHeads * 2 * kHalfBlock + kHalfBlock + offset * kHeadDim;
    for (int64_t h = 0; h < 16; ++h) {
      alignas(64) float head[kHeadDim];
      memcpy(head, x0 + t * 2055 + 7 + h * kHeadDim, sizeof head);
      rotate<64, false>(head, q_angles + t * 128);
      memcpy(out + t * 2048 + h * kHeadDim, head, sizeof head);
    }
    for (int64_t h = 0; h < 16; ++h) {
      alignas(64) float head[kHeadDim];
      memcpy(head, x1 + t * 2055 + 7 + h * kHeadDim, sizeof head);
      rotate<64, false>(head, k_angles + t * 128);
      store_key(keys + h * 2 * kHalfBlock, offset % 16, head);
    }
    for (int64_t h = 0; h < 16; ++h) {
      alignas(64) float head[kHeadDim];
      memcpy(head, x2 + t * 2055 + 7 + h * kHeadDim, sizeof head);
      for (int64_t d = 0; d < kHeadDim; d += 16) store(values + h * 2 * kHalfBlock + d, load(head + d));
    }
  }
}
