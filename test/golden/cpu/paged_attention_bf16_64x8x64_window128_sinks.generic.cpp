// paged_attention_bf16_64x8x64_window128_sinks
// s[t, h, p] = q[t, h] · K[p] · 0.125;  out[t, h] = acc with acc = Σ_p softmax_p(s) · V[p]
// over the positions p of token t's own sequence: the last 128 up to positions[t]
// and a sink, sinks (64) f32: a score of its head that takes part in the softmax and carries no value
// q (T, 64, 64) f32, cache bf16 of 8 kv heads, out (T, 4096) f32
//
// Cache of the layer: [block][kv head][K | V]. K of a block: groups of 16 tokens as panel16 (lanes are tokens); V of a
// block: (32, 64) row-major. Position p of a sequence: block_tables[seq, p / 32], offset p % 32.
//
// Grid: a unit is a tile of 8 batch tokens and a kv head, unit = kv head · ceil(T / 8) + tile: neighbours share keys
// and values. It owns the outputs of the 8 query heads of that kv head in those tokens; tokens of one sequence in a
// tile are computed together, each key and value read once for all of them.
// Softmax is taken online over chunks of 64 positions aligned at position 0. A masked score weighs exactly 0 and a
// chunk without visible positions changes nothing, so a token's result does not depend on the tokens beside it.
#include "prelude.cpu.generic.h"

using namespace ingot;

namespace {

typedef bf16 cached;

constexpr int64_t kHeadDim = 64;
constexpr int64_t kHeads = 64;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kGroup = kHeads / kKvHeads;
constexpr int64_t kBlockSize = 32;
constexpr int64_t kHalfBlock = kBlockSize * kHeadDim;  // elements of K, and of V, of one head in one block
constexpr int64_t kTileTokens = 8;
constexpr int64_t kTileRows = kTileTokens * kGroup;  // a row is one query head of one token
constexpr int64_t kChunk = 64;
constexpr int kRows = 2;  // rows held in registers at once
constexpr int kAccumulators = 2;  // sums of 16 lanes held in registers at once
constexpr float kMasked = -1e30f;

// What is read and written around the sums.
struct Slots {
  float* out;  // (T, 4096) f32
  explicit Slots(const IngotLaunch* launch)
      : out((float*)launch->args[6]) {}
};

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store(slots.out + rows_at<4096>(row, col), acc);
}

// One sequence's tokens of a tile, and this thread's memory for them.
struct Scratch {
  float q[kTileRows][kHeadDim];    // scaled
  float acc[kTileRows][kHeadDim];  // Σ exp(s − max) · V so far
  float scores[kTileRows][kChunk];  // then weights
  float keys[kChunk * kHeadDim];  // panels of 16 positions
  float values[kChunk][kHeadDim];
  float max[kTileRows];
  float sum[kTileRows];
  int32_t first[kTileRows];  // visible positions: first ≤ p < last
  int32_t last[kTileRows];
};

constexpr int vectors_for(int rows) { return kAccumulators >= 4 * rows ? 4 : kAccumulators >= 2 * rows ? 2 : 1; }

// c[r][16 v …] (+)= Σ_k a[r][k] · b[k · kStepK + v · kStepV …] for R rows and V vectors of 16 lanes.
template <bool kAdds, int64_t kStepA, int64_t kStepK, int64_t kStepV, int64_t kStepC, int R, int V>
void multiply_block(const float* a, const float* b, int64_t count, float* c) {
  f32x16 acc[R][V];
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int v = 0; v < V; ++v) { acc[r][v] = kAdds ? load(c + r * kStepC + v * 16) : zero(); }
  }
  for (int64_t k = 0; k < count; ++k) {
    f32x16 bk[V];
    INGOT_UNROLL for (int v = 0; v < V; ++v) { bk[v] = load(b + k * kStepK + v * kStepV); }
    INGOT_UNROLL for (int r = 0; r < R; ++r) {
      const f32x16 ak = splat(a[r * kStepA + k]);
      INGOT_UNROLL for (int v = 0; v < V; ++v) { acc[r][v] = fma(ak, bk[v], acc[r][v]); }
    }
  }
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int v = 0; v < V; ++v) { store(c + r * kStepC + v * 16, acc[r][v]); }
  }
}

// The same for up to R rows and `vectors` vectors.
template <bool kAdds, int64_t kStepA, int64_t kStepK, int64_t kStepV, int64_t kStepC, int R>
void multiply_rows(int64_t rows, int64_t vectors, const float* a, const float* b, int64_t count, float* c) {
  if constexpr (R > 1) {
    if (rows < R) return multiply_rows<kAdds, kStepA, kStepK, kStepV, kStepC, R - 1>(rows, vectors, a, b, count, c);
  }
  constexpr int V = vectors_for(R);
  int64_t v = 0;
  for (; v + V <= vectors; v += V) {
    multiply_block<kAdds, kStepA, kStepK, kStepV, kStepC, R, V>(a, b + v * kStepV, count, c + v * 16);
  }
  for (; v < vectors; ++v) {
    multiply_block<kAdds, kStepA, kStepK, kStepV, kStepC, R, 1>(a, b + v * kStepV, count, c + v * 16);
  }
}

// The groups of 16 positions of one chunk in the cache: keys; the group's values are kHalfBlock further.
// Groups beyond the last position repeat the last one: computed, and weighed 0.
struct Chunk {
  const cached* keys[kChunk / 16];
  int64_t count;  // positions

  Chunk(const cached* cache, const int32_t* block_table, int64_t kv_head, int64_t begin, int64_t end) {
    count = min_of(kChunk, end - begin);
    for (int64_t g = 0; g < kChunk / 16; ++g) {
      const int64_t p = min_of(begin + g * 16, (end - 1) / 16 * 16);
      keys[g] = cache + (block_table[p / kBlockSize] * kKvHeads + kv_head) * 2 * kHalfBlock + p % kBlockSize * kHeadDim;
    }
  }
};

// Copies a chunk out of the cache in f32: worth it when many rows use it.
void load_chunk(const Chunk& chunk, Scratch& s) {
  for (int64_t i = 0; i < chunk.count; i += 16) {
    const cached* keys = chunk.keys[i / 16];
    for (int64_t d = 0; d < kHeadDim; d += 2) {
      store(s.keys + (i * kHeadDim + d * 16), panel_row<false>(keys, d));
      store(s.keys + (i * kHeadDim + d * 16 + 16), panel_row<true>(keys, d + 1));
    }
    const cached* values = keys + kHalfBlock;
    for (int64_t j = 0; j < min_of(16, chunk.count - i); ++j) {
      for (int64_t d = 0; d < kHeadDim; d += 16) store(&s.values[i + j][d], load(values + j * kHeadDim + d));
    }
  }
}

constexpr int64_t kLine = 64 / sizeof(cached);

// scores[r][p] = Σ_d q[r][d] · K[p][d] for up to R rows with keys as they lie; requests the chunk's values meanwhile.
template <int R>
void score_in_place(int64_t row0, int64_t rows, const Chunk& chunk, Scratch& s) {
  if constexpr (R > 1) {
    if (rows < R) return score_in_place<R - 1>(row0, rows, chunk, s);
  }
  constexpr int G = vectors_for(R);
  for (int64_t g0 = 0; g0 < ceil_div(chunk.count, 16); g0 += G) {
    f32x16 acc[R][G];
    const cached* keys[G];
    INGOT_UNROLL for (int g = 0; g < G; ++g) {
      keys[g] = chunk.keys[g0 + g];
      INGOT_UNROLL for (int r = 0; r < R; ++r) { acc[r][g] = zero(); }
    }
    for (int64_t d = 0; d < kHeadDim; d += 2) {
      f32x16 even[G], odd[G];
      INGOT_UNROLL for (int g = 0; g < G; ++g) {
        for (int64_t line = 0; line < 32; line += kLine) prefetch(keys[g] + kHalfBlock + d * 16 + line);
        even[g] = panel_row<false>(keys[g], d);
        odd[g] = panel_row<true>(keys[g], d + 1);
      }
      INGOT_UNROLL for (int r = 0; r < R; ++r) {
        const f32x16 q0 = splat(s.q[row0 + r][d]), q1 = splat(s.q[row0 + r][d + 1]);
        INGOT_UNROLL for (int g = 0; g < G; ++g) { acc[r][g] = fma(q1, odd[g], fma(q0, even[g], acc[r][g])); }
      }
    }
    INGOT_UNROLL for (int r = 0; r < R; ++r) {
      INGOT_UNROLL for (int g = 0; g < G; ++g) { store(s.scores[row0 + r] + (g0 + g) * 16, acc[r][g]); }
    }
  }
}

// acc[r] += Σ_p weight[r][p] · V[p] with values as they lie; requests the keys of the next chunk meanwhile.
template <int R, int V>
INGOT_INLINE void weigh_group(int64_t row0, const cached* values, const cached* next_keys, int64_t g, int64_t count, int64_t d0,
                              Scratch& s) {
  f32x16 acc[R][V];
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int v = 0; v < V; ++v) { acc[r][v] = load(&s.acc[row0 + r][d0 + v * 16]); }
  }
  for (int64_t j = 0; j < count; ++j) {
    const int64_t at = j * kHeadDim + d0;
    for (int64_t line = 0; line < V * 16; line += kLine) prefetch(next_keys + at + line);
    f32x16 value[V];
    INGOT_UNROLL for (int v = 0; v < V; ++v) { value[v] = load(values + at + v * 16); }
    INGOT_UNROLL for (int r = 0; r < R; ++r) {
      const f32x16 weight = splat(s.scores[row0 + r][g * 16 + j]);
      INGOT_UNROLL for (int v = 0; v < V; ++v) { acc[r][v] = fma(weight, value[v], acc[r][v]); }
    }
  }
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int v = 0; v < V; ++v) { store(&s.acc[row0 + r][d0 + v * 16], acc[r][v]); }
  }
}
template <int R>
void weigh_in_place(int64_t row0, int64_t rows, const Chunk& chunk, const Chunk& next, Scratch& s) {
  if constexpr (R > 1) {
    if (rows < R) return weigh_in_place<R - 1>(row0, rows, chunk, next, s);
  }
  constexpr int V = vectors_for(R);
  for (int64_t g = 0; g < ceil_div(chunk.count, 16); ++g) {
    const cached* values = chunk.keys[g] + kHalfBlock;
    const int64_t count = min_of(16, chunk.count - g * 16);
    int64_t d = 0;
    for (; d + V * 16 <= kHeadDim; d += V * 16) weigh_group<R, V>(row0, values, next.keys[g], g, count, d, s);
    for (; d < kHeadDim; d += 16) weigh_group<R, 1>(row0, values, next.keys[g], g, count, d, s);
  }
}

// Turns one row's scores of a chunk into weights, and rescales what was summed before to the new maximum.
INGOT_INLINE void soften(Scratch& s, int64_t row, int64_t chunk0, int64_t count) {
  // Lanes of the chunk that this row sees.
  const f32x16 first = splat(float(s.first[row] - chunk0));
  const f32x16 last = splat(float(s.last[row] - chunk0));
  float* scores = s.scores[row];
  f32x16 largest = splat(kMasked);
  for (int64_t i = 0; i < count; i += 16) {
    const f32x16 lane = lane_index() + splat(float(i));
    const f32x16 seen = select_less(lane, last, load(scores + i), splat(kMasked));
    const f32x16 score = select_less(lane, first, splat(kMasked), seen);
    store(scores + i, score);
    largest = max(largest, score);
  }
  const float old_max = s.max[row];
  const float new_max = fmaxf(old_max, reduce_max(largest));
  f32x16 total = zero();
  for (int64_t i = 0; i < count; i += 16) {
    const f32x16 lane = lane_index() + splat(float(i));
    const f32x16 weight = exp(load(scores + i) - splat(new_max));
    const f32x16 seen = select_less(lane, first, zero(), select_less(lane, last, weight, zero()));
    store(scores + i, seen);
    total = total + seen;
  }
  s.max[row] = new_max;
  if (new_max == old_max) {
    s.sum[row] += reduce_add(total);
    return;
  }
  float factor[16];
  store(factor, exp(splat(old_max - new_max)));
  s.sum[row] = s.sum[row] * factor[0] + reduce_add(total);
  for (int64_t d = 0; d < kHeadDim; d += 16) store(&s.acc[row][d], load(&s.acc[row][d]) * splat(factor[0]));
}

// Attention of tokens t0 … t0 + tokens − 1, all of one sequence, for the query heads of one kv head.
void attend(const float* q, const cached* cache, const int32_t* positions, const int32_t* block_table,
            const float* sinks, int64_t kv_head, int64_t t0, int64_t tokens, const Slots& slots, Scratch& s) {
  const int64_t rows = tokens * kGroup;
  int64_t begin = INT32_MAX, end = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t t = t0 + row / kGroup;
    const float* head = q + (t * kHeads + kv_head * kGroup + row % kGroup) * kHeadDim;
    for (int64_t d = 0; d < kHeadDim; d += 16) {
      store(&s.q[row][d], load(head + d) * splat(0.125f));
      store(&s.acc[row][d], zero());
    }
    s.max[row] = widen(sinks[kv_head * kGroup + row % kGroup]);
    s.sum[row] = 1.0f;  // the sink's own weight, before any position's
    s.first[row] = int32_t(max_of(0, positions[t] + 1 - 128));
    s.last[row] = positions[t] + 1;
    begin = min_of(begin, s.first[row]);
    end = max_of(end, s.last[row]);
  }
  const bool in_place = rows <= 2 * kRows;
  for (int64_t chunk0 = begin / kChunk * kChunk; chunk0 < end; chunk0 += kChunk) {
    const Chunk chunk(cache, block_table, kv_head, chunk0, end);
    if (in_place) {
      for (int64_t row = 0; row < rows; row += kRows) score_in_place<kRows>(row, rows - row, chunk, s);
    } else {
      load_chunk(chunk, s);
      for (int64_t row = 0; row < rows; row += kRows) {
        multiply_rows<false, kHeadDim, 16, 16 * kHeadDim, kChunk, kRows>(rows - row, ceil_div(chunk.count, 16), s.q[row],
                                                                        s.keys, kHeadDim, s.scores[row]);
      }
    }
    for (int64_t row = 0; row < rows; ++row) soften(s, row, chunk0, chunk.count);
    if (in_place) {
      const Chunk next(cache, block_table, kv_head, min_of(chunk0 + kChunk, end - 1), end);
      for (int64_t row = 0; row < rows; row += kRows) weigh_in_place<kRows>(row, rows - row, chunk, next, s);
    } else {
      for (int64_t row = 0; row < rows; row += kRows) {
        multiply_rows<true, kChunk, kHeadDim, 16, kHeadDim, kRows>(rows - row, kHeadDim / 16, s.scores[row], s.values[0],
                                                                   chunk.count, s.acc[row]);
      }
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    const f32x16 scale = splat(1.0f / s.sum[row]);
    const int64_t col = (kv_head * kGroup + row % kGroup) * kHeadDim;
    for (int64_t d = 0; d < kHeadDim; d += 16) write(slots, t0 + row / kGroup, col + d, load(&s.acc[row][d]) * scale);
  }
}

}  // namespace

INGOT_KERNEL void paged_attention_bf16_64x8x64_window128_sinks(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const float* q = (const float*)launch->args[0];
  const cached* cache = (const cached*)launch->args[1];
  const int32_t* positions = (const int32_t*)launch->args[2];
  const int32_t* seq_ids = (const int32_t*)launch->args[3];
  const int32_t* block_tables = (const int32_t*)launch->args[4];
  const float* sinks = (const float*)launch->args[5];
  const int64_t num_tokens = launch->dims[kTokens];
  const int64_t tiles = ceil_div(num_tokens, kTileTokens);
  Scratch& scratch = *(Scratch*)launch->scratch;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t tile_end = min_of((unit % tiles + 1) * kTileTokens, num_tokens);
    for (int64_t t = unit % tiles * kTileTokens; t < tile_end;) {
      int64_t next = t + 1;
      while (next < tile_end && seq_ids[next] == seq_ids[t]) ++next;
      const int32_t* block_table = block_tables + seq_ids[t] * int64_t(launch->dims[kBlocksPerTable]);
      attend(q, cache, positions, block_table, sinks, unit / tiles, t, next - t, slots, scratch);
      t = next;
    }
  }
}
