// gather_rows_1024
// acc[t, j] = x[rows[t], j];  out[t, j] = acc
// x (T, 1024) f32, out (S, 1024) f32
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.avx2.h"

using namespace ingot;

namespace {

constexpr int64_t kCols = 1024;

// What is read and written around the sums.
struct Slots {
  const float* x;  // (T, 1024) f32
  float* out;  // (S, 1024) f32
  explicit Slots(const IngotLaunch* launch)
      : x((const float*)launch->args[0]),
        out((float*)launch->args[2]) {}
};

// Sixteen columns of x; zero beyond the last.
INGOT_INLINE f32x16 read_x(const Slots& slots, int64_t row, int64_t col) {
  return load(slots.x + rows_at<1024>(row, col));
}

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store(slots.out + rows_at<1024>(row, col), acc);
}

}  // namespace

INGOT_KERNEL void gather_rows_1024(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const int32_t* rows = (const int32_t*)launch->args[1];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t source = rows[row];
    for (int64_t col = 0; col < kCols; col += 16) write(slots, row, col, read_x(slots, source, col));
  }
}
