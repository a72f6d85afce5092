// grouped_linear_bf16_128x768x2048__silu_mul
// For each sorted row r of expert e: acc0[r, j] = Σ_k x[r, k] · w[e, j, k];  acc1[r, j] = Σ_k x[r, k] · w[e, 768 + j, k];  out[r, j] = silu(acc0) · acc1
// x (T, 2048) bf16 as tile16x32, w (128, 1536, 2048) bf16 as panel16, plan of 8 experts a token, out (sorted rows, 768) bf16
//
// Grid: a unit is an output panel of 16 columns of one active expert, 48 of each. Up to 4 panels are walked side by side,
// because a core reads several streams faster than one. A unit owns its columns in every row of its expert, whose weights are
// read once whatever the number of rows.
// Each sum takes its tile products in increasing k, however many rows there are: a row's result does not depend on the
// rows beside it. Tiles are zeroed after their last use: a core shares its spare tile registers between hyper-threads.
#include "prelude.cpu.avx512-amx.h"
#include "prelude.cpu.experts.h"

using namespace ingot;

namespace {

constexpr int64_t kExperts = 128;
constexpr int64_t kPerToken = 8;
constexpr int64_t kK = 2048;
constexpr int64_t kTilesK = 64;  // ceil(2048 / 32); a tile is 16 × 32 bf16 = 1024 bytes
constexpr int64_t kTile = 512;   // elements of a bf16 tile
constexpr int64_t kTileC = 256;  // elements of an f32 tile, 16 × 16
constexpr int64_t kWays = 2;  // weight panels of one output panel, side by side
constexpr int64_t kUnits = 48;  // of one expert
constexpr int64_t kOutPanels = 48;  // of one expert: units beyond have no work
constexpr int64_t kStreams = 4;
constexpr int64_t kPanels = kStreams * kWays;
constexpr int64_t kRowTilesPerPass = 4;
constexpr int64_t kBlockK = 16;  // tiles of k: two panels of so many stay in the first-level cache
constexpr int64_t kAhead = 2;  // tiles of each stream requested ahead of use

// What is read and written around the sums.
struct Slots {
  bf16* out;  // (34688, 768) bf16 as tile16x32
  explicit Slots(const IngotLaunch* launch)
      : out((bf16*)launch->args[3]) {}
};

// out[row, col … col + 15] = silu(acc0) · acc1
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc0, f32x16 acc1) {
  store(slots.out + tile16x32_at<768>(row, col), silu(acc0) * acc1);
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

// This thread's memory: sums, and the rows of a pass as tiles.
struct Scratch {
  float c[kRowTilesPerPass * kPanels * kTileC];
  bf16 x[kRowTilesPerPass * kTilesK * kTile];
};

}  // namespace

INGOT_KERNEL void grouped_linear_bf16_128x768x2048__silu_mul(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const bf16* x = (const bf16*)launch->args[0];
  const bf16* w = (const bf16*)launch->args[1];
  const ExpertPlan<kExperts> plan{(const int32_t*)launch->args[2]};
  Scratch& scratch = *(Scratch*)launch->scratch;
  float* c = scratch.c;
  end = min_of(end, plan.active() * kUnits);
  for (int64_t unit = begin; unit < end;) {
    // All units of one expert in this range, group after group: its rows are gathered once for all of them.
    const auto [expert, first_row, count] = plan.rows_of(unit / kUnits);
    const int64_t panel0 = unit % kUnits;
    const int64_t panel1 = min_of(min_of(panel0 + end - unit, kUnits), kOutPanels);
    const bf16* matrix = w + expert * (kOutPanels * kWays * kTilesK * kTile);
    for (int64_t row0 = 0; row0 < count; row0 += kRowTilesPerPass * 16) {
      const int64_t pass = min_of(kRowTilesPerPass * 16, count - row0);
      const bf16* rows = scratch.x;
      for (int64_t row = 0; row < pass; ++row) {
        const bf16* from = x + tile16x32_at<kK>(plan.slot(first_row + row0 + row) / kPerToken, 0);
        bf16* to = scratch.x + tile16x32_at<kK>(row, 0);
        for (int64_t k = 0; k < kTilesK; ++k) memcpy(to + k * kTile, from + k * kTile, 64);
      }
      // C in tiles 0 … 3 and x in tile 4 have no more rows than there are; the other tiles are whole.
      TileConfig config;
      for (int tile = 0; tile < 8; ++tile) config.set(tile, tile <= 4 ? min_of(pass, 16) : 16);
      for (int64_t panel = panel0; panel < panel1; panel += kStreams) {
        const int64_t units = min_of(kStreams, panel1 - panel);
        const bf16* panels[kPanels];  // past the last column its panel again: computed, not written
        for (int64_t p = 0; p < kPanels; ++p) panels[p] = matrix + min_of(panel * kWays + p, panel1 * kWays - 1) * kTilesK * kTile;
        if (pass == 1) {
          for (int64_t p = 0; p < kPanels; p += 4) row_by_four(rows, panels + p, c + p * kTileC);
        } else {
          tile_configure(config);
          multiply(rows, ceil_div(pass, 16), panels, c);
          tile_release();
        }
        for (int64_t row = 0; row < pass; ++row) {
          for (int64_t u = 0; u < units; ++u) {
            const float* acc = c + (row / 16 * kPanels + u * kWays) * kTileC + row % 16 * 16;
            write(slots, first_row + row0 + row, (panel + u) * 16, load(acc), load(acc + kTileC));
          }
        }
      }
    }
    unit += kUnits - panel0;
  }
}
