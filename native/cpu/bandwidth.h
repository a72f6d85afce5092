// Read bandwidth of memory as a decode step sees it: every thread walks four far-apart streams of 2 MB pages.
#pragma once

#include <cstddef>

namespace ingot {

// GB/s (1e9 bytes) over `bytes` split among `threads` pinned threads: the median of `rounds` passes.
// Throws std::runtime_error if the memory cannot be mapped.
double read_bandwidth(int threads, size_t bytes, int rounds);

}  // namespace ingot
