// Device memory and the operations on it that are more than a plain access: 16-byte loads and stores, copies that land late, counters.
#include "memory.hpp"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <map>

#include "check.hpp"
#include "grid.hpp"
#include "simt.hpp"
#include "simt_kernel.hpp"
#include "source_lines.hpp"

namespace simt {

std::mutex one_call;

namespace {

// Untouched address space around each allocation, so that an index that is wrong by less does not meet the next one. The nearest bytes
// are NaN to readers, and looked at after each launch.
constexpr size_t kGap = 64 << 10, kRedZone = 256;

std::map<const char*, Allocation> allocations;
const Allocation* last_found = nullptr;

size_t mapped_bytes(size_t bytes) { return bytes + 2 * kGap; }

void require_aligned(const void* p, const char* operation, const void* pc) {
  if (reinterpret_cast<uintptr_t>(p) % 16 == 0) return;
  char address[32];
  snprintf(address, sizeof address, "%p", p);
  fail(name_of_self() + ": " + operation + " at " + line_of(pc) + " of a misaligned address: " + address + " is not a multiple of 16");
}

void require_global(const void* p, const char* operation, const void* pc) {
  require_aligned(p, operation, pc);
  if (self->block->holds(p)) {
    fail(name_of_self() + ": " + operation + " at " + line_of(pc) + " is for global memory, the address is shared");
  }
}

void require_shared(const void* p, const char* operation, const void* pc) {
  require_aligned(p, operation, pc);
  if (!self->block->holds(p)) {
    fail(name_of_self() + ": " + operation + " at " + line_of(pc) + " is for shared memory, the address is not");
  }
}

}  // namespace

void* device_alloc(size_t bytes, const std::string& name) {
  const std::lock_guard<std::mutex> lock(one_call);
  void* mapped = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* start = static_cast<char*>(mapped) + kGap;
  memset(start - kRedZone, 0xff, bytes + 2 * kRedZone);
  allocations[start] = {start, bytes, name};
  return start;
}

static void unmap(const Allocation& a) { munmap(a.start - kGap, mapped_bytes(a.bytes)); }

bool device_free(void* start) {
  const std::lock_guard<std::mutex> lock(one_call);
  const auto found = allocations.find(static_cast<char*>(start));
  if (found == allocations.end()) return false;
  unmap(found->second);
  allocations.erase(found);
  last_found = nullptr;
  check_memory_freed();
  return true;
}

void device_free_all() {
  const std::lock_guard<std::mutex> lock(one_call);
  for (const auto& [start, a] : allocations) unmap(a);
  allocations.clear();
  last_found = nullptr;
  check_memory_freed();
}

const Allocation* find_neighbour(const void* p) {
  auto next = allocations.upper_bound(static_cast<const char*>(p) + kGap);
  if (next == allocations.begin()) return nullptr;
  const Allocation& a = (--next)->second;
  return p < a.start + a.bytes + kGap ? &a : nullptr;
}

const Allocation* find_allocation(const void* p) {
  const auto holds = [p](const Allocation* a) { return a && p >= a->start && p < a->start + a->bytes; };
  if (holds(last_found)) return last_found;
  auto next = allocations.upper_bound(static_cast<const char*>(p));
  if (next == allocations.begin()) return nullptr;
  const Allocation* found = &(--next)->second;
  if (!holds(found)) return nullptr;
  return last_found = found;
}

bool is_device_memory(const void* start, size_t bytes) {
  const std::lock_guard<std::mutex> lock(one_call);
  const Allocation* a = find_allocation(start);
  return a && bytes <= size_t(a->start + a->bytes - static_cast<const char*>(start));
}

std::string broken_red_zones() {
  std::string report;
  for (auto& [start, a] : allocations) {
    for (size_t i = 0; i < kRedZone; ++i) {
      char* const zones[] = {a.start - 1 - i, a.start + a.bytes + i};
      for (int z = 0; z < 2; ++z) {
        if (*zones[z] == char(0xff)) continue;
        *zones[z] = char(0xff);
        if (report.empty()) {
          report = "out of bounds: a kernel wrote " + std::to_string(i) + " bytes " +
                   (z ? "past the end of " : "before the start of ") + a.name + " (" +
                   std::to_string(a.bytes) + " bytes); a checked run names the line";
        }
      }
    }
  }
  return report;
}

#define CALLER __builtin_return_address(0)

Bytes16 load16(const void* from) {
  require_global(from, "load16", CALLER);
  if (is_checked) check_access(from, 16, Access::kRead, CALLER);
  return *static_cast<const Bytes16*>(from);
}
void store16(void* to, Bytes16 bytes) {
  require_global(to, "store16", CALLER);
  if (is_checked) check_access(to, 16, Access::kWrite, CALLER);
  *static_cast<Bytes16*>(to) = bytes;
}
Bytes16 load16_shared(const void* from) {
  require_shared(from, "load16_shared", CALLER);
  if (is_checked) check_access(from, 16, Access::kRead, CALLER);
  return *static_cast<const Bytes16*>(from);
}
void store16_shared(void* to, Bytes16 bytes) {
  require_shared(to, "store16_shared", CALLER);
  if (is_checked) check_access(to, 16, Access::kWrite, CALLER);
  *static_cast<Bytes16*>(to) = bytes;
}
// A prefetch beyond a buffer is allowed.
void prefetch(const void*) {}

// A copy is as late as the program allows: it lands at the wait that retires its group, and until then its destination is NaN.
void copy16_async(void* to, const void* from, bool valid) {
  require_shared(to, "copy16_async (to)", CALLER);
  require_global(from, "copy16_async (from)", CALLER);
  if (is_checked) {
    if (valid) check_access(from, 16, Access::kRead, CALLER);
    check_access(to, 16, Access::kCopyBegins, CALLER);
  }
  memset(to, 0xff, 16);
  self->open_copies.push_back({to, from, valid, CALLER});
}
void commit_copies() {
  self->groups.push_back(std::move(self->open_copies));
  self->open_copies.clear();
}
void land_copies(size_t groups_kept) {
  auto& groups = self->groups;
  if (groups.size() <= groups_kept) return;
  const auto end = groups.end() - long(groups_kept);
  for (auto group = groups.begin(); group != end; ++group) {
    for (const AsyncCopy& copy : *group) {
      if (copy.valid) {
        memcpy(copy.to, copy.from, 16);
      } else {
        memset(copy.to, 0, 16);
      }
      if (is_checked) check_access(copy.to, 16, Access::kCopyLands, copy.pc);
    }
  }
  groups.erase(groups.begin(), end);
}
void wait_copies(int groups) { land_copies(size_t(groups)); }

bool is_last_to_come(int32_t* counter, int total) {
  const void* pc = CALLER;
  meet_block("is_last_to_come", pc);
  Block* block = self->block;
  if (self->thread == 0) {
    if (is_checked) check_access(counter, 4, Access::kAtomic, pc);
    if (*counter < 0 || *counter >= total) {
      fail(name_of_self() + ": is_last_to_come at " + line_of(pc) + " finds " + std::to_string(*counter) +
           " in its counter, expected 0 to " + std::to_string(total - 1) +
           "; fill counters with 0 before the first launch, and let each of the blocks come once");
    }
    block->is_last = *counter == total - 1;
    *counter = block->is_last ? 0 : *counter + 1;
    if (is_checked) check_came(block, counter);
  }
  meet_block("is_last_to_come", pc);
  return block->is_last;
}
template <class T>
static void add_to_sum(T* sum, T x, const void* pc) {
  if (reinterpret_cast<uintptr_t>(sum) % sizeof(T) != 0 || !self->block->holds(sum)) {
    fail(name_of_self() + ": atomic_add at " + line_of(pc) + " needs the address of a sum in shared memory, a multiple of " +
         std::to_string(sizeof(T)) + " bytes");
  }
  if (is_checked) check_access(sum, sizeof(T), Access::kAtomic, pc);
  *sum += x;
}
void atomic_add(int* sum, int x) { add_to_sum(sum, x, CALLER); }
void atomic_add(uint64_t* sum, uint64_t x) { add_to_sum(sum, x, CALLER); }

void wait_for_inputs() {
  self->has_waited_for_inputs = true;
  Block* block = self->block;
  if (block->inputs_barriers == UINT32_MAX) block->inputs_barriers = block->barriers;
}
void let_next_begin() {}

}  // namespace simt
