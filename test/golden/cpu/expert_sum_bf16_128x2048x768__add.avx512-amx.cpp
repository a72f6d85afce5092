// expert_sum_bf16_128x2048x768__add
// acc[t, j] = Σ_e weights[t, e] · (Σ_k x[r, k] · w[e, j, k]) over token t's experts e in increasing order, r its sorted row;
// out[t, j] = acc + operand0
// x (sorted rows, 768) bf16 as tile16x32, w (128, 2048, 768) bf16 as panel16, plan and weights of 8 experts a token, out (T, 2048) f32
//
// Grid: a unit is an output panel of 16 columns, 128 in all. Ranges start at multiples of 4: so many panels are walked side
// by side, because a core reads several streams faster than one. A unit owns its columns of every token; it walks the active
// experts, each expert's panels read once whatever the number of rows, and adds their rows up in out.
// Each product takes its tile products in increasing k, however many rows there are: a token's result does not depend on the
// tokens beside it. Tiles are zeroed after their last use: a core shares its spare tile registers between hyper-threads.
#include "prelude.cpu.avx512-amx.h"
#include "prelude.cpu.experts.h"

using namespace ingot;

namespace {

constexpr int64_t kExperts = 128;
constexpr int64_t kPerToken = 8;
constexpr int64_t kN = 2048;
constexpr int64_t kK = 768;
constexpr int64_t kTilesK = 24;  // ceil(768 / 32); a tile is 16 × 32 bf16 = 1024 bytes
constexpr int64_t kTile = 512;   // elements of a bf16 tile
constexpr int64_t kTileC = 256;  // elements of an f32 tile, 16 × 16
constexpr int64_t kOutPanels = 128;
constexpr int64_t kStreams = 4;
constexpr int64_t kPanels = kStreams;
constexpr int64_t kRowTilesPerPass = 4;
constexpr int64_t kBlockK = 16;  // tiles of k: two panels of so many stay in the first-level cache
constexpr int64_t kAhead = 2;  // tiles of each stream requested ahead of use

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (T, 2048) f32
  float* out;  // (T, 2048) f32
  explicit Slots(const IngotLaunch* launch)
      : operand0((const float*)launch->args[4]),
        out((float*)launch->args[5]) {}
};

// out[row, col … col + 15] = acc + operand0
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  const f32x16 operand0 = load(slots.operand0 + rows_at<2048>(row, col));
  store(slots.out + rows_at<2048>(row, col), acc + operand0);
}

INGOT_INLINE void prefetch_tile(const bf16* tile) {
  INGOT_UNROLL for (int line = 0; line < 16; ++line) { prefetch(tile + 32 * line); }
}

// c[p] += x tile · panel[p] for four panels, over tiles k0 … k1 − 1 of k. C in tiles 0 … 3.
void one_by_four(const bf16* x, const bf16* const* panels, int64_t k0, int64_t k1, float* c) {
  const bf16 *w0 = panels[0], *w1 = panels[1], *w2 = panels[2], *w3 = panels[3];
  if (k0 == 0) {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  } else {
    tile_load<0>(c), tile_load<1>(c + kTileC), tile_load<2>(c + 2 * kTileC), tile_load<3>(c + 3 * kTileC);
  }
  for (int64_t k = k0; k < k1; ++k) {
    // Near its end a stream requests the panel it will walk next, four panels further.
    const int64_t ahead = (k + kAhead) * kTile + (k + kAhead < kTilesK ? 0 : 3 * kTilesK * kTile);
    tile_load<4>(x + k * kTile);
    prefetch_tile(w0 + ahead);
    tile_load<5>(w0 + k * kTile);
    tile_dot_bf16<0, 4, 5>();
    prefetch_tile(w1 + ahead);
    tile_load<6>(w1 + k * kTile);
    tile_dot_bf16<1, 4, 6>();
    tile_zero<5>();
    prefetch_tile(w2 + ahead);
    tile_load<5>(w2 + k * kTile);
    tile_dot_bf16<2, 4, 5>();
    tile_zero<6>();
    prefetch_tile(w3 + ahead);
    tile_load<6>(w3 + k * kTile);
    tile_dot_bf16<3, 4, 6>();
    tile_zero<4>(), tile_zero<5>(), tile_zero<6>();
  }
  tile_store<0>(c), tile_store<1>(c + kTileC), tile_store<2>(c + 2 * kTileC), tile_store<3>(c + 3 * kTileC);
}

// c[p][0] = x row 0 · panel[p] for four panels, without tiles: a core streams weights through vectors faster. Within 32 k, even and
// odd k are summed apart, then together, then onto c: the order of a tile product, so the bits are the same.
void row_by_four(const bf16* x, const bf16* const* panels, float* c) {
  constexpr int64_t kTurn = kTilesK - kAhead;
  f32x16 sum[4];
  INGOT_UNROLL for (int p = 0; p < 4; ++p) { sum[p] = zero(); }
  for (int64_t k = 0; k < kTilesK; ++k) {
    // Near its end a stream requests the panel it will walk next, four panels further.
    const int64_t ahead = (k + kAhead + (k < kTurn ? 0 : 3 * kTilesK)) * kTile;
    f32x16 even[4], odd[4];
    INGOT_UNROLL for (int p = 0; p < 4; ++p) { even[p] = odd[p] = zero(); }
    INGOT_UNROLL for (int pair = 0; pair < 16; ++pair) {
      const f32x16 x0 = splat(widen(x[k * kTile + 2 * pair])), x1 = splat(widen(x[k * kTile + 2 * pair + 1]));
      INGOT_UNROLL for (int p = 0; p < 4; ++p) {
        const bf16* w = panels[p] + k * kTile;
        prefetch(panels[p] + ahead + pair * 32);
        even[p] = fma(x0, panel_row<false>(w, 2 * pair), even[p]);
        odd[p] = fma(x1, panel_row<true>(w, 2 * pair + 1), odd[p]);
      }
    }
    INGOT_UNROLL for (int p = 0; p < 4; ++p) { sum[p] = sum[p] + (even[p] + odd[p]); }
  }
  INGOT_UNROLL for (int p = 0; p < 4; ++p) { store(c + p * kTileC, sum[p]); }
}

// c[r][p] += x tile r · panel[p] for two row tiles and two panels. C in tiles 0 … 3.
void two_by_two(const bf16* x, const bf16* const* panels, int64_t k0, int64_t k1, float* c) {
  const bf16 *x0 = x, *x1 = x + kTilesK * kTile;
  const bf16 *w0 = panels[0], *w1 = panels[1];
  float* c1 = c + kPanels * kTileC;
  if (k0 == 0) {
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  } else {
    tile_load<0>(c), tile_load<1>(c + kTileC), tile_load<2>(c1), tile_load<3>(c1 + kTileC);
  }
  for (int64_t k = k0; k < k1; ++k) {
    tile_load<4>(x0 + k * kTile);
    tile_load<6>(w0 + k * kTile);
    tile_dot_bf16<0, 4, 6>();
    tile_load<7>(w1 + k * kTile);
    tile_dot_bf16<1, 4, 7>();
    tile_zero<4>();
    tile_load<5>(x1 + k * kTile);
    tile_dot_bf16<2, 5, 6>();
    tile_zero<6>();
    tile_dot_bf16<3, 5, 7>();
    tile_zero<7>(), tile_zero<5>();
  }
  tile_store<0>(c), tile_store<1>(c + kTileC), tile_store<2>(c1), tile_store<3>(c1 + kTileC);
}

// Fills c [row tile][panel][16][16] for up to kRowTilesPerPass row tiles of x.
void multiply(const bf16* x, int64_t row_tiles, const bf16* const* panels, float* c) {
  const int64_t block_k = row_tiles == 1 ? kTilesK : kBlockK;
  for (int64_t k0 = 0; k0 < kTilesK; k0 += block_k) {
    const int64_t k1 = min_of(k0 + block_k, kTilesK);
    for (int64_t p = 0; p < kPanels; p += 2) {
      for (int64_t r = 0; r + 2 <= row_tiles; r += 2) {
        two_by_two(x + r * kTilesK * kTile, panels + p, k0, k1, c + (r * kPanels + p) * kTileC);
      }
    }
    if (row_tiles % 2 == 0) continue;
    const int64_t r = row_tiles - 1;
    for (int64_t p = 0; p < kPanels; p += 4) {
      one_by_four(x + r * kTilesK * kTile, panels + p, k0, k1, c + (r * kPanels + p) * kTileC);
    }
  }
}

// The columns of out that a unit owns: sums over experts stand there until the last one is in.
struct Columns {
  const float* weights;  // (T, kPerToken)
  float* out;  // (T, kN)
  int64_t tokens, col0, panels;

  Columns(const IngotLaunch* launch, int64_t col0, int64_t panels)
      : weights((const float*)launch->args[3]),
        out((float*)launch->args[5]),
        tokens(launch->dims[kTokens]),
        col0(col0),
        panels(panels) {}

  void clear() const {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t col = col0; col < col0 + panels * 16; col += 16) store_first(out + t * kN + col, zero(), kN - col);
    }
  }

  // Adds an expert's row of products: panel p lies at acc + p · stride.
  void add(int64_t slot, int64_t expert, const float* acc, int64_t stride) const {
    const f32x16 weight_of_row = splat(weights[slot]);
    float* sums = out + slot / kPerToken * kN;
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t col = col0 + p * 16;
      const f32x16 y = load(acc + p * stride);
      store_first(sums + col, fma(weight_of_row, y, load_first(sums + col, kN - col)), kN - col);
    }
  }

  void finish(const Slots& slots) const {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t col = col0; col < col0 + panels * 16; col += 16) {
        write(slots, t, col, load_first(out + t * kN + col, kN - col));
      }
    }
  }
};

}  // namespace

INGOT_KERNEL void expert_sum_bf16_128x2048x768__add(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const bf16* x = (const bf16*)launch->args[0];
  const bf16* w = (const bf16*)launch->args[1];
  const ExpertPlan<kExperts> plan{(const int32_t*)launch->args[2]};
  float* c = (float*)launch->scratch;  // [kRowTilesPerPass][kPanels][16][16]
  for (int64_t unit = begin; unit < end; unit += kStreams) {
    const Columns columns(launch, unit * 16, min_of(kStreams, end - unit));
    columns.clear();
    for (int64_t a = 0; a < plan.active(); ++a) {
      const auto [expert, first_row, count] = plan.rows_of(a);
      const bf16* matrix = w + expert * (kOutPanels * kTilesK * kTile);
      const bf16* panels[kPanels];  // past the range the last one again: computed, not written
      for (int64_t p = 0; p < kPanels; ++p) panels[p] = matrix + min_of(unit + p, end - 1) * kTilesK * kTile;
      for (int64_t row0 = 0; row0 < count; row0 += kRowTilesPerPass * 16) {
        const int64_t pass = min_of(kRowTilesPerPass * 16, count - row0);
        const bf16* rows = x + tile16x32_at<kK>(first_row + row0, 0);
        if (pass == 1) {
          row_by_four(rows, panels, c);
        } else {
          // C in tiles 0 … 3 and x in tile 4 have no more rows than there are; the other tiles are whole.
          TileConfig config;
          for (int tile = 0; tile < 8; ++tile) config.set(tile, tile <= 4 ? min_of(pass, 16) : 16);
          tile_configure(config);
          multiply(rows, ceil_div(pass, 16), panels, c);
          tile_release();
        }
        for (int64_t row = 0; row < pass; ++row) {
          columns.add(plan.slot(first_row + row0 + row), expert, c + row / 16 * kPanels * kTileC + row % 16 * 16, kTileC);
        }
      }
    }
    columns.finish(slots);
  }
}
