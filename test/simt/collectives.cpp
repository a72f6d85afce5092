// What the 32 lanes of a warp do together: shuffles, sums, matrix loads and products, and sync_warp. Each is one meeting.
//
// Fragment layouts are those of the PTX ISA, "Warp-level matrix instructions", m8n8 ldmatrix and m16n8k16 mma.
#include <string.h>

#include "check.hpp"
#include "grid.hpp"
#include "simt_kernel.hpp"
#include "source_lines.hpp"

namespace simt {

void meet_warp(const char* operation, const void* pc, void* payload, void (*act)(void* const* payloads)) {
  Block* block = self->block;
  Warp& warp = block->warps[size_t(self->warp)];
  Fiber* const* lanes = &block->fibers[size_t(self->warp) * kLanes];
  if (warp.arrived == 0) {
    const int first = self->warp * kLanes;
    if (first + kLanes > block->threads) {
      fail(name_of_self() + ": " + operation + " at " + line_of(pc) + " needs 32 lanes, but the block's last warp has " +
           std::to_string(block->threads - first) + "; launch a multiple of 32 threads");
    }
    for (int l = 0; l < kLanes; ++l) {
      if (lanes[l]->state != State::kReturned) continue;
      fail(name_of_self() + ": " + operation + " at " + line_of(pc) + " after " + name_of(lanes[l]) +
           " of the same warp returned: every lane must be there; let lanes without work skip the work, not the meeting");
    }
    warp.operation = operation;
    warp.pc = pc;
  } else if (warp.operation != operation || !is_same_line(warp.pc, pc)) {
    const int other = __builtin_ctz(warp.arrived);
    fail("divergent warp: " + name_of_self() + " is in " + operation + " at " + line_of(pc) + ", " + name_of(lanes[other]) + " in " +
         warp.operation + " at " + line_of(warp.pc) + "; all lanes of a warp must come to the same one");
  }
  self->payload = payload;
  self->wait_operation = operation;
  self->wait_pc = pc;
  warp.arrived |= 1u << self->lane;
  if (warp.arrived != ~0u) {
    self->state = State::kWaiting;
    run_next();
    return;
  }
  warp.arrived = 0;
  if (act) {
    void* payloads[kLanes];
    for (int l = 0; l < kLanes; ++l) payloads[l] = lanes[l]->payload;
    act(payloads);
  }
  make_ready(lanes, kLanes);
  run_next();
}

namespace {

struct Word {
  uint32_t in, out;
  int lane;
};

void exchange(void* const* payloads) {
  for (int l = 0; l < kLanes; ++l) {
    Word* word = static_cast<Word*>(payloads[l]);
    word->out = static_cast<Word*>(payloads[word->lane & 31])->in;
  }
}

void vote(void* const* payloads) {
  uint32_t votes = 0;
  for (int l = 0; l < kLanes; ++l) votes |= (static_cast<Word*>(payloads[l])->in & 1u) << l;
  for (int l = 0; l < kLanes; ++l) static_cast<Word*>(payloads[l])->out = votes;
}

// The prelude's butterfly: the same additions in the same order, hence the same bits.
template <class Combine>
void butterfly(void* const* payloads, Combine combine) {
  float x[kLanes], y[kLanes];
  for (int l = 0; l < kLanes; ++l) x[l] = *static_cast<float*>(payloads[l]);
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    for (int l = 0; l < kLanes; ++l) y[l] = combine(x[l], x[l ^ offset]);
    memcpy(x, y, sizeof x);
  }
  for (int l = 0; l < kLanes; ++l) *static_cast<float*>(payloads[l]) = x[l];
}
void add_all(void* const* payloads) {
  butterfly(payloads, [](float a, float b) { return a + b; });
}
// fmaxf: a number beats NaN.
void max_all(void* const* payloads) {
  butterfly(payloads, [](float a, float b) { return b > a || a != a ? b : a; });
}

struct MatrixRow {
  const void* row;
  bool transposed;
  Words4 out;
};

void distribute(void* const* payloads) {
  for (int l = 0; l < kLanes; ++l) {
    MatrixRow* mine = static_cast<MatrixRow*>(payloads[l]);
    for (int m = 0; m < 4; ++m) {
      uint32_t pair = 0;
      for (int k = 0; k < 2; ++k) {
        const int major = l / 4, minor = 2 * (l % 4) + k;
        const int row = mine->transposed ? minor : major, column = mine->transposed ? major : minor;
        const MatrixRow* source = static_cast<const MatrixRow*>(payloads[8 * m + row]);
        uint16_t element;
        memcpy(&element, static_cast<const char*>(source->row) + 2 * column, 2);
        pair |= uint32_t(element) << (16 * k);
      }
      mine->out.x[m] = pair;
    }
  }
}

struct Fragments {
  Floats4 c;
  Words4 a;
  uint32_t b[2];
  Half type;
};

void widen_pair(uint32_t pair, Half type, float* low, float* high) {
  if (type == Half::kBf16) {
    const uint32_t bits[2] = {pair << 16, pair & 0xffff0000u};
    memcpy(low, &bits[0], 4);
    memcpy(high, &bits[1], 4);
  } else {
    *low = f16_value(uint16_t(pair));
    *high = f16_value(uint16_t(pair >> 16));
  }
}

void multiply(void* const* payloads) {
  float a[16][16], b[16][8], c[16][8] = {};
  for (int l = 0; l < kLanes; ++l) {
    const Fragments* f = static_cast<const Fragments*>(payloads[l]);
    const int g = l / 4, j = 2 * (l % 4);
    for (int r = 0; r < 4; ++r) {
      float* pair = &a[g + (r & 1) * 8][j + (r >> 1) * 8];
      widen_pair(f->a.x[r], f->type, pair, pair + 1);
    }
    for (int r = 0; r < 2; ++r) widen_pair(f->b[r], f->type, &b[j + r * 8][g], &b[j + r * 8 + 1][g]);
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) c[i][n] += a[i][k] * b[k][n];
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    Fragments* f = static_cast<Fragments*>(payloads[l]);
    for (int r = 0; r < 4; ++r) f->c.x[r] += c[l / 4 + (r >> 1) * 8][2 * (l % 4) + (r & 1)];
  }
}

}  // namespace

#define CALLER __builtin_return_address(0)

// The only one that orders memory: shuffles and matrix instructions do not.
void sync_warp() {
  meet_warp("sync_warp", CALLER, nullptr, [](void* const*) { self->block->warps[size_t(self->warp)].syncs++; });
}
uint32_t shuffle(uint32_t x, int lane) {
  Word word = {x, 0, lane};
  meet_warp("shuffle", CALLER, &word, exchange);
  return word.out;
}
uint32_t shuffle_xor(uint32_t x, int mask) {
  Word word = {x, 0, self->lane ^ mask};
  meet_warp("shuffle_xor", CALLER, &word, exchange);
  return word.out;
}
uint32_t ballot(bool is_true) {
  Word word = {is_true, 0, 0};
  meet_warp("ballot", CALLER, &word, vote);
  return word.out;
}
float warp_sum(float x) {
  meet_warp("warp_sum", CALLER, &x, add_all);
  return x;
}
float warp_max(float x) {
  meet_warp("warp_max", CALLER, &x, max_all);
  return x;
}
Words4 load_matrices(const void* row, bool transposed) {
  const char* operation = transposed ? "load_matrices_transposed" : "load_matrices";
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0 || !self->block->holds(row)) {
    fail(name_of_self() + ": " + operation + " at " + line_of(CALLER) +
         " needs the address of a row in shared memory, a multiple of 16 bytes");
  }
  if (is_checked) check_access(row, 16, Access::kRead, CALLER);
  MatrixRow mine = {row, transposed, {}};
  meet_warp(operation, CALLER, &mine, distribute);
  return mine.out;
}
Floats4 multiply_16x8x16(Floats4 c, Words4 a, uint32_t b0, uint32_t b1, Half type) {
  Fragments f = {c, a, {b0, b1}, type};
  meet_warp("multiply_16x8x16", CALLER, &f, multiply);
  return f.c;
}

}  // namespace simt
