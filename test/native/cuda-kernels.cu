// Kernels written by hand for the CUDA executor's tests: each tells whether its arguments, its grid and its place in the order are right.
#include "prelude.cuda.h"

using namespace ingot;

// One block; token i < T: arena[i] = weights[i] + ids[i]; kv[i] counts the runs; out[i] = 1000 arena[i] + kv[i].
INGOT_KERNEL(32, 1)
arrive(const int32_t* ids, const float* weights, float* arena, float* kv, const int32_t* num_tokens, float* out) {
  wait_for_inputs();
  const int i = thread_id();
  if (i < *num_tokens) {
    arena[i] = weights[i] + float(ids[i]);
    kv[i] += 1.0f;
    out[i] = 1000.0f * arena[i] + kv[i];
  }
}

// seen = blocks of the grid, and T, B, S, P.
INGOT_KERNEL(32, 1)
see(const int32_t* t, const int32_t* b, const int32_t* s, const int32_t* p, int32_t* seen) {
  wait_for_inputs();
  if (block_id() == 0 && thread_id() == 0) {
    seen[0] = num_blocks();
    seen[1] = *t;
    seen[2] = *b;
    seen[3] = *s;
    seen[4] = *p;
  }
}

// total[0] = 10 total[0] + x[0], of what an earlier run left in `total`; many blocks, so that it takes a while.
INGOT_KERNEL(32, 1)
append(const int32_t* x, int32_t* total) {
  wait_for_inputs();
  if (block_id() == 0 && thread_id() == 0) total[0] = 10 * total[0] + x[0];
}

INGOT_KERNEL(32, 1)
set_to(const int32_t* x, int32_t* to) {
  wait_for_inputs();
  if (thread_id() == 0) to[0] = x[0];
}

// last = the last of T numbers.
INGOT_KERNEL(32, 1)
take_last(const int32_t* numbers, const int32_t* num_tokens, int32_t* last) {
  wait_for_inputs();
  if (thread_id() == 0) last[0] = numbers[*num_tokens - 1];
}

// Adds one to an arena's number.
INGOT_KERNEL(32, 1)
count_up(int32_t* number) {
  wait_for_inputs();
  if (thread_id() == 0) number[0] += 1;
}

// Writes at once.
INGOT_KERNEL(32, 1)
hurry(int32_t* number) {
  if (thread_id() == 0) number[0] = 1;
}

// out = the last of 25,600 numbers that pass through dynamic shared memory.
INGOT_KERNEL(256, 1)
through_shared(int32_t* out) {
  INGOT_DYNAMIC_SHARED(bytes);
  int32_t* const numbers = (int32_t*)bytes;
  wait_for_inputs();
  for (int i = thread_id(); i < 25600; i += 256) numbers[i] = i;
  sync_block();
  if (thread_id() == 0) out[0] = numbers[25599];
}

// Writes past the end of the arena.
INGOT_KERNEL(32, 1)
overrun(float* arena) {
  wait_for_inputs();
  if (thread_id() == 0) arena[1024] = 1.0f;
}
