// rms_norm_gather_bf16_1040
// acc[t, j] = x[rows[t], j] / sqrt(mean_j x² + 0.000001) · gain[j];  out[t, j] = acc
// x (T, 1040) f32, gain (1040) f32, out (S, 1040) bf16
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.avx512-amx.h"

using namespace ingot;

namespace {

constexpr int64_t kCols = 1040;

// What is read and written around the sums.
struct Slots {
  const float* x;  // (T, 1040) f32
  bf16* out;  // (S, 1040) bf16 as tile16x32
  explicit Slots(const IngotLaunch* launch)
      : x((const float*)launch->args[0]),
        out((bf16*)launch->args[3]) {}
};

// Sixteen columns of x; zero beyond the last.
INGOT_INLINE f32x16 read_x(const Slots& slots, int64_t row, int64_t col) {
  return load(slots.x + rows_at<1040>(row, col));
}

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store(slots.out + tile16x32_at<1040>(row, col), acc);
  if (col == 1024) store(slots.out + tile16x32_at<1040>(row, col) + 16, zero());  // the tile's columns beyond 1040
}

}  // namespace

INGOT_KERNEL void rms_norm_gather_bf16_1040(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const int32_t* rows = (const int32_t*)launch->args[1];
  const float* gain = (const float*)launch->args[2];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t source = rows[row];
    f32x16 sums[4] = {zero(), zero(), zero(), zero()};
    for (int64_t col = 0; col < kCols / 64 * 64; col += 64) {
      INGOT_UNROLL for (int i = 0; i < 4; ++i) {
        const f32x16 x = read_x(slots, source, col + 16 * i);
        sums[i] = fma(x, x, sums[i]);
      }
    }
    for (int64_t col = kCols / 64 * 64; col < kCols; col += 16) {
      const f32x16 x = read_x(slots, source, col);
      sums[0] = fma(x, x, sums[0]);
    }
    const float total = reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
    const f32x16 scale = splat(1.0f / sqrtf(total / float(kCols) + 0.000001f));
    for (int64_t col = 0; col < kCols; col += 16) {
      write(slots, row, col, read_x(slots, source, col) * scale * load(gain + col));
    }
  }
}
