// Matrix tiles (AMX): eight registers of 16 rows × 64 bytes, C += A · B for bf16 A and B and f32 C.
//
// The instructions are written as assembly: compilers' own wrappers have dropped the stores that feed LDTILECFG.
// With INGOT_TILE_TWIN the same functions are plain C++ and run on any machine, bit for bit what the instructions compute.
// The process must hold the operating system's permission for tiles before a kernel runs; kernels never ask for it.
#pragma once

#include "prelude.cpu.h"

namespace ingot {

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows) {
    row_bytes[tile] = 64;
    rows[tile] = uint8_t(tile_rows);
  }
};

#if !defined(INGOT_TILE_TWIN)

INGOT_INLINE void tile_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config) : "memory"); }
INGOT_INLINE void tile_release() { asm volatile("tilerelease" : : : "memory"); }
template <int kTile>
INGOT_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows of 64 bytes, one after the other.
template <int kTile>
INGOT_INLINE void tile_load(const void* from) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(int64_t(64)), "i"(kTile) : "memory");
}
template <int kTile>
INGOT_INLINE void tile_store(void* to) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(int64_t(64)), "i"(kTile) : "memory");
}
// c[m][n] += Σ_k a[m][k] · b[k / 2][n][k % 2] over 32 k
template <int kC, int kA, int kB>
INGOT_INLINE void tile_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}

#else

struct TileState {
  TileConfig config;
  alignas(64) uint8_t tile[8][16][64];
};
INGOT_INLINE TileState& tile_state() {
  static thread_local TileState state;
  return state;
}
INGOT_INLINE void tile_configure(const TileConfig& config) {
  tile_state().config = config;
  memset(tile_state().tile, 0, sizeof tile_state().tile);
}
INGOT_INLINE void tile_release() { memset(&tile_state(), 0, sizeof(TileState)); }
template <int kTile>
INGOT_INLINE void tile_zero() {
  memset(tile_state().tile[kTile], 0, 1024);
}
template <int kTile>
INGOT_INLINE void tile_load(const void* from) {
  tile_zero<kTile>();
  memcpy(tile_state().tile[kTile], from, size_t(tile_state().config.rows[kTile]) * 64);
}
template <int kTile>
INGOT_INLINE void tile_store(void* to) {
  memcpy(to, tile_state().tile[kTile], size_t(tile_state().config.rows[kTile]) * 64);
}
// Subnormals count as zero, before and after every operation.
template <int kC, int kA, int kB>
INGOT_INLINE void tile_dot_bf16() {
  TileState& s = tile_state();
  for (int m = 0; m < s.config.rows[kC]; ++m) {
    for (int n = 0; n < 16; ++n) {
      // Even and odd k are summed apart, then together, then onto c: the order the instruction set reference gives.
      float sum[2] = {0, 0};
      for (int k = 0; k < 32; ++k) {
        bf16 a, b;
        memcpy(&a, &s.tile[kA][m][2 * k], 2);
        memcpy(&b, &s.tile[kB][k / 2][4 * n + 2 * (k % 2)], 2);
        sum[k % 2] = flushed(fmaf(flushed(widen(a)), flushed(widen(b)), sum[k % 2]));
      }
      float c;
      memcpy(&c, &s.tile[kC][m][4 * n], 4);
      c = flushed(flushed(c) + flushed(sum[0] + sum[1]));
      memcpy(&s.tile[kC][m][4 * n], &c, 4);
    }
  }
}

#endif

}  // namespace ingot
