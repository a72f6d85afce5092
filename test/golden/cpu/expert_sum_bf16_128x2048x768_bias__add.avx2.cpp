// expert_sum_bf16_128x2048x768_bias__add
// acc[t, j] = Σ_e weights[t, e] · (Σ_k x[r, k] · w[e, j, k] + bias[e, j]) over token t's experts e in increasing order, r its sorted row;
// out[t, j] = acc + operand0
// x (sorted rows, 768) f32, w (128, 2048, 768) bf16 as panel16, plan and weights of 8 experts a token, out (T, 2048) f32
//
// Grid: a unit is an output panel of 16 columns, 128 in all. Ranges start at multiples of 4: so many panels are walked side
// by side, because a core reads several streams faster than one. A unit owns its columns of every token; it walks the active
// experts, each expert's panels read once whatever the number of rows, and adds their rows up in out.
// Each product is one chain of fused multiply-adds in increasing k,
// however many rows there are: a token's result does not depend on the tokens beside it.
#include "prelude.cpu.avx2.h"
#include "prelude.cpu.experts.h"

using namespace ingot;

namespace {

typedef float input;
typedef bf16 weight;

constexpr int64_t kExperts = 128;
constexpr int64_t kPerToken = 8;
constexpr int64_t kN = 2048;
constexpr int64_t kK = 768;
constexpr int64_t kPanelSize = 768 * 16;  // elements of one weight panel
constexpr int64_t kOutPanels = 128;
constexpr int64_t kStreams = 4;
constexpr int64_t kPanels = kStreams;
constexpr int kRows = 6;  // rows held in registers at once
constexpr int kAccumulators = 6;  // sums of 16 lanes held in registers at once
constexpr int64_t kRowsPerPass = 96;
constexpr int64_t kBlockK = 512;  // a weight block of kPanels × kBlockK is read from cache by all rows of a pass
constexpr int64_t kAhead = 2048 / (16 * sizeof(weight));  // k of each stream requested ahead of use, even

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (T, 2048) f32
  float* out;  // (T, 2048) f32
  explicit Slots(const IngotLaunch* launch)
      : operand0((const float*)launch->args[5]),
        out((float*)launch->args[6]) {}
};

// out[row, col … col + 15] = acc + operand0
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  const f32x16 operand0 = load(slots.operand0 + rows_at<2048>(row, col));
  store(slots.out + rows_at<2048>(row, col), acc + operand0);
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

// The columns of out that a unit owns: sums over experts stand there until the last one is in.
struct Columns {
  const float* weights;  // (T, kPerToken)
  const float* bias;  // (kExperts, kN)
  float* out;  // (T, kN)
  int64_t tokens, col0, panels;

  Columns(const IngotLaunch* launch, int64_t col0, int64_t panels)
      : weights((const float*)launch->args[3]),
        bias((const float*)launch->args[4]),
        out((float*)launch->args[6]),
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
      const f32x16 y = load(acc + p * stride) + load_first(bias + expert * kN + col, kN - col);
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

INGOT_KERNEL void expert_sum_bf16_128x2048x768_bias__add(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const input* x = (const input*)launch->args[0];
  const weight* w = (const weight*)launch->args[1];
  const ExpertPlan<kExperts> plan{(const int32_t*)launch->args[2]};
  float* c = (float*)launch->scratch;  // [kRowsPerPass][kPanels][16]
  for (int64_t unit = begin; unit < end; unit += kStreams) {
    const Columns columns(launch, unit * 16, min_of(kStreams, end - unit));
    columns.clear();
    for (int64_t a = 0; a < plan.active(); ++a) {
      const auto [expert, first_row, count] = plan.rows_of(a);
      const weight* matrix = w + expert * (kOutPanels * kPanelSize);
      const weight* panels[kPanels];  // past the range the last one again: computed, not written
      for (int64_t p = 0; p < kPanels; ++p) panels[p] = matrix + min_of(unit + p, end - 1) * kPanelSize;
      // What is read next: the same panels of the next expert.
      const int64_t next_expert = a + 1 < plan.active() ? plan.rows_of(a + 1).expert : expert;
      const int64_t next = (next_expert - expert) * (kOutPanels * kPanelSize);
      for (int64_t row0 = 0; row0 < count; row0 += kRowsPerPass) {
        const int64_t pass = min_of(kRowsPerPass, count - row0);
        const Rows rows{x + (first_row + row0) * kK};
        const int64_t block_k = pass <= kRows ? kK : kBlockK;
        for (int64_t k0 = 0; k0 < kK; k0 += block_k) {
          accumulate_pass(pass, rows, panels, next, k0, min_of(k0 + block_k, kK), c);
        }
        for (int64_t row = 0; row < pass; ++row) columns.add(plan.slot(first_row + row0 + row), expert, c + row * kPanels * 16, 16);
      }
    }
    columns.finish(slots);
  }
}
