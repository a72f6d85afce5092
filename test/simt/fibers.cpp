// A switch saves the registers that a call keeps and changes stacks. A fiber that waits switches straight to the next ready one.
#include "fibers.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

extern "C" void simt_switch(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch
.type simt_switch,@function
simt_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size simt_switch,.-simt_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl simt_switch
.type simt_switch,%function
simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size simt_switch,.-simt_switch
)");
#else
#error "fibers.cpp knows x86-64 and aarch64: add this processor's switch"
#endif

namespace simt {

Fiber* self = nullptr;

namespace {

// Tops of stacks differ by odd numbers of cache lines, so that 1,024 of them do not meet in the same cache sets (3× on the switch rate).
constexpr size_t kStaggerBytes = 64 << 10;

std::vector<Fiber*> pool;
Fiber host;  // the launching thread's own stack
std::vector<Fiber*> ready;
size_t ready_head = 0;
Order order = Order::kForward;
uint64_t random_state = 1;

// Registers as simt_switch finds them, the return address of which is `body`.
void* first_frame(char* top, void (*body)()) {
#if defined(__x86_64__)
  void** frame = reinterpret_cast<void**>(top) - 8;
  memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(body);  // at the entry of a function the stack is 8 bytes off a multiple of 16
#else
  void** frame = reinterpret_cast<void**>(top) - 20;
  memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(body);
#endif
  return frame;
}

void switch_to(Fiber* to) {
  Fiber* from = self;
  if (from == to) return;
  self = to;
  simt_switch(&from->stack_pointer, to->stack_pointer);
}

Fiber* take_ready() {
  if (ready_head == ready.size()) return &host;
  if (order == Order::kGreedy) {
    Fiber* last = ready.back();
    ready.pop_back();
    return last;
  }
  if (order == Order::kRandom) std::swap(ready[ready_head], ready[ready_head + next_random() % (ready.size() - ready_head)]);
  return ready[ready_head++];
}

}  // namespace

uint32_t next_random() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return uint32_t(random_state >> 33);
}

Fiber* start_fiber(int index, void (*body)()) {
  while (int(pool.size()) <= index) {
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, size_t(sysconf(_SC_PAGESIZE)), PROT_NONE) != 0) {
      fprintf(stderr, "simt: no memory for the stack of GPU thread %d (%zu bytes)\n", index, kStackBytes);
      abort();
    }
    Fiber* fiber = new Fiber;
    fiber->stack = static_cast<char*>(stack);
    fiber->index = int(pool.size());
    pool.push_back(fiber);
  }
  Fiber* fiber = pool[size_t(index)];
  const size_t stagger = size_t(index) * 704 % kStaggerBytes / 64 * 64;
  fiber->stack_pointer = first_frame(fiber->stack + kStackBytes - stagger, body);
  fiber->state = State::kReady;
  fiber->wait_operation = nullptr;
  fiber->wait_pc = nullptr;
  fiber->open_copies.clear();
  fiber->groups.clear();
  fiber->has_waited_for_inputs = false;
  return fiber;
}

void make_ready(Fiber* const* fibers, size_t count) {
  if (ready_head == ready.size()) {
    ready.clear();
    ready_head = 0;
  }
  for (size_t i = 0; i < count; ++i) {
    Fiber* fiber = fibers[order == Order::kReverse ? count - 1 - i : i];
    fiber->state = State::kReady;
    ready.push_back(fiber);
  }
}

void run_next() { switch_to(take_ready()); }

void run_fibers(const std::vector<Fiber*>& fibers, const Schedule& schedule) {
  order = schedule.order;
  ready.clear();
  ready_head = 0;
  make_ready(fibers.data(), fibers.size());
  self = &host;
  run_next();
  self = nullptr;
}

void leave_fibers() {
  switch_to(&host);
  abort();  // a fiber that was left is not gone back to
}

void seed_random(uint64_t seed) { random_state = (seed + 1) * 0x9E3779B97F4A7C15ull | 1; }

}  // namespace simt
