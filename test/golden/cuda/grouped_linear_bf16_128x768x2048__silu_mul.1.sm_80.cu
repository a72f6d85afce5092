// grouped_linear_bf16_128x768x2048__silu_mul
// For each sorted row r of an expert e: acc0[j] = Σ_k x[token(r), k] · w[e, j, k];  acc1[j] = Σ_k x[token(r), k] · w[e, 768 + j, k];  out[r, j] = silu(acc0) · acc1
// x (tokens, 2048) bf16, w (128, 1536, 2048) bf16; plan: see sort_slots
//
// Grid: a block owns 8 columns of out for the rows of one active expert, 1 of them at a time; its warps have 1 columns
// each. Lanes share k, sixteen bytes at a time.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef bf16 element;

constexpr int kN = 768;
constexpr int kK = 2048;
constexpr int kWays = 2;
constexpr int kExperts = 128;
constexpr int kPerToken = 8;

constexpr int kWarps = 256 / 32;
constexpr int kTokens = 1;
constexpr int kColumns = 1;  // of a warp
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
      unpack(load16(rows_of_x[t] + k), values, Type<element>());
      INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) {
        INGOT_UNROLL for (int v = 0; v < kVector; ++v) { sums[t][i] = fma(values[v], weights[i][v], sums[t][i]); }
      }
    }
  }
}

// What is read and written around the sums.
struct Slots {
  bf16* out;  // (rows, 768) bf16
};

// out[row, col] = silu(acc0) · acc1
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc0, float acc1) {
  slots.out[int64_t(row) * 768 + col] = narrow(silu(acc0) * acc1, Type<bf16>());
}

}  // namespace

INGOT_KERNEL(256, 1) grouped_linear_bf16_128x768x2048__silu_mul(
    const bf16* x,  // (rows, 2048) bf16
    const bf16* w,  // (196608, 2048) bf16
    const int32_t* plan,  // (n) i32
    bf16* out  // (rows, 768) bf16
) {
  wait_for_inputs();
  const int active = block_id() / kUnits;
  if (active >= plan[0]) return;
  const Slots slots{out};
  const int expert = plan[1 + 3 * active], first = plan[2 + 3 * active], rows = plan[3 + 3 * active];
  const int32_t* slots_of_rows = plan + 1 + 3 * kExperts + first;
  const int col0 = (block_id() % kUnits * kWarps + warp_id()) * kColumns;
  const element* rows_of_w[kWays * kColumns];
  INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) {
    // Beyond the last column the last one is computed again and not written.
    rows_of_w[i] = w + ((int64_t(expert) * kWays + i / kColumns) * kN + min_of(col0 + i % kColumns, kN - 1)) * kK;
  }
  for (int row0 = 0; row0 < rows; row0 += kTokens) {
    const element* rows_of_x[kTokens];
    INGOT_UNROLL for (int t = 0; t < kTokens; ++t) {
      const int r = min_of(row0 + t, rows - 1) - row0;
      rows_of_x[t] = x + int64_t((slots_of_rows[row0 + r] / kPerToken)) * kK;
    }
    float sums[kTokens][kWays * kColumns] = {};
    add_products(rows_of_w, rows_of_x, sums);
    INGOT_UNROLL for (int t = 0; t < kTokens; ++t) {
      INGOT_UNROLL for (int i = 0; i < kWays * kColumns; ++i) { sums[t][i] = warp_sum(sums[t][i]); }
      if (lane_id() != 0 || row0 + t >= rows) continue;
      const int r = t;
      INGOT_UNROLL for (int c = 0; c < kColumns; ++c) {
        if (col0 + c < kN) write(slots, first + row0 + r, col0 + c, sums[t][c], sums[t][kColumns + c]);
      }
    }
  }
}

}  // namespace ingot
