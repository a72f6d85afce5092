// The host side of the SIMT emulator: device memory, and launches of kernels compiled for this processor against simt_prelude.h.
//
// Every GPU thread is a fiber and a whole grid runs on the calling thread, block after block. Kernels whose object was compiled with
// -fsanitize=thread run under the checker; the others run on poisoned memory only. What kernel text calls is in simt_kernel.hpp.
// Calls may come from any OS thread and are carried out one after another.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace simt {

// A kernel as the driver sees it: params[i] points at argument i, as for cuLaunchKernel.
using Entry = void (*)(void** params);

// Which of the threads that can go on goes on, and in which order blocks run. Greedy: one warp runs as far ahead as it can.
enum class Order { kForward, kReverse, kRandom, kGreedy };

struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 1;
};
// "forward", "reverse", "random" or "greedy"; false for another word.
bool order_of(const char* word, Order* order);

// Runs a grid of `num_blocks` blocks of `threads` threads with `dynamic_bytes` of dynamic shared memory. Returns "" or a report that
// names the block, the thread, the operation and the line of kernel text. A grid that `overlaps` the one before must wait for it in some
// block: else it would be done before, and who waits for it alone would not wait for what came earlier.
std::string launch(Entry kernel, int num_blocks, int threads, size_t dynamic_bytes, void** params, const Schedule& schedule = {},
                   bool overlaps = false);

// Memory a kernel may touch, filled with 0xFF (NaN in every float type), 256-byte aligned; `name` is what reports call it.
void* device_alloc(size_t bytes, const std::string& name);
// False if `start` is not what device_alloc returned, or was freed before.
bool device_free(void* start);
void device_free_all();
// The whole range lies in one allocation.
bool is_device_memory(const void* start, size_t bytes);

// What one line of kernel text did in checked launches. A request is one instruction of one warp. Units are 32-byte sectors for global
// memory and wavefronts for shared memory; `ideal` is how many the same bytes take when they lie side by side.
struct LineAccesses {
  std::string file;
  int line;
  bool is_write;
  bool is_shared;
  uint64_t requests;
  double per_request;
  double ideal;
};
std::vector<LineAccesses> line_accesses();
// Also to be called after a kernel's library is unloaded: counts and lines are kept by address.
void forget_accesses();

}  // namespace simt
