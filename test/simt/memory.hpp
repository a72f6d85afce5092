// Device memory, as the emulator's own files see it: which allocation an address is of, and red zones around each.
#pragma once
#include <stddef.h>

#include <mutex>
#include <string>

namespace simt {

// Held by every function of simt.hpp: launches and allocations of several OS threads come one after another.
extern std::mutex one_call;

struct Allocation {
  char* start;
  size_t bytes;
  std::string name;
};

// The allocation that `p` lies in; null if none.
const Allocation* find_allocation(const void* p);
// The one it lies in, or whose red zones it lies in; null if neither.
const Allocation* find_neighbour(const void* p);
// "" or a report of red zones that a kernel wrote to.
std::string broken_red_zones();

}  // namespace simt
