// Fibers: the stacks GPU threads run on, the switch between them, and the queue of those that can go on. Nothing here knows of blocks
// or memory. One launch at a time uses them, so the state is the process's.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

#include "simt.hpp"

namespace simt {

struct Block;

struct AsyncCopy {
  void* to;
  const void* from;
  bool valid;
  const void* pc;
};

enum class State : uint8_t { kReady, kWaiting, kReturned };

// One GPU thread.
struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;  // kStackBytes, the lowest page of which may not be touched
  int index = 0;          // of its place in the pool

  Block* block = nullptr;
  int thread = 0, lane = 0, warp = 0;
  State state = State::kReturned;
  const char* wait_operation = nullptr;  // what it waits in, and where
  const void* wait_pc = nullptr;
  void* payload = nullptr;                     // what it brought to a collective
  std::vector<AsyncCopy> open_copies;          // issued, not committed
  std::vector<std::vector<AsyncCopy>> groups;  // committed, oldest first
  bool has_waited_for_inputs = false;
};

constexpr size_t kStackBytes = 256 << 10;

// The running GPU thread; null outside a launch's kernel.
extern Fiber* self;

// The fiber at a place in the pool, made when first asked for, ready to run `body` from its start. `body` must not return.
Fiber* start_fiber(int index, void (*body)());
// Lets ready fibers run under `schedule` until none is left, or until leave_fibers is called.
void run_fibers(const std::vector<Fiber*>& fibers, const Schedule& schedule);
[[noreturn]] void leave_fibers();
void make_ready(Fiber* const* fibers, size_t count);
// Lets the next ready fiber run; comes back when the calling one was made ready and is chosen.
void run_next();
// Random numbers of the schedule.
void seed_random(uint64_t seed);
uint32_t next_random();

}  // namespace simt
