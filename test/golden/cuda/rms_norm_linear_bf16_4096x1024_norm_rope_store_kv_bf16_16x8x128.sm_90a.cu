// rms_norm_linear_bf16_4096x1024_norm_rope_store_kv_bf16_16x8x128
// y[t, k] = x[t, k] / sqrt(mean_k x² + 0.000001) · gain[k], as bf16
// acc[j] = Σ_k y[t, k] · w[j, k];  qkv[t, j] = acc
// x (rows, 1024) f32, w (4096, 1024) bf16; limited by how fast w is read, as long as rows are few
// Then heads of 128 are taken from qkv; q goes to out, k and v into the paged cache.
//   q: 16 heads from column 0, normalized (eps 0.000001), 128 elements rotated in halves
//   k: 8 heads from column 2048, normalized (eps 0.000001), 128 elements rotated in halves
//   v: 8 heads from column 3072
//
// Cache of the layer: [block][kv head][K | V][64 tokens][128] bf16. Position p of a sequence:
// block_tables[seq, p / 64], token p % 64.
//
// Grid: a block owns 16 columns of qkv for each of 1 rows, its warps have 2 each. Lanes share k, sixteen bytes at a time.
// The last block of a head to come takes that head of every row, a warp a row.
// Every block makes y for itself.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef bf16 element;
typedef bf16 cached;

constexpr int kN = 4096;
constexpr int kK = 1024;
constexpr int kWays = 1;
constexpr int kThreads = 256;

constexpr int kWarps = 256 / 32;
constexpr int kTokens = 1;
constexpr int kColumns = 2;  // of a warp
constexpr int kUnits = (kN + kWarps * kColumns - 1) / (kWarps * kColumns);
constexpr int kVector = 16 / sizeof(element);

// Adds a lane's share of the products of rows of w and rows of x, four vectors of each row in flight.
INGOT_DEVICE void add_products(const element* const (&rows_of_w)[kWays * kColumns], const element* const (&rows_of_x)[kTokens],
                               float (&sums)[kTokens][kWays * kColumns]) {
  INGOT_UNROLL_BY(4) for (int k = lane_id() * kVector; k < kK; k += 32 * kVector) {
    float weights[kWays * kColumns][kVector];
    INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) { unpack(load16_once(rows_of_w[i] + k), weights[i], Type<element>()); }
    INGOT_UNROLL for (int t = 0; t < kTokens; ++t) {
      float values[kVector];
      unpack(load16_shared(rows_of_x[t] + k), values, Type<element>());
      INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) {
        INGOT_UNROLL for (int v = 0; v < kVector; ++v) { sums[t][i] = fma(values[v], weights[i][v], sums[t][i]); }
      }
    }
  }
}

constexpr int kHeadDim = 128;
constexpr int kPerLane = (kHeadDim + 31) / 32;
constexpr int kKvHeads = 8;
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
  // values ← values / sqrt(mean values² + eps) · gain
  INGOT_DEVICE void normalize(const float* gain, float eps) {
    float sum = 0.0f;
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) { sum = fma(values[i], values[i], sum); }
    const float scale = reciprocal_sqrt(warp_sum(sum) / float(kHeadDim) + eps);
    INGOT_UNROLL for (int i = 0; i < kPerLane; ++i) {
      if (holds(i)) values[i] = values[i] * scale * gain[index(i)];
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

constexpr int kHeads = 32; // of q, k and v
constexpr int kBlocksOfHead = kHeadDim / (kWarps * kColumns);
static_assert(kBlocksOfHead * kWarps * kColumns == kHeadDim && kUnits == kHeads * kBlocksOfHead, "blocks are of one head each");

// What is read and written around the sums.
struct Slots {
  float* out;  // (rows, 4096) f32
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 4096 + col] = acc;
}

}  // namespace

// Four blocks share a multiprocessor: sums alone leave the registers for it, and heads must not take more.
INGOT_KERNEL(256, 4) rms_norm_linear_bf16_4096x1024_norm_rope_store_kv_bf16_16x8x128(
    const float* x,  // (rows, 1024) f32
    const float* gain,  // (1024) f32
    const bf16* w,  // (4096, 1024) bf16
    const float* q_gain,  // (128) f32
    const float* q_angles,  // (rows, 128) f32
    const float* k_gain,  // (128) f32
    const float* k_angles,  // (rows, 128) f32
    bf16* cache,  // [block][kv head][K | V][token][128]
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    const int32_t* block_tables,  // (B, P)
    int32_t* counters,  // (n) i32
    float* qkv,  // (rows, 4096) f32
    float* out,  // (rows, 2048) f32
    const int32_t* num_rows,  // rows of this step
    const int32_t* blocks_per_table  // entries of a block table
) {
  const int col0 = (block_id() % kUnits * kWarps + warp_id()) * kColumns;
  const element* rows_of_w[kWays * kColumns];
  INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) {
    // Beyond the last column the last one is computed again and not written.
    rows_of_w[i] = w + int64_t(i / kColumns * kN + min_of(col0 + i % kColumns, kN - 1)) * kK;
    if (lane_id() * 128 < kK * int(sizeof(element))) prefetch_l2((const char*)rows_of_w[i] + lane_id() * 128);
  }
  wait_for_inputs();
  const int rows = *num_rows;
  const int row0 = block_id() / kUnits * kTokens;
  if (row0 >= rows) return;
  const Slots slots{qkv};
  const element* rows_of_x[kTokens];
  INGOT_DYNAMIC_SHARED(memory);
  for (int t = 0; t < min_of(kTokens, rows - row0); ++t) {
    const float* source = x + int64_t(row0 + t) * kK;
    float sum = 0.0f;
    for (int k = thread_id(); k < kK; k += kThreads) sum = fma(source[k], source[k], sum);
    const float scale = reciprocal_sqrt(block_sum<kThreads>(sum) / float(kK) + 0.000001f);
    element* row = (element*)memory + t * kK;
    for (int k = thread_id(); k < kK; k += kThreads) row[k] = narrow(source[k] * scale * gain[k], Type<element>());
  }
  sync_block();
  INGOT_UNROLL for (int t = 0; t < kTokens; ++t) { rows_of_x[t] = (const element*)memory + min_of(t, rows - 1 - row0) * kK; }

  float sums[kTokens][kWays * kColumns] = {};
  add_products(rows_of_w, rows_of_x, sums);
  let_next_begin();
  INGOT_UNROLL for (int t = 0; t < kTokens; ++t) {
    INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) { sums[t][i] = warp_sum(sums[t][i]); }
    if (lane_id() != 0 || row0 + t >= rows) continue;
    INGOT_UNROLL for (int c = 0; c < kColumns; ++c) {
      if (col0 + c < kN) write(slots, row0 + t, col0 + c, sums[t][c]);
    }
  }
  const int head_index = block_id() % kUnits / kBlocksOfHead; // among those of q, k and v
  if (!is_last_to_come(counters + head_index, kBlocksOfHead)) return;
  INGOT_SHARED(float, rooms, kWarps * kHeadDim);
  float* room = rooms + warp_id() * kHeadDim;
  for (int t = warp_id(); t < rows; t += kWarps) {
    const int position = positions[t];
    const int64_t block = block_tables[int64_t(seq_ids[t]) * *blocks_per_table + position / kBlockSize];
    cached* keys = cache + (block * kKvHeads * 2 * kBlockSize + position % kBlockSize) * kHeadDim;
    Head head;
    if (const int h = head_index; h >= 0 && h < 16) {
      head.load(qkv + int64_t(t) * 4096 + h * kHeadDim);
      head.normalize(q_gain, 0.000001f);
      head.rotate<64, false>(q_angles + int64_t(t) * 128, room);
      head.store(out + (int64_t(t) * 16 + h) * kHeadDim);
    }
    if (const int h = head_index - 16; h >= 0 && h < 8) {
      head.load(qkv + int64_t(t) * 4096 + 2048 + h * kHeadDim);
      head.normalize(k_gain, 0.000001f);
      head.rotate<64, false>(k_angles + int64_t(t) * 128, room);
      head.store(keys + h * 2 * kBlockSize * kHeadDim);
    }
    if (const int h = head_index - 24; h >= 0 && h < 8) {
      head.load(qkv + int64_t(t) * 4096 + 3072 + h * kHeadDim);
      head.store(keys + (h * 2 + 1) * kBlockSize * kHeadDim);
    }
  }
}

}  // namespace ingot
