// What this process may use of the machine: cores (affinity, cgroup quota) and memory (free, cgroup limit).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ingot {

struct Memory {
  int64_t total_bytes;
  int64_t available_bytes;
};

// Logical CPUs this process may run on, one per physical core first, then their hyper-threads. Empty where the system
// does not tell (macOS).
std::vector<int> usable_cpus();
// Physical cores among them.
int usable_cores();
// Logical CPUs, cut to the cgroup's CPU quota (rounded up); at least 1.
int usable_threads();

// What can be allocated now without swapping: free memory and the cgroup's headroom, the smaller.
Memory memory();

// Limits of the control group of /proc/self under `root` (a prefix, "" on a live machine); INT64_MAX and 0 where unlimited.
struct CgroupLimits {
  int64_t memory_limit_bytes;
  int64_t memory_headroom_bytes;
  double cpus;  // 0: no quota
};
CgroupLimits cgroup_limits(const std::string& root);

}  // namespace ingot
