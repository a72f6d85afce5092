// layer_norm_gather_f32_1000
// acc[t, j] = (x[rows[t], j] − m) / sqrt(mean_j (x − m)² + 0.00001) · gain[j] + bias[j] with m = mean_j x;  out[t, j] = acc
// x (T, 1000) f32, gain (1000) f32, bias (1000) f32, out (S, 1000) f32
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.avx512.h"

using namespace ingot;

namespace {

constexpr int64_t kCols = 1000;

// What is read and written around the sums.
struct Slots {
  const float* x;  // (T, 1000) f32
  float* out;  // (S, 1000) f32
  explicit Slots(const IngotLaunch* launch)
      : x((const float*)launch->args[0]),
        out((float*)launch->args[4]) {}
};

// Sixteen columns of x; zero beyond the last.
INGOT_INLINE f32x16 read_x(const Slots& slots, int64_t row, int64_t col) {
  return load_first(slots.x + rows_at<1000>(row, col), 1000 - col);
}

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store_first(slots.out + rows_at<1000>(row, col), acc, 1000 - col);
}

// x − mean; zero beyond the last column.
INGOT_INLINE f32x16 distance(const Slots& slots, int64_t row, int64_t col, f32x16 mean) {
  const f32x16 d = read_x(slots, row, col) - mean;
  if (kCols % 16 == 0) return d;
  return select_less(lane_index() + splat(float(col)), splat(float(kCols)), d, zero());
}

// mean_j term(j), sixteen columns at a time; four sums side by side, because one would wait for itself.
template <class Term>
INGOT_INLINE float mean_of(Term term) {
  f32x16 sums[4] = {zero(), zero(), zero(), zero()};
  for (int64_t col = 0; col < kCols / 64 * 64; col += 64) {
    INGOT_UNROLL for (int i = 0; i < 4; ++i) { sums[i] = sums[i] + term(col + 16 * i); }
  }
  for (int64_t col = kCols / 64 * 64; col < kCols; col += 16) sums[0] = sums[0] + term(col);
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3])) / float(kCols);
}

}  // namespace

INGOT_KERNEL void layer_norm_gather_f32_1000(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const int32_t* rows = (const int32_t*)launch->args[1];
  const float* gain = (const float*)launch->args[2];
  const float* bias = (const float*)launch->args[3];
  for (int64_t row = begin; row < end; ++row) {
    const int64_t source = rows[row];
    const f32x16 mean = splat(mean_of([&](int64_t col) { return read_x(slots, source, col); }));
    const float variance = mean_of([&](int64_t col) {
      const f32x16 d = distance(slots, source, col, mean);
      return d * d;
    });
    const f32x16 scale = splat(1.0f / sqrtf(variance + 0.00001f));
    for (int64_t col = 0; col < kCols; col += 16) {
      write(slots, row, col, distance(slots, source, col, mean) * scale * load_first(gain + col, kCols - col) + load_first(bias + col, kCols - col));
    }
  }
}
