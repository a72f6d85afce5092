// From an address in a kernel's code to the line of kernel text it was compiled from, by addr2line and the kernel's debug information.
#pragma once
#include <string>
#include <vector>

namespace simt {

struct Place {
  std::string file;  // without its folder
  int line = 0;
  std::string frames;  // all lines it was inlined through
};

// The innermost line that is not the prelude's. `pc` is a return address. Asked for once per address and kept.
const Place& place_of(const void* pc);
// The same for many addresses at once: one run of addr2line for each module.
void find_places(const std::vector<const void*>& pcs);
// "kernel.cu:12".
std::string line_of(const void* pc);
// Two calls of one line, reached through the same lines: compilers copy calls, so addresses alone do not tell.
bool is_same_line(const void* a, const void* b);
// Modules may be unloaded and others loaded at the same addresses.
void forget_places();

}  // namespace simt
