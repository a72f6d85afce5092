// embedding_bf16_1024
// acc[t, j] = table[ids[t], j];  out[t, j] = acc
// ids (T), table (151936, 1024) bf16 as panel16, out (T, 1024) f32
//
// Grid: a unit is one row of out and owns it.
#include "prelude.cpu.generic.h"

using namespace ingot;

namespace {

typedef bf16 weight;
constexpr int64_t kCols = 1024;

// What is read and written around the sums.
struct Slots {
  float* out;  // (T, 1024) f32
  explicit Slots(const IngotLaunch* launch)
      : out((float*)launch->args[2]) {}
};

// out[row, col … col + 15] = acc
INGOT_INLINE void write(const Slots& slots, int64_t row, int64_t col, f32x16 acc) {
  store(slots.out + rows_at<1024>(row, col), acc);
}

// Sixteen columns of one row of the table; zero beyond the last column.
INGOT_INLINE f32x16 read_table(const weight* table, int64_t id, int64_t col) {
  // The output head's panels: row id is lane id % 16 of panel id / 16.
  const weight* panel = table + id / 16 * (1024 * 16);
  float lanes[16] = {};
  for (int64_t i = 0; i < min_of(16, kCols - col); ++i) lanes[i] = widen(panel[panel16_at<weight>(col + i, id % 16)]);
  return load(lanes);
}

}  // namespace

INGOT_KERNEL void embedding_bf16_1024(const IngotLaunch* launch, int64_t begin, int64_t end) {
  const Slots slots(launch);
  const int32_t* ids = (const int32_t*)launch->args[0];
  const weight* table = (const weight*)launch->args[1];
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t col = 0; col < kCols; col += 16) write(slots, row, col, read_table(table, ids[row], col));
  }
}
