// What the names of prelude.cuda.h mean to a device compiler: the only place with PTX. Runs on sm_80 and later.
#pragma once
#include <stdint.h>

#define INGOT_DEVICE __device__ __forceinline__
#define INGOT_PRAGMA(text) _Pragma(#text)
#define INGOT_UNROLL INGOT_PRAGMA(unroll)
#define INGOT_UNROLL_BY(n) INGOT_PRAGMA(unroll n)
// Numbers that every thread reads.
#define INGOT_CONSTANT static __constant__ const
// A kernel of blocks of `threads`, `blocks` of them to a multiprocessor at least.
#define INGOT_KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
// Shared memory: `count` elements that exist once a block, uninitialised; and what the launch gives on top, 128-byte aligned.
#define INGOT_SHARED(T, name, count) __shared__ __align__(16) T name[count]
#define INGOT_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace ingot {

// Half types as they lie in memory; arithmetic is in f32.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct fp8 {  // e4m3
  uint8_t bits;
};
struct alignas(16) Bytes16 {
  uint32_t words[4];
};
INGOT_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
INGOT_DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
INGOT_DEVICE float infinity() { return float_of(0x7f800000u); }
INGOT_DEVICE float absolute(float x) { return fabsf(x); }
INGOT_DEVICE float with_sign(float x, float sign) { return copysignf(x, sign); }
INGOT_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
INGOT_DEVICE float reciprocal_sqrt(float x) { return rsqrtf(x); }
INGOT_DEVICE float exp(float x) { return __expf(x); }
INGOT_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
INGOT_DEVICE float log(float x) { return logf(x); }
INGOT_DEVICE float round_to_integer(float x) { return rintf(x); }
INGOT_DEVICE float cosine(float x) { return __cosf(x); }  // from −π to π, to 2⁻²¹
INGOT_DEVICE float sine(float x) { return __sinf(x); }

INGOT_DEVICE float widen(bf16 x) { return float_of(uint32_t(x.bits) << 16); }
INGOT_DEVICE float widen(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
// e4m3 is half with four exponent bits fewer: moved into place and scaled by 2^8; its NaN is all ones.
INGOT_DEVICE float widen(fp8 x) {
  const uint32_t magnitude = x.bits & 0x7fu;
  if (magnitude == 0x7fu) return float_of(0x7fc00000u);
  const float y = widen(f16{uint16_t(magnitude << 7)}) * 256.0f;
  return x.bits & 0x80u ? -y : y;
}
INGOT_DEVICE bf16 narrow(float x, Type<bf16>) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
INGOT_DEVICE f16 narrow(float x, Type<f16>) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// Place in the grid.
INGOT_DEVICE int thread_id() { return threadIdx.x; }
INGOT_DEVICE int lane_id() { return threadIdx.x & 31; }
INGOT_DEVICE int warp_id() { return threadIdx.x >> 5; }
INGOT_DEVICE int block_id() { return blockIdx.x; }
INGOT_DEVICE int num_blocks() { return gridDim.x; }

// Every thread of the block, or of the warp, arrives; what they wrote to memory before is seen after.
INGOT_DEVICE void sync_block() { __syncthreads(); }
INGOT_DEVICE void sync_warp() { __syncwarp(); }

// Of all 32 lanes, which must all be there.
INGOT_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
INGOT_DEVICE int shuffle_xor(int x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
INGOT_DEVICE float shuffle(float x, int lane) { return __shfl_sync(~0u, x, lane); }  // never to be rounded to a whole number
INGOT_DEVICE int shuffle(int x, int lane) { return __shfl_sync(~0u, x, lane); }
INGOT_DEVICE uint32_t ballot(bool is_true) { return __ballot_sync(~0u, is_true); }
INGOT_DEVICE int count_bits(uint32_t x) { return __popc(x); }
INGOT_DEVICE float warp_sum(float x) {
  INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) { x += shuffle_xor(x, offset); }
  return x;
}
INGOT_DEVICE float warp_max(float x) {
  INGOT_UNROLL for (int offset = 16; offset > 0; offset /= 2) { x = fmaxf(x, shuffle_xor(x, offset)); }
  return x;
}

// Sixteen aligned bytes of global memory: kept in caches, or read once and not kept (weights).
INGOT_DEVICE Bytes16 load16(const void* p) {
  Bytes16 b;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(b.words[0]), "=r"(b.words[1]), "=r"(b.words[2]), "=r"(b.words[3]) : "l"(p));
  return b;
}
INGOT_DEVICE Bytes16 load16_once(const void* p) {
  Bytes16 b;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(b.words[0]), "=r"(b.words[1]), "=r"(b.words[2]), "=r"(b.words[3])
               : "l"(p));
  return b;
}
INGOT_DEVICE void store16(void* p, const Bytes16& b) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(b.words[0]), "r"(b.words[1]), "r"(b.words[2]), "r"(b.words[3])
               : "memory");
}
// The same of shared memory.
INGOT_DEVICE Bytes16 load16_shared(const void* p) { return *(const Bytes16*)p; }
INGOT_DEVICE void store16_shared(void* p, const Bytes16& b) { *(Bytes16*)p = b; }
INGOT_DEVICE void prefetch_l2(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Copies of sixteen bytes from global to shared memory that go on by themselves. A thread waits until at most kGroups of the groups
// it committed are open; what the copies of other threads brought is seen after a sync_block. Where `valid` is false, zeros are
// written and nothing is read.
INGOT_DEVICE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
INGOT_DEVICE void copy16_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0) : "memory");
}
INGOT_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
INGOT_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Four 8×8 matrices of half types from shared memory: lane i gives the address of row i % 8 of matrix i / 8, sixteen bytes; gets, of each
// matrix, elements 2 · (lane % 4) and the next of row lane / 4. Transposed: of column lane / 4.
INGOT_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
INGOT_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// c (16×8) += a (16×16) · b (16×8), with g = lane / 4 and j = 2 · (lane % 4):
//   a: rows g, g + 8, g, g + 8 at columns j, j, j + 8, j + 8     b: column g at rows j, j + 8     c: rows g, g, g + 8, g + 8 at columns j, j + 1
// where each register of a and b holds the element named and the next along the 16.
INGOT_DEVICE void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Type<bf16>) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
INGOT_DEVICE void multiply_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Type<f16>) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Two f32 as a register of a or b: `low` is the element named, `high` the next.
INGOT_DEVICE uint32_t pack(float low, float high, Type<bf16>) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
INGOT_DEVICE uint32_t pack(float low, float high, Type<f16>) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// Adds to a sum in shared memory that many threads add to, and that is whole after a sync_block: of 64 bits in halves, since shared memory
// adds 32 bits in one instruction and 64 in a loop that tries until nobody came between.
INGOT_DEVICE void atomic_add(int* sum, int x) { atomicAdd(sum, x); }
INGOT_DEVICE void atomic_add(uint64_t* sum, uint64_t x) {
  unsigned int* halves = (unsigned int*)sum;
  const unsigned int low = (unsigned int)x;
  const unsigned int carry = atomicAdd(halves, low) > ~low;
  const unsigned int high = (unsigned int)(x >> 32) + carry;
  if (high > 0) atomicAdd(halves + 1, high);
}

INGOT_DEVICE void fence_device() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
// Whether this block is the last of `total` to come to `counter`, which is 0 before the first and after the last. What the others wrote
// before they came is seen by every thread of the last one. Called by all threads of a block: the barriers carry to all what the fences
// of one order.
INGOT_DEVICE bool is_last_to_come(int32_t* counter, int total) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    fence_device();
    is_last = atomicAdd(counter, 1) == total - 1;
    if (is_last) {
      *counter = 0;
      fence_device();
    }
  }
  __syncthreads();
  return is_last;
}
// What the kernel before wrote may be read after `wait_for_inputs`: every kernel says it, before it reads a buffer of the arena or writes
// one. Weights do not wait. `let_next_begin` allows the next kernel to start up to its own wait.
INGOT_DEVICE void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
INGOT_DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// An extent of the step, before `wait_for_inputs`: from L2, since the L1 of a kernel that begins early may hold an earlier step's.
INGOT_DEVICE int32_t load_extent(const int32_t* extent) {
  int32_t value;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(value) : "l"(extent));
  return value;
}

}  // namespace ingot
