// The block that runs, as the emulator's own files see it: who waits where, its shared arrays, and how a kernel's fault ends a launch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "fibers.hpp"

namespace simt {

constexpr int kLanes = 32;

// The collective the lanes of a warp are meeting in, if any; and how often they met in sync_warp.
struct Warp {
  uint32_t arrived = 0;
  const char* operation = nullptr;
  const void* pc = nullptr;
  uint32_t syncs = 0;
};

struct SharedArray {
  const void* tag;
  char* start;
  size_t bytes;
  std::string name;
};

struct Block {
  int id = 0, num_blocks = 0, threads = 0;
  int returned = 0, arrived = 0;
  uint32_t barriers = 0;  // block barriers passed
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  char* shared = nullptr;
  size_t shared_end = 0;  // offset behind the last array
  size_t static_bytes = 0, dynamic_bytes = 0;
  std::deque<SharedArray> arrays;  // whose elements stay where they are when more are declared: the checker keeps the last it found
  bool is_last = false;  // of is_last_to_come
  // Barriers passed when the first thread had waited for its inputs; none yet: UINT32_MAX.
  uint32_t inputs_barriers = UINT32_MAX;
  // How many barriers of other blocks are known to lie before what this block does now (is_last_to_come).
  std::map<int, uint32_t> known_barriers;

  bool holds(const void* p) const;  // an address of its shared memory, red zones included
};

constexpr size_t kSharedBytes = 320 << 10;  // what shared arrays and their red zones may take

// Ends the launch with this report; never comes back.
[[noreturn]] void fail(const std::string& report);
// "block 1 thread 2", of the running thread or another.
std::string name_of(const Fiber* fiber);
std::string name_of_self();

// All threads of the block meet. `operation` is what reports call it.
void meet_block(const char* operation, const void* pc);
// All lanes of the warp meet: the last to come runs `act` over what each brought, then all go on.
void meet_warp(const char* operation, const void* pc, void* payload, void (*act)(void* const* payloads));

// Copies that are still open when a thread returns land then.
void land_copies(size_t groups_kept);

}  // namespace simt
