// linear_f32_1000x896__bias
// acc[t, j] = Σ_k x[t, k] · w[j, k];  out[t, j] = acc + operand0
// x (T, 896) f32, w (1000, 896) float as panel16, out (T, 1000) f32
//
// Grid: a unit is an output panel of 16 columns, 63 in all. Ranges start at multiples of 4: so many panels are walked side
// by side, because a core reads several streams faster than one. A unit owns its columns in every row.
// Each sum is one chain of fused multiply-adds in increasing k,
// however many rows there are: a row's result does not depend on the rows beside it.
#include "prelude.cpu.avx2.h"

using namespace ingot;

namespace {

typedef float input;
typedef float weight;

constexpr int64_t kK = 896;
constexpr int64_t kPanelSize = 896 * 16;  // elements of one weight panel
constexpr int64_t kWays = 1;  // weight panels of one output panel, side by side
constexpr int64_t kStreams = 4;
constexpr int64_t kPanels = kStreams * kWays;
constexpr int kRows = 6;  // rows held in registers at once
constexpr int kAccumulators = 6;  // sums of 16 lanes held in registers at once
constexpr int64_t kRowsPerPass = 96;
constexpr int64_t kBlockK = 512;  // a weight block of kPanels × kBlockK is read from cache by all rows of a pass
constexpr int64_t kAhead = 2048 / (16 * sizeof(weight));  // k of each stream requested ahead of use, even

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (1000) f32
  float* out;  // (T, 1000) f32
  explicit Slots(const IngotLaunch* launch)
      : operand0((const float*)launch->args[2]),
        out((float*)launch->args[3]) {}
};

// out[row, col … col + 15] = acc + operand0
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  const f32x16 operand0 = load_first(slots.operand0 + col, 1000 - col);
  store_first(slots.out + rows_at<1000>(row, col), acc + operand0, 1000 - col);
}

// Rows of x, one after the other.
struct Rows {
  const input* first;
  const input* operator[](int64_t row) const { return first + row * kK; }
  Rows from(int64_t row) const { return {first + row * kK}; }
};

constexpr int panels_for(int rows) { return kAccumulators >= 4 * rows ? 4 : kAccumulators >= 2 * rows ? 2 : 1; }

template <bool kOdd, int R, int P>
INGOT_INLINE void accumulate_k(Rows x, const weight* const* panels, int64_t k, f32x16 (&acc)[R][P]) {
  f32x16 w[P];
  INGOT_UNROLL for (int p = 0; p < P; ++p) { w[p] = panel_row<kOdd>(panels[p], k); }
  INGOT_UNROLL for (int r = 0; r < R; ++r) {
    const f32x16 xk = splat(x[r][k]);
    INGOT_UNROLL for (int p = 0; p < P; ++p) { acc[r][p] = fma(xk, w[p], acc[r][p]); }
  }
}

// acc[r][p] += x[r, k] · panels[p][k] + x[r, k + 1] · panels[p][k + 1], k even; without kWhole there is no k + 1.
template <bool kWhole, int R, int P>
INGOT_INLINE void accumulate_pair(Rows x, const weight* const* panels, int64_t k, f32x16 (&acc)[R][P]) {
  accumulate_k<false>(x, panels, k, acc);
  if (kWhole) accumulate_k<true>(x, panels, k + 1, acc);
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

INGOT_KERNEL void linear_f32_1000x896__bias(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const Rows x{(const input*)launch->args[0]};
  const weight* w = (const weight*)launch->args[1];
  float* c = (float*)launch->scratch;  // [kRowsPerPass][kPanels][16]
  const int64_t rows = launch->dims[kTokens];
  for (int64_t unit = begin; unit < end; unit += kStreams) {
    const int64_t units = min_of(kStreams, end - unit);
    const weight* panels[kPanels];  // past the range the last one again: computed, not written
    for (int64_t p = 0; p < kPanels; ++p) panels[p] = w + min_of(unit * kWays + p, end * kWays - 1) * kPanelSize;
    for (int64_t row0 = 0; row0 < rows; row0 += kRowsPerPass) {
      const int64_t pass = min_of(kRowsPerPass, rows - row0);
      const int64_t block_k = pass <= kRows ? kK : kBlockK;
      for (int64_t k0 = 0; k0 < kK; k0 += block_k) {
        accumulate_pass(pass, x.from(row0), panels, kPanels * kPanelSize, k0, min_of(k0 + block_k, kK), c);
      }
      for (int64_t row = 0; row < pass; ++row) {
        for (int64_t u = 0; u < units; ++u) {
          const float* acc = c + (row * kPanels + u * kWays) * 16;
          write(slots, row0 + row, (unit + u) * 16, load(acc));
        }
      }
    }
  }
}
