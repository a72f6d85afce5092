// paged_attention_bf16_16x8x128
// s[t, h, p] = q[t, h] · K[p] · 0.08838834764831843;  out[t, h] = acc with acc = Σ_p softmax_p(s) · V[p]
// over the positions p of token t's own sequence: 0 … positions[t]
// Queries and weights are rounded to bf16, of which tensor cores make f32 sums.
//
// Cache of the layer: [block][kv head][K | V][64 tokens][128] bf16; keys or values of 64 tokens are one tile.
//
// Grid: blocks take units of the plan in turns, each with a kv head; rows are the 2 query heads of that head in the unit's tokens. Up to
// sixteen rows: warps share the keys of a tile, and their sums are merged in order. More: a warp has sixteen rows and takes every key.
// Where chunks of a token are units of their own, the last of them merges what they left in partials, in order.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef bf16 cached;
typedef bf16 element;  // what tensor cores multiply

constexpr int kHeadDim = 128;
constexpr int kHeads = 16;
constexpr int kKvHeads = 8;
constexpr int kGroup = kHeads / kKvHeads;
constexpr int kBlockSize = 64;
constexpr int kKeys = 64;  // of a tile
constexpr int kWarps = 128 / 32;
constexpr int kThreads = 128;
constexpr int kRows = 16 * kWarps;
constexpr int kStages = 2;
constexpr int kPitch = kHeadDim + 8;  // of a row in shared memory: eight rows lie in different banks
constexpr int kTile = kKeys * kPitch;
constexpr int kMostChunks = 32;
constexpr int kSumsPitch = kHeadDim + 2;  // of a row of sums: with its maximum and its weight
constexpr int kSharedPitch = (kHeadDim + 8 + 23) / 32 * 32 + 8;  // of one in shared memory: eight rows lie in different banks
constexpr float kLog2e = 1.44269504f;
constexpr float kScale = 0.088388346f * kLog2e;  // exponentials are of 2

// What is read and written around the sums.
struct Slots {
  bf16* out;  // (rows, 2048) bf16
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 2048 + col] = narrow(acc, Type<bf16>());
}

// Sixteen rows' sums over the keys that one warp has seen; a lane has rows lane / 4 and lane / 4 + 8.
struct Sums {
  float values[kHeadDim / 8][4];
  float max[2], weight[2];

  INGOT_DEVICE void clear() {
    INGOT_UNROLL for (int n = 0; n < kHeadDim / 8; ++n) {
      INGOT_UNROLL for (int e = 0; e < 4; ++e) { values[n][e] = 0.0f; }
    }
    INGOT_UNROLL for (int half = 0; half < 2; ++half) {
      max[half] = -infinity();
      weight[half] = 0.0f;
    }
  }

  // Takes in N keys of a tile, which stand at positions key0 …; rows see positions from first to last.
  template <int N>
  INGOT_DEVICE void add(const element* q, const element* keys, const element* values_of_keys, int key0, const int (&first)[2],
                        const int (&last)[2]) {
    float scores[N / 8][4] = {};
    INGOT_UNROLL for (int d = 0; d < kHeadDim; d += 16) {
      uint32_t a[4];
      load_matrices(a, q + lane_id() % 16 * kPitch + d + lane_id() / 16 * 8);
      INGOT_UNROLL for (int n = 0; n < N; n += 16) {
        uint32_t b[4];
        load_matrices(b, keys + (n + lane_id() / 16 * 8 + lane_id() % 8) * kPitch + d + lane_id() / 8 % 2 * 8);
        multiply_16x8x16(scores[n / 8], a, b[0], b[1], Type<element>());
        multiply_16x8x16(scores[n / 8 + 1], a, b[2], b[3], Type<element>());
      }
    }
    INGOT_UNROLL for (int half = 0; half < 2; ++half) {
      float largest = max[half];
      INGOT_UNROLL for (int n = 0; n < N / 8; ++n) {
        INGOT_UNROLL for (int e = 0; e < 2; ++e) {
          const int p = key0 + 8 * n + lane_id() % 4 * 2 + e;
          float& score = scores[n][2 * half + e];
          score = first[half] <= p && p <= last[half] ? score * kScale : -infinity();
          largest = maximum(largest, score);
        }
      }
      largest = maximum(largest, shuffle_xor(largest, 1));
      largest = maximum(largest, shuffle_xor(largest, 2));
      const float base = largest == -infinity() ? 0.0f : largest;  // nothing seen yet
      const float rescale = exp2(max[half] - base);
      float sum = 0.0f;
      INGOT_UNROLL for (int n = 0; n < N / 8; ++n) {
        INGOT_UNROLL for (int e = 0; e < 2; ++e) {
          float& score = scores[n][2 * half + e];
          score = exp2(score - base);
          sum += score;
        }
      }
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      weight[half] = weight[half] * rescale + sum;
      max[half] = largest;
      INGOT_UNROLL for (int n = 0; n < kHeadDim / 8; ++n) {
        values[n][2 * half] *= rescale;
        values[n][2 * half + 1] *= rescale;
      }
    }
    INGOT_UNROLL for (int n = 0; n < N; n += 16) {
      // A score's place among sums is that of a weight among factors.
      uint32_t a[4];
      INGOT_UNROLL for (int i = 0; i < 4; ++i) {
        const float(&pair)[4] = scores[n / 8 + i / 2];
        a[i] = pack(pair[i % 2 * 2], pair[i % 2 * 2 + 1], Type<element>());
      }
      INGOT_UNROLL for (int d = 0; d < kHeadDim; d += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, values_of_keys + (n + lane_id() % 16) * kPitch + d + lane_id() / 16 * 8);
        multiply_16x8x16(values[d / 8], a, b[0], b[1], Type<element>());
        multiply_16x8x16(values[d / 8 + 1], a, b[2], b[3], Type<element>());
      }
    }
  }

  // Writes sixteen rows of (sums, maximum, weight).
  INGOT_DEVICE void store(float* rows) const {
    INGOT_UNROLL for (int half = 0; half < 2; ++half) {
      float* row = rows + (lane_id() / 4 + 8 * half) * kSharedPitch;
      INGOT_UNROLL for (int n = 0; n < kHeadDim / 8; ++n) {
        row[8 * n + lane_id() % 4 * 2] = values[n][2 * half];
        row[8 * n + lane_id() % 4 * 2 + 1] = values[n][2 * half + 1];
      }
      if (lane_id() % 4 == 0) {
        row[kHeadDim] = max[half];
        row[kHeadDim + 1] = weight[half];
      }
    }
  }
};

// The sums of `count` parts, a row's element d and its weight, merged in order; `at(part)` is where a part's row begins.
struct Merged {
  float value, weight, max;
};
template <class At>
INGOT_DEVICE Merged merge(int count, int d, const At& at) {
  float max = -infinity();
  for (int part = 0; part < count; ++part) max = maximum(max, at(part)[kHeadDim]);
  Merged sum = {0.0f, 0.0f, max};
  for (int part = 0; part < count; ++part) {
    const float scale = max == -infinity() ? 0.0f : exp2(at(part)[kHeadDim] - max);
    sum.value = fma(at(part)[d], scale, sum.value);
    sum.weight = fma(at(part)[kHeadDim + 1], scale, sum.weight);
  }
  return sum;
}

// The result of a row's element: its sum over its weight, the sink's included.
INGOT_DEVICE float result_of(const Merged& sum) {
  return sum.value / sum.weight;
}

// Copies keys or values of a block; those outside first … last − 1, which may be nobody's and hold anything, become zero.
INGOT_DEVICE void copy_tile(cached* tile, const cached* from, int first, int last) {
  constexpr int kChunk = 16 / sizeof(cached), kChunks = kHeadDim / kChunk;
  for (int i = thread_id(); i < kKeys * kChunks; i += kThreads) {
    const int key = i / kChunks;
    copy16_async(tile + key * kPitch + i % kChunks * kChunk, from + i * kChunk, first <= key && key < last);
  }
}

}  // namespace

INGOT_KERNEL(128, 1) paged_attention_bf16_16x8x128(
    const float* q,  // (rows, 2048) f32
    const bf16* cache,  // [block][kv head][K | V][token][128]
    const int32_t* positions,  // (T)
    const int32_t* seq_ids,  // (T)
    const int32_t* block_tables,  // (B, P)
    const int32_t* plan,  // (n) i32
    int32_t* counters,  // (n) i32
    float* partials,  // (rows, 130) f32
    bf16* out,  // (rows, 2048) bf16
    const int32_t* blocks_per_table  // entries of a block table
) {
  INGOT_DYNAMIC_SHARED(memory);
  element* q_tile = (element*)memory;  // (kRows, kPitch)
  element* stages = q_tile + kRows * kPitch;  // keys and values, kStages times
  float* sums_of_warps = (float*)stages;       // (kWarps, 16, kSharedPitch), when the last tile is done with
  wait_for_inputs();
  const Slots slots{out};
  for (int u = block_id(); u < plan[0] * kKvHeads; u += num_blocks()) {
    const int32_t* unit = plan + 1 + 6 * (u / kKvHeads);
    const int kv_head = u % kKvHeads, t0 = unit[0], tokens = unit[1];
    const int rows = tokens * kGroup;
    const bool is_few = rows <= 16;

    // Queries, rounded; rows beyond are zero.
    for (int i = thread_id(); i < (is_few ? 16 : kRows) * kHeadDim; i += kThreads) {
      const int row = i / kHeadDim, d = i % kHeadDim;
      const float x = row < rows ? q[(int64_t(t0 + row / kGroup) * kHeads + kv_head * kGroup + row % kGroup) * kHeadDim + d] : 0.0f;
      q_tile[row * kPitch + d] = narrow(x, Type<element>());
    }

    // Positions that rows see, those of the unit from begin to before end.
    const int row0 = is_few ? 0 : 16 * warp_id();
    int first[2], last[2];
    INGOT_UNROLL for (int half = 0; half < 2; ++half) {
      const int row = row0 + lane_id() / 4 + 8 * half;
      const int position = row < rows ? positions[t0 + row / kGroup] : -1;
      last[half] = position;
      first[half] = 0;
    }
    int begin, end;
    {
      const int position = positions[t0];
      begin = 0;
      int size = 256;
      while (size * 32 < position + 1 - begin) size *= 2;
      end = tokens == 1 ? min_of(position + 1, (unit[2] + unit[3]) * size) : positions[t0 + tokens - 1] + 1;
      begin = tokens == 1 ? max_of(begin, unit[2] * size) : begin;
    }
    const int32_t* table = block_tables + int64_t(seq_ids[t0]) * *blocks_per_table;
    const int tile0 = begin / kKeys, num_tiles = ceil_div(end, kKeys) - tile0;
    const auto copy = [&](int tile) {
      if (tile < num_tiles) {
        const int key0 = (tile0 + tile) * kKeys;
        const cached* block = cache + (int64_t(table[key0 / kBlockSize]) * kKvHeads + kv_head) * 2 * kBlockSize * kHeadDim;
        const cached* keys = block + key0 % kBlockSize * kHeadDim;
        cached* stage = stages + tile % kStages * 2 * kTile;
        copy_tile(stage, keys, begin - key0, end - key0);
        copy_tile(stage + kTile, keys + kBlockSize * kHeadDim, begin - key0, end - key0);
      }
      commit_copies();
    };
    // Keys beyond the unit belong to another chunk.
    INGOT_UNROLL for (int half = 0; half < 2; ++half) {
      last[half] = min_of(last[half], end - 1);
      first[half] = max_of(first[half], begin);
    }

    Sums sums;
    sums.clear();
    for (int tile = 0; tile < kStages - 1; ++tile) copy(tile);
    for (int tile = 0; tile < num_tiles; ++tile) {
      copy(tile + kStages - 1);
      wait_copies<kStages - 1>();
      sync_block();
      const element* keys = stages + tile % kStages * 2 * kTile;
      const int key0 = (tile0 + tile) * kKeys;
      if (is_few) {
        constexpr int kShare = kKeys / kWarps;
        static_assert(kShare % 16 == 0, "a warp multiplies sixteen keys at a time");
        const int n = warp_id() * kShare;
        sums.add<kShare>(q_tile, keys + n * kPitch, keys + kTile + n * kPitch, key0 + n, first, last);
      } else {
        sums.add<kKeys>(q_tile + row0 * kPitch, keys, keys + kTile, key0, first, last);
      }
      sync_block();  // the stage is done with
    }
    wait_copies<0>();
    sync_block();
    sums.store(sums_of_warps + 16 * warp_id() * kSharedPitch);
    sync_block();

    // A row's parts: one of each warp, or its own warp's alone.
    const int parts_of_token = unit[5];
    for (int i = thread_id(); i < rows * kHeadDim; i += kThreads) {
      const int row = i / kHeadDim, d = i % kHeadDim, head = kv_head * kGroup + row % kGroup;
      const Merged sum = merge(is_few ? kWarps : 1, d, [&](int part) { return sums_of_warps + (16 * part + row) * kSharedPitch; });
      if (parts_of_token == 1) {
        write(slots, t0 + row / kGroup, head * kHeadDim + d, result_of(sum));
        continue;
      }
      float* partial = partials + ((int64_t(t0) * kMostChunks + unit[4]) * kHeads + head) * kSumsPitch;
      partial[d] = sum.value;
      if (d == 0) {
        partial[kHeadDim] = sum.max;
        partial[kHeadDim + 1] = sum.weight;
      }
    }
    if (parts_of_token > 1 && is_last_to_come(counters + t0 * kKvHeads + kv_head, parts_of_token)) {
      for (int i = thread_id(); i < kGroup * kHeadDim; i += kThreads) {
        const int d = i % kHeadDim, head = kv_head * kGroup + i / kHeadDim;
        const Merged sum = merge(parts_of_token, d, [&](int part) {
          return partials + ((int64_t(t0) * kMostChunks + part) * kHeads + head) * kSumsPitch;
        });
        write(slots, t0, head * kHeadDim + d, result_of(sum));
      }
    }
    sync_block();  // the next unit's tiles take the place of the sums
  }
}

}  // namespace ingot
