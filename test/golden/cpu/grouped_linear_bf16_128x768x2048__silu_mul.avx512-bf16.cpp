// grouped_linear_bf16_128x768x2048__silu_mul
// For each sorted row r of expert e: acc0[r, j] = Σ_k x[r, k] · w[e, j, k];  acc1[r, j] = Σ_k x[r, k] · w[e, 768 + j, k];  out[r, j] = silu(acc0) · acc1
// x (T, 2048) bf16, w (128, 1536, 2048) bf16 as panel16, plan of 8 experts a token, out (sorted rows, 768) bf16
//
// Grid: a unit is an output panel of 16 columns of one active expert, 48 of each. Up to 4 panels are walked side by side,
// because a core reads several streams faster than one. A unit owns its columns in every row of its expert, whose weights are
// read once whatever the number of rows.
// Each sum is one chain of fused multiply-adds in increasing pairs of k, of each the odd k first,
// however many rows there are: a row's result does not depend on the rows beside it.
#include "prelude.cpu.avx512-bf16.h"
#include "prelude.cpu.experts.h"

using namespace ingot;

namespace {

typedef bf16 input;
typedef bf16 weight;

constexpr int64_t kExperts = 128;
constexpr int64_t kPerToken = 8;
constexpr int64_t kK = 2048;
constexpr int64_t kPanelSize = 2048 * 16;  // elements of one weight panel
constexpr int64_t kWays = 2;  // weight panels of one output panel, side by side
constexpr int64_t kUnits = 48;  // of one expert
constexpr int64_t kOutPanels = 48;  // of one expert: units beyond have no work
constexpr int64_t kStreams = 4;
constexpr int64_t kPanels = kStreams * kWays;
constexpr int kRows = 6;  // rows held in registers at once
constexpr int kAccumulators = 24;  // sums of 16 lanes held in registers at once
constexpr int64_t kRowsPerPass = 96;
constexpr int64_t kBlockK = 512;  // a weight block of kPanels × kBlockK is read from cache by all rows of a pass
constexpr int64_t kAhead = 2048 / (16 * sizeof(weight));  // k of each stream requested ahead of use, even

// What is read and written around the sums.
struct Slots {
  bf16* out;  // (34688, 768) bf16
  explicit Slots(const IngotLaunch* launch)
      : out((bf16*)launch->args[3]) {}
};

// out[row, col … col + 15] = silu(acc0) · acc1
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc0, f32x16 acc1) {
  store(slots.out + rows_at<768>(row, col), silu(acc0) * acc1);
}

// Rows of x where the tokens of an expert's rows have them.
struct Rows {
  const input* const* first;
  const input* operator[](int64_t row) const { return first[row]; }
  Rows from(int64_t row) const { return {first + row}; }
};

constexpr int panels_for(int rows) { return kAccumulators >= 4 * rows ? 4 : kAccumulators >= 2 * rows ? 2 : 1; }

// acc[r][p] += x[r, k] · panels[p][k] + x[r, k + 1] · panels[p][k + 1], k even; without kWhole there is no k + 1.
template <bool kWhole, int R, int P>
INGOT_INLINE void accumulate_pair(Rows x, const weight* const* panels, int64_t k, f32x16 (&acc)[R][P]) {
  bf16x32 w[P];
  INGOT_UNROLL for (int p = 0; p < P; ++p) { w[p] = load_pairs(panels[p] + k * 16); }
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    const bf16x32 xk = kWhole ? splat_pair(x[r] + k) : splat_single(x[r][k]);
    INGOT_UNROLL for (int p = 0; p < P; ++p) { acc[r][p] = dot_pairs(xk, w[p], acc[r][p]); }
  }
}

// What is requested while a block of rows is multiplied: panels of weights that the next one reads, from memory into the cache.
struct Ahead {
  const weight* panel[2];  // null where every stream just requests its own weights a little ahead of use
};

// c[r][p] += Σ_k x[r, k] · panels[p][k] over k0 ≤ k < k1, k0 even. The panels walked next lie `next` elements further.
template <int R, int P>
void accumulate(Rows x, const weight* const* panels, int64_t next, Ahead wanted, int64_t k0, int64_t k1, float* c) {
  f32x16 acc[R][P];
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int p = 0; p < P; ++p) { acc[r][p] = k0 == 0 ? zero() : load(c + (r * kPanels + p) * 16); }
  }
  const weight* stream[P];
  INGOT_UNROLL for (int p = 0; p < P; ++p) { stream[p] = panels[p]; }
  // Near its end a stream requests the panel it will walk next.
  constexpr int64_t kTurn = (kK - kAhead) / 2 * 2;
  int64_t ahead = kAhead * 16 + (k0 > kTurn ? next - kPanelSize : 0);
  int64_t k = k0;
  for (; k + 2 <= k1; k += 2) {
    if (R > 2 && wanted.panel[0]) {  // blocks that share are even, of three rows at least
      prefetch_l2(wanted.panel[0] + (k - k0) * 16);
      prefetch_l2(wanted.panel[1] + (k - k0) * 16);
    } else {
      if (k == kTurn) ahead += next - kPanelSize;
      INGOT_UNROLL for (int p = 0; p < P; ++p) {
        prefetch(stream[p] + k * 16 + ahead);
        if (sizeof(weight) == 4) prefetch(stream[p] + k * 16 + ahead + 16);
      }
    }
    accumulate_pair<true>(x, stream, k, acc);
  }
  if (k < k1) accumulate_pair<false>(x, stream, k, acc);
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    INGOT_UNROLL for (int p = 0; p < P; ++p) { store(c + (r * kPanels + p) * 16, acc[r][p]); }
  }
}

// Blocks of rows that share a block of weights, and which of them this is.
struct Share {
  int64_t block, blocks;
};

// The same for up to R rows and all panels; after them, those from panels[0] + next on. Where blocks of rows share the weights, each
// requests its part of the next block of k, so that memory is read while all of them compute.
template <int R>
void accumulate_rows(int64_t rows, Rows x, const weight* const* panels, int64_t next, Share share, int64_t k0, int64_t k1, float* c) {
  if constexpr (R > 1) {
    if (rows < R) return accumulate_rows<R - 1>(rows, x, panels, next, share, k0, k1, c);
  }
  constexpr int P = panels_for(R);
  const int64_t calls = share.blocks * (kPanels / P);
  const int64_t offset = k1 < kK ? k1 * 16 : next;
  for (int64_t p = 0; p < kPanels; p += P) {
    const int64_t call = share.block * (kPanels / P) + p / P;
    const weight* const* part = panels + kPanels * call / calls;
    const weight* const* last = panels + (kPanels * (call + 1) - 1) / calls;
    const Ahead wanted = share.blocks > 1 ? Ahead{*part + offset, *last + offset} : Ahead{};
    accumulate<R, P>(x, panels + p, p + P < kPanels ? P * kPanelSize : next - p * kPanelSize, wanted, k0, k1, c + p * 16);
  }
}

// All rows of a pass, in blocks as even as can be: a block of few rows loads as many weights for less.
void accumulate_pass(int64_t rows, Rows x, const weight* const* panels, int64_t next, int64_t k0, int64_t k1, float* c) {
  const int64_t blocks = ceil_div(rows, kRows);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = rows * block / blocks;
    const int64_t count = rows * (block + 1) / blocks - row;
    accumulate_rows<kRows>(count, x.from(row), panels, next, {block, blocks}, k0, k1, c + row * kPanels * 16);
  }
}

}  // namespace

INGOT_KERNEL void grouped_linear_bf16_128x768x2048__silu_mul(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const input* x = (const input*)launch->args[0];
  const weight* w = (const weight*)launch->args[1];
  const ExpertPlan<kExperts> plan{(const int32_t*)launch->args[2]};
  float* c = (float*)launch->scratch;  // [kRowsPerPass][kPanels][16]
  end = min_of(end, plan.active() * kUnits);
  for (int64_t unit = begin; unit < end; unit = (unit / kStreams + 1) * kStreams) {
    const int64_t panel = unit % kUnits;
    const int64_t units = min_of(min_of(kStreams - unit % kStreams, end - unit), kOutPanels - panel);
    const auto [expert, first_row, count] = plan.rows_of(unit / kUnits);
    const weight* matrix = w + expert * (kOutPanels * kWays * kPanelSize);
    const weight* panels[kPanels];  // past the unit's columns the last one again: computed, not written
    for (int64_t p = 0; p < kPanels; ++p) panels[p] = matrix + min_of(panel * kWays + p, (panel + units) * kWays - 1) * kPanelSize;
    for (int64_t row0 = 0; row0 < count; row0 += kRowsPerPass) {
      const int64_t pass = min_of(kRowsPerPass, count - row0);
      const input* tokens[kRowsPerPass];
      for (int64_t row = 0; row < pass; ++row) tokens[row] = x + plan.slot(first_row + row0 + row) / kPerToken * kK;
      const Rows rows{tokens};
      const int64_t block_k = pass <= kRows ? kK : kBlockK;
      for (int64_t k0 = 0; k0 < kK; k0 += block_k) {
        accumulate_pass(pass, rows, panels, kPanels * kPanelSize, k0, min_of(k0 + block_k, kK), c);
      }
      for (int64_t row = 0; row < pass; ++row) {
        for (int64_t u = 0; u < units; ++u) {
          const float* acc = c + (row * kPanels + u * kWays) * 16;
          write(slots, first_row + row0 + row, (panel + u) * 16, load(acc), load(acc + 16));
        }
      }
    }
  }
}
