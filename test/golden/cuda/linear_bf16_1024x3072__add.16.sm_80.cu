// linear_bf16_1024x3072__add
// acc[j] = Σ_k x[t, k] · w[j, k];  out[t, j] = operand0 + acc
// x (rows, 3072) bf16, w (1024, 3072) bf16
//
// Grid: a block owns 16 columns of out, in 16 rows; neighbours share columns, so that w is read once.
#include "prelude.cuda.h"

namespace ingot {
namespace {

typedef bf16 element;

constexpr int kN = 1024;
constexpr int kK = 3072;
constexpr int kWays = 1;

// Products of a tile of weights and a tile of rows in tensor cores: a block keeps kStages pieces of kTileK of both in shared memory, and
// copies the next while it multiplies. Warps stand kWarpsN × kWarpsT × kWarpsK; those along k have parts of every piece, whose sums are
// added in the end.
constexpr int kTileN = 16;  // rows of w
constexpr int kTileT = 16;  // rows of x
constexpr int kTileK = 256;
constexpr int kStages = 3;
constexpr int kWarpsN = 1;
constexpr int kWarpsT = 1;
constexpr int kWarpsK = 8;
constexpr int kThreads = 32 * kWarpsN * kWarpsT * kWarpsK;
constexpr int kWarpN = kTileN / kWarpsN;
constexpr int kWarpT = kTileT / kWarpsT;
constexpr int kWarpK = kTileK / kWarpsK;
constexpr int kChunk = 8;  // elements of sixteen bytes
constexpr int kChunks = kTileK / kChunk;
constexpr int kStage = (kTileN + kTileT) * kTileK;
constexpr int kPieces = (kK + kTileK - 1) / kTileK;
constexpr int kOutPitch = kTileN + 4;  // of a row of sums: two rows are eight banks apart, so that lanes of a quarter of a warp meet in none

// Where element k of a row stands in a tile: chunks change places by the row, so that those of eight rows lie in different banks, and those
// of a row that is written as well.
INGOT_DEVICE int place(int row, int k) {
  constexpr int kRowsOfLine = kChunks < 8 ? 8 / kChunks : 1;  // of 128 bytes, which are all banks
  return row * kTileK + (k / kChunk ^ row / kRowsOfLine % (kChunks < 8 ? kChunks : 8)) * kChunk + k % kChunk;
}

// Copies rows of a tile from k0 on; `source` says where a row begins, or null for one that is zero.
template <class Source>
INGOT_DEVICE void copy_rows(element* tile, int rows, int k0, const Source& source) {
  for (int i = thread_id(); i < rows * kChunks; i += kThreads) {
    const int row = i / kChunks, k = i % kChunks * kChunk;
    const element* from = source(row);
    const bool valid = from != nullptr && k0 + k < kK;
    copy16_async(tile + place(row, k), valid ? from + k0 + k : nullptr, valid);
  }
}

// One warp's sums: of rows 16 i … of w and rows 8 j … of x.
struct Sums {
  float values[kWarpN / 16][kWarpT / 8][4];

  INGOT_DEVICE void clear() {
    INGOT_UNROLL for (int i = 0; i < kWarpN / 16; ++i) {
      INGOT_UNROLL for (int j = 0; j < kWarpT / 8; ++j) {
        INGOT_UNROLL for (int e = 0; e < 4; ++e) { values[i][j][e] = 0.0f; }
      }
    }
  }

  // Adds the warp's part of a piece.
  INGOT_DEVICE void add(const element* w_tile, const element* x_tile, int n0, int t0, int k0) {
    INGOT_UNROLL for (int k = 0; k < kWarpK; k += 16) {
      uint32_t a[kWarpN / 16][4], b[kWarpT / 16][4];
      INGOT_UNROLL for (int i = 0; i < kWarpN / 16; ++i) {
        load_matrices(a[i], w_tile + place(n0 + 16 * i + lane_id() % 16, k0 + k + lane_id() / 16 * 8));
      }
      INGOT_UNROLL for (int j = 0; j < kWarpT / 16; ++j) {
        load_matrices(b[j], x_tile + place(t0 + 16 * j + lane_id() / 16 * 8 + lane_id() % 8, k0 + k + lane_id() / 8 % 2 * 8));
      }
      INGOT_UNROLL for (int i = 0; i < kWarpN / 16; ++i) {
        INGOT_UNROLL for (int j = 0; j < kWarpT / 8; ++j) {
          multiply_16x8x16(values[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1], Type<element>());
        }
      }
    }
  }

  // Writes them as rows of x by columns of w.
  INGOT_DEVICE void store(float* out, int n0, int t0) const {
    const int n = n0 + lane_id() / 4, t = t0 + lane_id() % 4 * 2;
    INGOT_UNROLL for (int i = 0; i < kWarpN / 16; ++i) {
      INGOT_UNROLL for (int j = 0; j < kWarpT / 8; ++j) {
        INGOT_UNROLL for (int e = 0; e < 4; ++e) { out[(t + 8 * j + e % 2) * kOutPitch + n + 16 * i + e / 2 * 8] = values[i][j][e]; }
      }
    }
  }
};

// Multiplies two tiles over pieces first … last − 1 of k; the sums lie in `memory` then, kWarpsK planes of (kTileT, kOutPitch). Weights of
// the first pieces are asked for before the inputs are waited for.
template <class WeightRow, class InputRow, class Wait>
INGOT_DEVICE void multiply_tiles(unsigned char* memory, int first, int last, const WeightRow& weight_row, const InputRow& input_row,
                                 const Wait& wait) {
  element* stages = (element*)memory;
  const int warp = warp_id();
  const int n0 = warp % kWarpsN * kWarpN, t0 = warp / kWarpsN % kWarpsT * kWarpT, k0 = warp / (kWarpsN * kWarpsT) * kWarpK;
  INGOT_UNROLL for (int stage = 0; stage < kStages - 1; ++stage) {
    if (first + stage < last) copy_rows(stages + stage * kStage, kTileN, (first + stage) * kTileK, weight_row);
  }
  wait();
  INGOT_UNROLL for (int stage = 0; stage < kStages - 1; ++stage) {
    if (first + stage < last) copy_rows(stages + stage * kStage + kTileN * kTileK, kTileT, (first + stage) * kTileK, input_row);
    commit_copies();
  }
  Sums sums;
  sums.clear();
  for (int i = 0; i < last - first; ++i) {
    wait_copies<kStages - 2>();
    sync_block();  // this piece is there, and the one before is done with
    const int next = i + kStages - 1;
    if (first + next < last) {
      element* stage = stages + next % kStages * kStage;
      copy_rows(stage, kTileN, (first + next) * kTileK, weight_row);
      copy_rows(stage + kTileN * kTileK, kTileT, (first + next) * kTileK, input_row);
    }
    commit_copies();
    const element* stage = stages + i % kStages * kStage;
    sums.add(stage, stage + kTileN * kTileK, n0, t0, k0);
  }
  wait_copies<0>();
  sync_block();  // the stages become the sums' memory
  sums.store((float*)memory + warp / (kWarpsN * kWarpsT) * kTileT * kOutPitch, n0, t0);
  sync_block();
}

// The sum of row t of x and row n of w, parts of k in order.
INGOT_DEVICE float sum_at(const unsigned char* memory, int t, int n) {
  const float* at = (const float*)memory + t * kOutPitch + n;
  float sum = at[0];
  INGOT_UNROLL for (int part = 1; part < kWarpsK; ++part) { sum += at[part * kTileT * kOutPitch]; }
  return sum;
}

constexpr int kColumns = kTileN / kWays;  // of out: sixteen of each way take turns in a tile

// What is read and written around the sums.
struct Slots {
  const float* operand0;  // (rows, 1024) f32
  float* out;  // (rows, 1024) f32
};

// out[row, col] = operand0 + acc
INGOT_DEVICE void write(const Slots& slots, int row, int col, float acc) {
  const float operand0 = widen(slots.operand0[int64_t(row) * 1024 + col]);
  slots.out[int64_t(row) * 1024 + col] = operand0 + acc;
}

}  // namespace

INGOT_KERNEL(256, 1) linear_bf16_1024x3072__add(
    const bf16* x,  // (rows, 3072) bf16
    const bf16* w,  // (1024, 3072) bf16
    const float* operand0,  // (rows, 1024) f32
    float* out,  // (rows, 1024) f32
    const int32_t* num_rows  // rows of this step
) {
  INGOT_DYNAMIC_SHARED(memory);
  const int rows = load_extent(num_rows);
  const int tiles = max_of(1, ceil_div(rows, kTileT));
  const int col0 = block_id() / tiles * kColumns, row0 = block_id() % tiles * kTileT;
  if (col0 >= kN) return;
  const Slots slots{operand0, out};
  multiply_tiles(
      memory, 0, kPieces,
      [&](int i) -> const element* {
        const int way = i / 16 % kWays, col = col0 + i / (16 * kWays) * 16 + i % 16;
        return col < kN ? w + (int64_t(way) * kN + col) * kK : nullptr;
      },
      [&](int t) -> const element* { return row0 + t < rows ? x + int64_t(row0 + t) * kK : nullptr; }, [] { wait_for_inputs(); });
  let_next_begin();
  for (int i = thread_id(); i < kTileT * kColumns; i += kThreads) {
    const int t = i / kColumns, c = i % kColumns, n = c / 16 * 16 * kWays + c % 16;
    if (row0 + t < rows && col0 + c < kN) write(slots, row0 + t, col0 + c, sum_at(memory, t, n));
  }
}

}  // namespace ingot
