// rope_store_kv_bf16_32x2x128
// Takes one token's row of the fused projection apart into heads of 128; q goes to out, k and v into the paged cache.
//   q: 32 heads from column 0, 64 elements rotated in neighbouring pairs
//   k: 2 heads from column 4096, 64 elements rotated in neighbouring pairs
//   v: 2 heads from column 4352
//
// Cache of the layer: [block][kv head][K | V][64 tokens][128] bf16. Position p of a sequence:
// block_tables[seq, p / 64], token p % 64.
//
// Grid: a block of 128 threads is one token and owns its row of out and its place in the cache; a warp takes a head at a time.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef bf16 cached;

constexpr int kWarps = 128 / 32;
constexpr int kHeadDim = 128;
constexpr int kPerLane = (kHeadDim + 31) / 32;
constexpr int kKvHeads = 2;
constexpr int kBlockSize = 64;

// A lane's elements lane, lane + 32, … of one head.
struct Head {
  float values[kPerLane];

  INGOT_DEVICE void load(const float* x) {
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) { values[i] = holds(i) ? x[index(i)] : 0.0f; }
  }
  template <class T>
  INGOT_DEVICE void store(T* out) const {
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) {
      if (holds(i)) out[index(i)] = narrow(values[i], Type<T>());
    }
  }
  // Rotates pairs of the first 2 · kHalf elements by angles (cos | sin); `room` is the warp's, for what other lanes hold.
  template <int kHalf, bool kInterleaved>
  INGOT_DEVICE void rotate(const float* angles, float* room) {
    sync_warp();
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) {
      if (holds(i)) room[index(i)] = values[i];
    }
    sync_warp();
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) {
      const int d = index(i);
      if (d >= 2 * kHalf) continue;
      const bool is_first = kInterleaved ? d % 2 == 0 : d < kHalf;
      const int pair = kInterleaved ? d / 2 : d % kHalf;
      const float other = room[kInterleaved ? d ^ 1 : is_first ? d + kHalf : d - kHalf];
      const float turned = other * angles[kHalf + pair];
      values[i] = is_first ? values[i] * angles[pair] - turned : values[i] * angles[pair] + turned;
    }
  }

  INGOT_DEVICE static int index(int i) { return lane_id() + 32 * i; }
  INGOT_DEVICE static bool holds(int i) { return index(i) < kHeadDim; }
};

}  // namespace

INGOT_KERNEL(128, 1) rope_store_kv_bf16_32x2x128(
    const float* x,  // (rows, 4608) f32
    const float* q_angles,  // (rows, 64) f32
    const float* k_angles,  // (rows, 64) f32
    bf16* cache,  // [block][kv head][K | V][token][128]
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    const int32_t* block_tables,  // (B, P)
    float* out,  // (rows, 4096) f32
    const int32_t* num_rows,  // rows of this step
    const int32_t* blocks_per_table  // entries of a block table
) {
  INGOT_SHARED(float, rooms, kWarps * kHeadDim);
  float* room = rooms + warp_id() * kHeadDim;
  wait_for_inputs();
  const int t = block_id();
  if (t >= *num_rows) return;
  const int position = positions[t];
  const int64_t block = block_tables[int64_t(seq_ids[t]) * *blocks_per_table + position / kBlockSize];
  cached* keys = cache + (block * kKvHeads * 2 * kBlockSize + position % kBlockSize) * kHeadDim;
  Head head;
  for (int h = warp_id(); h < 32; h += kWarps) {
    head.load(x + int64_t(t) * 4608 + h * kHeadDim);
    head.rotate<32, true>(q_angles + int64_t(t) * 64, room);
    head.store(out + (int64_t(t) * 32 + h) * kHeadDim);
  }
  for (int h = warp_id(); h < 2; h += kWarps) {
    head.load(x + int64_t(t) * 4608 + 4096 + h * kHeadDim);
    head.rotate<32, true>(k_angles + int64_t(t) * 64, room);
    head.store(keys + h * 2 * kBlockSize * kHeadDim);
  }
  for (int h = warp_id(); h < 2; h += kWarps) {
    head.load(x + int64_t(t) * 4608 + 4352 + h * kHeadDim);
    head.store(keys + (h * 2 + 1) * kBlockSize * kHeadDim);
  }
}

}  // namespace ingot
