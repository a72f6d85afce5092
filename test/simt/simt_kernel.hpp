// What emulated kernel text calls: the operations behind the names of simt_prelude.h, implemented in this folder's .cpp files.
//
// No standard headers and no bodies: a kernel file compiles in little more than the time its own text takes. Each operation takes the
// line it is called from from its return address, so these must stay calls into another object. The host side is in simt.hpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace ingot {
// Of kernel text: were it simt's, calls that pass one would find the functions below beside the prelude's.
struct alignas(16) Bytes16 {
  uint32_t words[4];
};
}  // namespace ingot

#ifdef __clang__  // two calls of one operation are two lines, and stay two
#pragma clang attribute push(__attribute__((nomerge)), apply_to = function)
#endif

namespace simt {

using ingot::Bytes16;
// The four registers of an accumulator, or of a matrix of half types.
struct Floats4 {
  float x[4];
};
struct Words4 {
  uint32_t x[4];
};

// Each thread's first call: fails if the launch has more threads than INGOT_KERNEL allows the kernel `name`.
void enter(const char* name, int threads);

// Constant for the life of a fiber, hence of a kernel's call.
int thread_id() __attribute__((const));
int block_id() __attribute__((const));
int num_blocks() __attribute__((const));

void sync_block();
void sync_warp();

uint32_t shuffle(uint32_t x, int lane);
uint32_t shuffle_xor(uint32_t x, int mask);
uint32_t ballot(bool is_true);
float warp_sum(float x);
float warp_max(float x);

// `tag` tells arrays apart: one address for each declaration in kernel text.
void* shared_array(const void* tag, size_t bytes, const char* name);
void* dynamic_shared();

Bytes16 load16(const void* from);
void store16(void* to, Bytes16 bytes);
Bytes16 load16_shared(const void* from);
void store16_shared(void* to, Bytes16 bytes);
void prefetch(const void* from);

void copy16_async(void* to, const void* from, bool valid);
void commit_copies();
void wait_copies(int groups);

Words4 load_matrices(const void* row, bool transposed);
enum class Half { kBf16, kF16 };
Floats4 multiply_16x8x16(Floats4 c, Words4 a, uint32_t b0, uint32_t b1, Half type);

float f16_value(uint16_t bits) __attribute__((const));
uint16_t f16_bits(float x) __attribute__((const));
float e4m3_value(uint8_t bits) __attribute__((const));

bool is_last_to_come(int32_t* counter, int total);
void atomic_add(int* sum, int x);
void atomic_add(uint64_t* sum, uint64_t x);
void wait_for_inputs();
void let_next_begin();

}  // namespace simt

#ifdef __clang__
#pragma clang attribute pop
#endif

namespace simt {

// Calls a kernel from `params`; the types come from its own signature. Not instrumented: `params` is the host's memory.
template <size_t... kIndex>
struct Indices {
  template <class... T>
  __attribute__((no_sanitize("thread"))) static void call(void (*kernel)(T...), void** params) {
    (void)params;
    kernel(*static_cast<T*>(params[kIndex])...);
  }
};
template <size_t kCount, size_t... kIndex>
struct IndicesTo : IndicesTo<kCount - 1, kCount - 1, kIndex...> {};
template <size_t... kIndex>
struct IndicesTo<0, kIndex...> : Indices<kIndex...> {};
template <class... T>
__attribute__((no_sanitize("thread"))) void call(void (*kernel)(T...), void** params) {
  IndicesTo<sizeof...(T)>::call(kernel, params);
}

template <class... T>
constexpr int num_params(void (*)(T...)) {
  return int(sizeof...(T));
}

}  // namespace simt

// What a driver finds beside kernel NAME, whose blocks have `threads` threads at most: its entry, the number of its parameters, each of 8
// bytes, and the architecture it was built for; printed behind kernel text for each kernel.
#define SIMT_ENTRY(name, threads)                                                                               \
  extern "C" {                                                                                                  \
  __attribute__((visibility("default"), no_sanitize("thread"))) void name##__simt(void** params) {             \
    simt::enter(#name, threads);                                                                                \
    simt::call(name, params);                                                                                   \
  }                                                                                                             \
  extern __attribute__((visibility("default"))) const int name##__simt_params;                                  \
  const int name##__simt_params = simt::num_params(name);                                                       \
  extern __attribute__((visibility("default"))) const int name##__simt_ptx;                                     \
  const int name##__simt_ptx = SIMT_PTX;                                                                        \
  }
