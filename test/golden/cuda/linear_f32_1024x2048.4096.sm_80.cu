// linear_f32_1024x2048
// acc[j] = Σ_k x[t, k] · w[j, k];  out[t, j] = acc
// x (rows, 2048) f32, w (1024, 2048) f32; limited by how fast w is read, as long as rows are few
//
// Grid: a block owns 32 columns of out for each of 8 rows, its warps have 4 each. Lanes share k, sixteen bytes at a time.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef float element;

constexpr int kN = 1024;
constexpr int kK = 2048;
constexpr int kWays = 1;
constexpr int kThreads = 256;

constexpr int kWarps = 256 / 32;
constexpr int kTokens = 8;
constexpr int kColumns = 4;  // of a warp
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
  float* out;  // (rows, 1024) f32
};

// out[row, col] = acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  slots.out[int64_t(row) * 1024 + col] = acc;
}

}  // namespace

INGOT_KERNEL(256, 1) linear_f32_1024x2048(
    const float* x,  // (rows, 2048) f32
    const float* w,  // (1024, 2048) f32
    float* out,  // (rows, 1024) f32
    const int32_t* num_rows  // rows of this step
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
  const Slots slots{out};
  const element* rows_of_x[kTokens];
  INGOT_UNROLL for (int t = 0; t < kTokens; ++t) { rows_of_x[t] = x + int64_t(min_of(row0 + t, rows - 1)) * kK; }

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
}

}  // namespace ingot
