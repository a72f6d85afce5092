// Launches, block barriers and shared memory. Blocks run one after another on the same fibers and the same shared memory, which is
// filled with 0xFF (NaN) array by array as each block first names one.
#include "grid.hpp"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <numeric>

#include "check.hpp"
#include "memory.hpp"
#include "simt_kernel.hpp"
#include "source_lines.hpp"

namespace simt {

namespace {

constexpr size_t kRedZone = 64;
constexpr unsigned char kRedByte = 0xA5;
constexpr size_t kStaticLimit = 48 << 10, kTotalLimit = 227 << 10;  // of a block on sm_90
constexpr int kMaxThreads = 1024;

Block block;
std::string failure;
Entry kernel;
void** arguments;

void* const kDynamicTag = &block;

void run_thread() {
  kernel(arguments);
  land_copies(0);
  self->state = State::kReturned;
  block.returned++;
  if (block.arrived > 0) {
    const Fiber* waiting = nullptr;
    for (const Fiber* f : block.fibers) {
      if (f->state == State::kWaiting && f->payload == &block) waiting = f;
    }
    fail(name_of_self() + " returned while " + name_of(waiting) + " waits in " + waiting->wait_operation + " at " +
         line_of(waiting->wait_pc) + ": every thread of a block must arrive; let threads without work skip the work, not the barrier");
  }
  run_next();
  abort();
}

std::string deadlock() {
  std::string report;
  int waiting = 0;
  for (const Fiber* f : block.fibers) {
    if (f->state != State::kWaiting) continue;
    if (waiting++ < 4) report += "\n  " + name_of(f) + " waits in " + f->wait_operation + " at " + line_of(f->wait_pc);
  }
  return "deadlock: " + std::to_string(waiting) + " threads wait for others that wait elsewhere or have returned" + report;
}

void check_red_zones() {
  const char* at = block.shared;
  for (const SharedArray& array : block.arrays) {
    const char* end = array.start + array.bytes;
    for (const char* p = at; p < end + kRedZone; ++p) {
      if (p == array.start) p = end;
      if (static_cast<unsigned char>(*p) == kRedByte) continue;
      failure = "out of bounds: block " + std::to_string(block.id) + " wrote beside shared array " + array.name + " (" +
                std::to_string(array.bytes) +
                " bytes), " + std::to_string(p < array.start ? p - array.start : p - end) +
                " bytes from it; a checked run names the line";
      return;
    }
    at = end + kRedZone;
  }
}

void run_block(int id, const Schedule& schedule) {
  const size_t dynamic_bytes = block.dynamic_bytes;
  const int threads = block.threads, num_blocks = block.num_blocks;
  char* shared = block.shared;
  block = Block();
  block.id = id;
  block.num_blocks = num_blocks;
  block.threads = threads;
  block.dynamic_bytes = dynamic_bytes;
  block.shared = shared;
  block.warps.resize(size_t(threads + kLanes - 1) / kLanes);
  for (int t = 0; t < threads; ++t) {
    Fiber* fiber = start_fiber(t, run_thread);
    fiber->block = &block;
    fiber->thread = t;
    fiber->lane = t % kLanes;
    fiber->warp = t / kLanes;
    block.fibers.push_back(fiber);
  }
  if (is_checked) check_block_begins(&block);
  run_fibers(block.fibers, schedule);
  if (is_checked) check_block_ends(&block);
  if (failure.empty() && block.returned < threads) failure = deadlock();
  if (failure.empty()) check_red_zones();
}

}  // namespace

bool Block::holds(const void* p) const { return p >= shared && p < shared + kSharedBytes; }

bool order_of(const char* word, Order* order) {
  const char* words[] = {"forward", "reverse", "random", "greedy"};
  for (int i = 0; i < 4; ++i) {
    if (strcmp(word, words[i]) != 0) continue;
    *order = Order(i);
    return true;
  }
  return false;
}

std::string name_of(const Fiber* fiber) {
  return "block " + std::to_string(fiber->block->id) + " thread " + std::to_string(fiber->thread);
}
std::string name_of_self() { return name_of(self); }

void fail(const std::string& report) {
  if (failure.empty()) failure = report;
  self->state = State::kWaiting;
  leave_fibers();
}

std::string launch(Entry entry, int num_blocks, int threads, size_t dynamic_bytes, void** params, const Schedule& schedule,
                   bool overlaps) {
  const std::lock_guard<std::mutex> lock(one_call);
  if (num_blocks < 1) return "launch: a grid of " + std::to_string(num_blocks) + " blocks; at least 1 must run";
  if (threads < 1 || threads > kMaxThreads) return "launch: " + std::to_string(threads) + " threads a block; 1 to 1024 are possible";
  if (dynamic_bytes > kTotalLimit) {
    return "launch: " + std::to_string(dynamic_bytes) + " bytes of dynamic shared memory; at most " + std::to_string(kTotalLimit) +
           " are possible";
  }
  kernel = entry;
  arguments = params;
  failure.clear();
  seed_random(schedule.seed);
  block.num_blocks = num_blocks;
  block.threads = threads;
  block.dynamic_bytes = dynamic_bytes;
  if (!block.shared) {
    void* shared = mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) abort();
    block.shared = static_cast<char*>(shared);
  }
  is_checked = is_instrumented(reinterpret_cast<const void*>(entry));
  if (is_checked) check_launch_begins();

  std::vector<int> ids(static_cast<size_t>(num_blocks));
  std::iota(ids.begin(), ids.end(), 0);
  bool has_waited = false;
  for (size_t i = 0; i < ids.size() && failure.empty(); ++i) {
    if (schedule.order == Order::kRandom) std::swap(ids[i], ids[i + next_random() % (ids.size() - i)]);
    run_block(schedule.order == Order::kReverse ? ids[ids.size() - 1 - i] : ids[i], schedule);
    has_waited |= block.inputs_barriers != UINT32_MAX;
  }
  is_checked = false;
  if (failure.empty() && overlaps && !has_waited) failure = "overlaps the kernel before, and no thread called wait_for_inputs";
  return failure.empty() ? broken_red_zones() : failure;
}

void meet_block(const char* operation, const void* pc) {
  if (block.returned > 0) {
    const Fiber* gone = nullptr;
    for (const Fiber* f : block.fibers) {
      if (f->state == State::kReturned) gone = f;
    }
    fail(name_of_self() + " waits in " + operation + " at " + line_of(pc) + " after " + name_of(gone) + " and " +
         std::to_string(block.returned - 1) +
         " others returned: every thread of a block must arrive; let threads without work skip the work, not the barrier");
  }
  self->wait_operation = operation;
  self->wait_pc = pc;
  self->payload = &block;  // tells a block's barrier from a warp's meeting
  if (++block.arrived < block.threads) {
    self->state = State::kWaiting;
    run_next();
    return;
  }
  for (const Fiber* f : block.fibers) {
    if (is_same_line(f->wait_pc, pc)) continue;
    fail("divergent barrier: " + name_of_self() + " is in " + operation + " at " + line_of(pc) + ", " + name_of(f) + " in " +
         f->wait_operation + " at " + line_of(f->wait_pc) + "; all threads of a block must come to the same one");
  }
  block.arrived = 0;
  block.barriers++;
  make_ready(block.fibers.data(), block.fibers.size());
  run_next();
}

void sync_block() { meet_block("sync_block", __builtin_return_address(0)); }

void enter(const char* name, int threads) {
  if (block.threads <= threads) return;
  fail("launch: " + std::to_string(block.threads) + " threads a block, but INGOT_KERNEL allows " + name + " at most " +
       std::to_string(threads));
}

int thread_id() { return self->thread; }
int block_id() { return block.id; }
int num_blocks() { return block.num_blocks; }

static void* place_array(const void* tag, size_t bytes, size_t align, const char* name) {
  for (const SharedArray& array : block.arrays) {
    if (array.tag == tag) return array.start;
  }
  const size_t at = (block.shared_end + kRedZone + align - 1) / align * align;
  if (at + bytes + kRedZone > kSharedBytes) {
    fail("shared array " + std::string(name) + ": the emulator has no room for so many arrays and red zones");
  }
  char* start = block.shared + at;
  memset(block.shared + block.shared_end, kRedByte, at - block.shared_end);
  memset(start, 0xff, bytes);
  memset(start + bytes, kRedByte, kRedZone);
  block.shared_end = at + bytes + kRedZone;
  block.arrays.push_back({tag, start, bytes, name});
  return start;
}

void* shared_array(const void* tag, size_t bytes, const char* name) {
  const size_t arrays = block.arrays.size();
  void* start = place_array(tag, bytes, 16, name);
  if (block.arrays.size() == arrays) return start;
  block.static_bytes += bytes;
  if (block.static_bytes > kStaticLimit) {
    fail("shared array " + std::string(name) + " at " + line_of(__builtin_return_address(0)) + ": declared arrays take " +
         std::to_string(block.static_bytes) + " bytes; at most " + std::to_string(kStaticLimit) +
         " are possible, use dynamic shared memory beyond");
  }
  if (block.static_bytes + block.dynamic_bytes > kTotalLimit) {
    fail("shared array " + std::string(name) + " at " + line_of(__builtin_return_address(0)) + ": " + std::to_string(block.static_bytes) +
         " bytes declared and " + std::to_string(block.dynamic_bytes) + " dynamic; a block has " + std::to_string(kTotalLimit));
  }
  return start;
}

void* dynamic_shared() {
  if (block.dynamic_bytes == 0) {
    fail(name_of_self() + " names dynamic shared memory at " + line_of(__builtin_return_address(0)) +
         ", but the launch gives 0 bytes of it");
  }
  return place_array(kDynamicTag, block.dynamic_bytes, 128, "dynamic");
}

}  // namespace simt
