// The checker: kernels are compiled with -fsanitize=thread, and the functions that the compiler calls before each access are these
// instead of libtsan's. Finds accesses out of bounds, races, reads of uninitialised shared memory and of copies that are still open.
// Compiled without that flag itself.
//
// Two accesses are ordered if one thread makes both; or a barrier of their block lies between; or they are of one warp and a sync_warp
// lies between; or is_last_to_come of both blocks does. Atomics conflict with plain accesses only. Shuffles order nothing.
#include "check.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <map>
#include <set>

#include "memory.hpp"
#include "shadow.hpp"
#include "simt.hpp"
#include "source_lines.hpp"

namespace simt {

bool is_checked = false;

namespace {

std::set<const void*> instrumented;  // bases of modules
Shadow global_shadow, shared_shadow;
WrittenWords written;
// By counter: how many barriers of each block lie before its coming.
std::map<const int32_t*, std::map<int, uint32_t>> came;
const SharedArray* last_array = nullptr;

const void* module_of(const void* code) {
  Dl_info info{};
  return dladdr(code, &info) ? info.dli_fbase : nullptr;
}

// Constants of the kernel's module and of the process.
bool is_static(const void* p) {
  const auto holds = [](dl_phdr_info* module, size_t, void* address) {
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      const auto& segment = module->dlpi_phdr[i];
      const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - module->dlpi_addr - segment.p_vaddr;
      if (segment.p_type == PT_LOAD && offset < segment.p_memsz) return 1;
    }
    return 0;
  };
  return dl_iterate_phdr(holds, const_cast<void*>(p)) != 0;
}

const SharedArray* find_array(const char* p) {
  const Block* block = self->block;
  if (last_array && p >= last_array->start && p < last_array->start + last_array->bytes) return last_array;
  for (const SharedArray& array : block->arrays) {
    if (p >= array.start && p < array.start + array.bytes) return last_array = &array;
  }
  return nullptr;
}

// "global argument 1 + 12", for reports.
struct Target {
  const char* start;
  size_t bytes;
  const std::string* name;
  bool is_shared;
};
std::string name_of(const Target& target, const char* p) {
  return (target.is_shared ? "shared array " : "global ") + *target.name + " + " + std::to_string(p - target.start);
}

const char* verb_of(Access access) { return access == Access::kRead ? "reads" : "writes"; }

// What the address lies beside, if anything is near.
std::string beside(const char* p) {
  const char* start = nullptr;
  size_t bytes = 0;
  std::string name;
  if (self->block->holds(p)) {
    for (const SharedArray& array : self->block->arrays) {
      if (start && array.start > p) break;
      start = array.start;
      bytes = array.bytes;
      name = "shared array " + array.name;
    }
  } else if (const Allocation* a = find_neighbour(p)) {
    start = a->start;
    bytes = a->bytes;
    name = "global " + a->name;
  }
  if (!start) return "far from every buffer and shared array";
  const std::string size = " (" + std::to_string(bytes) + " bytes)";
  if (p < start) return std::to_string(start - p) + " bytes before the start of " + name + size;
  return std::to_string(p - start - ptrdiff_t(bytes)) + " bytes past the end of " + name + size;
}

[[noreturn]] void fail_bounds(const char* p, size_t bytes, Access access, const void* pc) {
  fail("out of bounds: " + name_of_self() + " " + verb_of(access) + " " + std::to_string(bytes) + " bytes at " + line_of(pc) + ", " +
       beside(p));
}

bool is_ordered(const Record& before, const Record& now) {
  if (before.block != now.block) {
    const auto& known = self->block->known_barriers;
    const auto found = known.find(int(before.block));
    return found != known.end() && before.barriers < found->second;
  }
  if (before.barriers < now.barriers) return true;
  if (before.warp != now.warp) return false;
  return before.syncs < now.syncs || (before.lanes & ~now.lanes) == 0;
}

std::string who(const Record& record, uint32_t lanes) {
  return "block " + std::to_string(record.block) + " thread " + std::to_string(record.warp * kLanes + __builtin_ctz(lanes)) + " at " +
         line_of(pc_of_site(record.site));
}

[[noreturn]] void fail_race(const Record& before, const Record& now, const char* kind, const Target& target, const char* p) {
  uint32_t lanes = before.lanes;
  const bool is_one_warp = before.block == now.block && before.warp == now.warp;
  if (is_one_warp) lanes &= ~now.lanes;
  const char* remedy = before.block != now.block ? "blocks are ordered by is_last_to_come and by launches only"
                       : is_one_warp             ? "a sync_warp or a sync_block must lie between"
                                                 : "a sync_block must lie between";
  fail("race (" + std::string(kind) + ") on " + name_of(target, p) + ": " + who(before, lanes) + " and " + who(now, now.lanes) +
       "; " + remedy);
}

// Before wait_for_inputs the kernels before may still be running.
void check_early(const char* p, size_t bytes, bool is_read, const Target& target, const void* pc) {
  const std::string remedy = " before wait_for_inputs; call it before the first access to what kernels write";
  if (!is_read) fail("early write: " + name_of_self() + " writes " + name_of(target, p) + " at " + line_of(pc) + remedy);
  if (!written.has_any(p, bytes)) return;
  fail("early read: " + name_of_self() + " reads " + name_of(target, p) + ", which a kernel has written, at " + line_of(pc) + remedy);
}

void check_cell(Cell* cell, const Record& now, Access access, const Target& target, const char* p) {
  const Record& write = cell->write;
  const bool is_read = access == Access::kRead;
  if (write.is_open_copy && access != Access::kCopyLands) {
    fail("open copy: " + name_of_self() + " " + verb_of(access) + " " + name_of(target, p) + " at " + line_of(pc_of_site(now.site)) +
         " while a copy of " + who(write, write.lanes) +
         " is open; wait_copies must retire its group before, and a sync_block lie between");
  }
  if (write.lanes && !(write.is_atomic && now.is_atomic) && !is_ordered(write, now)) {
    fail_race(write, now, is_read ? "write then read" : "write then write", target, p);
  }
  if (target.is_shared && !write.lanes && (is_read || now.is_atomic)) {
    fail("uninitialised shared memory: " + name_of_self() + (is_read ? " reads " : " adds to ") + name_of(target, p) + " at " +
         line_of(pc_of_site(now.site)) + ", which nobody has written in this block yet; write it before, and let a sync_block lie between");
  }
  if (is_read) {
    Record& last = cell->reads[0];
    if (last.lanes && last.block == now.block && last.warp == now.warp && last.barriers == now.barriers && last.syncs == now.syncs) {
      last.lanes |= now.lanes;
      last.site = now.site;
      return;
    }
    if (last.lanes && (last.warp != now.warp || last.block != now.block)) cell->reads[1] = last;
    last = now;
    return;
  }
  for (Record& read : cell->reads) {
    if (read.lanes && !is_ordered(read, now)) fail_race(read, now, "read then write", target, p);
    read.lanes = 0;
  }
  cell->write = now;
}

}  // namespace

bool is_instrumented(const void* code) { return instrumented.count(module_of(code)) != 0; }

void check_memory_freed() { written.forget_all(); }

void check_launch_begins() {
  global_shadow.forget_all();
  came.clear();
}

void check_block_begins(Block*) {
  shared_shadow.forget_all();
  last_array = nullptr;
}

void check_block_ends(Block*) { count_block_ends(); }

void check_came(Block* block, const int32_t* counter) {
  auto& others = came[counter];
  if (block->is_last) {
    for (const auto& [id, barriers] : others) block->known_barriers[id] = std::max(block->known_barriers[id], barriers);
  }
  for (const auto& [id, barriers] : block->known_barriers) others[id] = std::max(others[id], barriers);
  others[block->id] = std::max(others[block->id], block->barriers);
}

void check_access(const void* address, size_t bytes, Access access, const void* pc) {
  const char* p = static_cast<const char*>(address);
  if (p >= self->stack && p < self->stack + kStackBytes) return;
  const Block* block = self->block;
  Target target{};
  if (const SharedArray* array = block->holds(p) ? find_array(p) : nullptr) {
    target = {array->start, array->bytes, &array->name, true};
  } else if (const Allocation* a = find_allocation(p)) {
    target = {a->start, a->bytes, &a->name, false};
  } else {
    if (access == Access::kRead && !block->holds(p) && is_static(p)) return;
    fail_bounds(p, bytes, access, pc);
  }
  if (bytes > size_t(target.start + target.bytes - p)) fail_bounds(p, bytes, access, pc);
  const bool is_read = access == Access::kRead;
  if (!target.is_shared) {
    if (!self->has_waited_for_inputs && block->inputs_barriers >= block->barriers) check_early(p, bytes, is_read, target, pc);
    if (!is_read) written.add(p, bytes);
  }
  Record now;
  now.block = uint32_t(block->id);
  now.barriers = block->barriers;
  now.syncs = block->warps[size_t(self->warp)].syncs;
  now.lanes = 1u << self->lane;
  now.site = site_of(pc, !is_read);
  now.warp = uint16_t(self->warp);
  now.is_atomic = access == Access::kAtomic;
  now.is_open_copy = access == Access::kCopyBegins;
  if (access != Access::kAtomic && access != Access::kCopyLands) count_access(now.site, p, bytes, target.is_shared);

  Shadow& shadow = target.is_shared ? shared_shadow : global_shadow;
  for (size_t done = 0; done < bytes;) {
    const size_t in_page = std::min(bytes - done, Shadow::kPageBytes - reinterpret_cast<uintptr_t>(p + done) % Shadow::kPageBytes);
    const Shadow::Cells cells = shadow.cells(p + done, in_page);
    for (size_t i = 0; i < cells.count; ++i) check_cell(&cells.first[i], now, access, target, p + done + i * (in_page / cells.count));
    done += in_page;
  }
}

}  // namespace simt

// What compilers call. Outside of a checked launch (static constructors) there is nothing to check.
#define SEEN(p, bytes, access) \
  if (simt::self && simt::is_checked) simt::check_access(p, bytes, simt::Access::access, __builtin_return_address(0))
#define READS_AND_WRITES(n)                                             \
  void __tsan_read##n(void* p) { SEEN(p, n, kRead); }                   \
  void __tsan_write##n(void* p) { SEEN(p, n, kWrite); }                 \
  void __tsan_unaligned_read##n(void* p) { SEEN(p, n, kRead); }         \
  void __tsan_unaligned_write##n(void* p) { SEEN(p, n, kWrite); }       \
  void __tsan_read_write##n(void* p) {                                  \
    SEEN(p, n, kRead);                                                  \
    SEEN(p, n, kWrite);                                                 \
  }                                                                     \
  void __tsan_unaligned_read_write##n(void* p) {                        \
    SEEN(p, n, kRead);                                                  \
    SEEN(p, n, kWrite);                                                 \
  }
extern "C" {
READS_AND_WRITES(1)
READS_AND_WRITES(2)
READS_AND_WRITES(4)
READS_AND_WRITES(8)
READS_AND_WRITES(16)
void __tsan_read_range(void* p, size_t bytes) { SEEN(p, bytes, kRead); }
void __tsan_write_range(void* p, size_t bytes) { SEEN(p, bytes, kWrite); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  SEEN(from, bytes, kRead);
  SEEN(to, bytes, kWrite);
  return __builtin_memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  SEEN(from, bytes, kRead);
  SEEN(to, bytes, kWrite);
  return __builtin_memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  SEEN(to, bytes, kWrite);
  return __builtin_memset(to, value, bytes);
}
// Called when a module with instrumented code is loaded.
void __tsan_init() { simt::instrumented.insert(simt::module_of(__builtin_return_address(0))); }
}
