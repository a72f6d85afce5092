// The checker, as the emulator calls it: every access of a kernel that was compiled with -fsanitize=thread, and what orders accesses.
// Its other callers are those compiled kernels, through the __tsan_ functions in check.cpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "grid.hpp"

namespace simt {

// The running launch is of an instrumented kernel; without one nothing below is called.
extern bool is_checked;

// Whether the object that holds this code was compiled for the checker.
bool is_instrumented(const void* code);

enum class Access : uint8_t {
  kRead,
  kWrite,
  kAtomic,      // conflicts with plain accesses only
  kCopyBegins,  // written by a copy that is still open: nobody may read it
  kCopyLands,
};
void check_access(const void* p, size_t bytes, Access access, const void* pc);

// Device memory was freed; what comes to its addresses next is other memory.
void check_memory_freed();

void check_launch_begins();
void check_block_begins(Block* block);
void check_block_ends(Block* block);
// The block came to a counter: what it did before its last barrier is ordered before what the last comer does from here on.
void check_came(Block* block, const int32_t* counter);

// Sectors and wavefronts (access_counts.cpp).
void count_access(uint32_t site, const void* p, size_t bytes, bool is_shared);
void count_block_ends();
// Number of an address in code and a kind of access, for compact records; and back.
uint32_t site_of(const void* pc, bool is_write);
const void* pc_of_site(uint32_t site);

}  // namespace simt
