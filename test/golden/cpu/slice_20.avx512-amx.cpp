// slice_20
// acc[t, j] = x[t, 40 + j];  out[t, j] = acc
// x (T, 96) bf16, out (T, 20) f32
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.avx512-amx.h"

using namespace ingot;

namespace {

constexpr int64_t kCols = 20;

// What is read and written around the sums.
struct Slots {
  const bf16* x;  // (T, 96) bf16 as tile16x32
  float* out;  // (T, 20) f32
  explicit Slots(const IngotLaunch* launch)
      : x((const bf16*)launch->args[0]),
        out((float*)launch->args[1]) {}
};

// Columns of x from 40 on, 20 in all: one by one, because they do not begin where a tile does.
INGOT_INLINE f32x16 read_x(const Slots& slots, int64_t row, int64_t col) {
  float lanes[16] = {};
  for (int64_t i = 0; i < min_of(16, 20 - col); ++i) lanes[i] = widen(slots.x[tile16x32_at<96>(row, 40 + col + i)]);
  return load(lanes);
}

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store_first(slots.out + rows_at<20>(row, col), acc, 20 - col);
}

}  // namespace

INGOT_KERNEL void slice_20(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t source = row;
    for (int64_t col = 0; col < kCols; col += 16) write(slots, row, col, read_x(slots, source, col));
  }
}
