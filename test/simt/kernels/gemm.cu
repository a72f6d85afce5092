// C[M, N] = A[M, K] · B[K, N], bf16 in, f32 out. A block makes 64 × 32, each of four warps 32 × 16, over steps of 32 along K in two
// buffers: while one is multiplied the copies of the other go on.
#include "prelude.cuda.h"

namespace ingot {

constexpr int kRows = 64, kColumns = 32, kStep = 32, kThreads = 128;
constexpr int kPitchA = kStep + 8, kPitchB = kColumns + 8;  // in elements; rows that start in different banks

struct Sizes {
  int m, n, k;
};

INGOT_DEVICE void copy_step(bf16* to_a, bf16* to_b, const bf16* a, const bf16* b, Sizes s, int m0, int n0, int k0) {
  for (int i = thread_id(); i < kRows * kStep / 8; i += kThreads) {
    const int row = i / (kStep / 8), column = i % (kStep / 8) * 8;
    copy16_async(to_a + row * kPitchA + column, a + (m0 + row) * s.k + k0 + column, m0 + row < s.m);
  }
  for (int i = thread_id(); i < kStep * kColumns / 8; i += kThreads) {
    const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    copy16_async(to_b + row * kPitchB + column, b + (k0 + row) * s.n + n0 + column, true);
  }
  commit_copies();
}

INGOT_KERNEL(kThreads, 1) gemm(const bf16* __restrict__ a, const bf16* __restrict__ b, float* __restrict__ c, const int* sizes) {
  INGOT_DYNAMIC_SHARED(shared);
  bf16* const tiles_a = reinterpret_cast<bf16*>(shared);
  bf16* const tiles_b = tiles_a + 2 * kRows * kPitchA;
  wait_for_inputs();
  const Sizes s = {sizes[0], sizes[1], sizes[2]};
  const int column_blocks = s.n / kColumns;
  const int m0 = block_id() / column_blocks * kRows, n0 = block_id() % column_blocks * kColumns;
  const int warp_m = warp_id() / 2 * 32, warp_n = warp_id() % 2 * 16, lane = lane_id();
  float acc[2][2][4] = {};
  const int steps = s.k / kStep;

  copy_step(tiles_a, tiles_b, a, b, s, m0, n0, 0);
  for (int step = 0; step < steps; ++step) {
    const int now = step & 1, next = now ^ 1;
    if (step + 1 < steps) {
      copy_step(tiles_a + next * kRows * kPitchA, tiles_b + next * kStep * kPitchB, a, b, s, m0, n0, (step + 1) * kStep);
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    sync_block();  // all copies have come
    const bf16* tile_a = tiles_a + now * kRows * kPitchA;
    const bf16* tile_b = tiles_b + now * kStep * kPitchB;
    INGOT_UNROLL for (int k = 0; k < kStep; k += 16) {
      uint32_t fa[2][4], fb[4];
      INGOT_UNROLL for (int i = 0; i < 2; ++i) {
        load_matrices(fa[i], tile_a + (warp_m + 16 * i + lane % 16) * kPitchA + k + lane / 16 * 8);
      }
      load_matrices_transposed(fb, tile_b + (k + lane % 16) * kPitchB + warp_n + lane / 16 * 8);
      INGOT_UNROLL for (int i = 0; i < 2; ++i) {
        INGOT_UNROLL for (int j = 0; j < 2; ++j) { multiply_16x8x16(acc[i][j], fa[i], fb[2 * j], fb[2 * j + 1], Type<bf16>()); }
      }
    }
    sync_block();  // the buffer may be filled again
  }

  INGOT_UNROLL for (int i = 0; i < 2; ++i) {
    INGOT_UNROLL for (int j = 0; j < 2; ++j) {
      INGOT_UNROLL for (int e = 0; e < 4; ++e) {
        const int row = m0 + warp_m + 16 * i + lane / 4 + e / 2 * 8, column = n0 + warp_n + 8 * j + lane % 4 * 2 + e % 2;
        if (row < s.m) c[row * s.n + column] = acc[i][j][e];
      }
    }
  }
}

}  // namespace ingot
