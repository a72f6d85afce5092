#include "machine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#endif

namespace ingot {

namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

bool read_line(const std::string& path, std::string& line) {
  std::ifstream file(path);
  return static_cast<bool>(std::getline(file, line));
}

// A whole number in a file of its own; "max" and values no machine has are unlimited, a missing file is `otherwise`.
int64_t read_number(const std::string& path, int64_t otherwise) {
  std::string line;
  if (!read_line(path, line)) return otherwise;
  if (line.rfind("max", 0) == 0) return kUnlimited;
  char* end = nullptr;
  const long long value = std::strtoll(line.c_str(), &end, 10);
  if (end == line.c_str()) return otherwise;
  return value;
}

// Value of `key` in a file of "key value" lines.
int64_t read_stat(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

// Reclaimable page cache does not count as used: the kernel gives it back before it refuses an allocation.
void apply_memory(CgroupLimits& limits, int64_t limit, int64_t usage, int64_t inactive_file) {
  constexpr int64_t kNoLimit = int64_t{1} << 60;  // version 1 writes a huge page-aligned number for "none"
  if (limit < 0 || limit >= kNoLimit) return;
  const int64_t used = std::max<int64_t>(0, usage - inactive_file);
  limits.memory_limit_bytes = std::min(limits.memory_limit_bytes, limit);
  limits.memory_headroom_bytes = std::min(limits.memory_headroom_bytes, std::max<int64_t>(0, limit - used));
}

void apply_quota(CgroupLimits& limits, double quota, double period) {
  if (quota <= 0 || period <= 0) return;
  const double cpus = quota / period;
  limits.cpus = limits.cpus == 0 ? cpus : std::min(limits.cpus, cpus);
}

void read_v2(CgroupLimits& limits, const std::string& folder) {
  apply_memory(limits, read_number(folder + "/memory.max", kUnlimited), read_number(folder + "/memory.current", 0),
               read_stat(folder + "/memory.stat", "inactive_file"));
  std::string line;
  if (!read_line(folder + "/cpu.max", line) || line.rfind("max", 0) == 0) return;
  std::istringstream words(line);
  double quota = 0, period = 0;
  words >> quota >> period;
  apply_quota(limits, quota, period);
}

void read_v1_memory(CgroupLimits& limits, const std::string& folder) {
  apply_memory(limits, read_number(folder + "/memory.limit_in_bytes", kUnlimited),
               read_number(folder + "/memory.usage_in_bytes", 0), read_stat(folder + "/memory.stat", "total_inactive_file"));
}

void read_v1_cpu(CgroupLimits& limits, const std::string& folder) {
  apply_quota(limits, static_cast<double>(read_number(folder + "/cpu.cfs_quota_us", 0)),
              static_cast<double>(read_number(folder + "/cpu.cfs_period_us", 0)));
}

// A limit anywhere on the way up binds. In a container the path is often the host's and only the mount's root exists.
template <class Read>
void walk_up(const std::string& mount, std::string path, Read read) {
  for (;;) {
    read(path == "/" ? mount : mount + path);
    if (path.empty() || path == "/") return;
    const size_t slash = path.rfind('/');
    path = slash == 0 || slash == std::string::npos ? "/" : path.substr(0, slash);
  }
}

}  // namespace

CgroupLimits cgroup_limits(const std::string& root) {
  CgroupLimits limits{kUnlimited, kUnlimited, 0};
  std::ifstream file(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {  // hierarchy:controllers:path
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1);
    if (path.find("..") != std::string::npos) continue;
    const std::string mount = root + "/sys/fs/cgroup";
    if (controllers == ",,") walk_up(mount, path, [&](const std::string& folder) { read_v2(limits, folder); });
    if (controllers.find(",memory,") != std::string::npos) {
      walk_up(mount + "/memory", path, [&](const std::string& folder) { read_v1_memory(limits, folder); });
    }
    if (controllers.find(",cpu,") != std::string::npos) {
      walk_up(mount + "/cpu", path, [&](const std::string& folder) { read_v1_cpu(limits, folder); });
    }
  }
  return limits;
}

std::vector<int> usable_cpus() {
  std::vector<int> cpus;
#if defined(__linux__)
  for (int capacity = 1024; capacity <= 1 << 16; capacity *= 2) {
    cpu_set_t* set = CPU_ALLOC(capacity);
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(capacity);
    const bool ok = sched_getaffinity(0, bytes, set) == 0;
    for (int cpu = 0; ok && cpu < capacity; ++cpu) {
      if (CPU_ISSET_S(cpu, bytes, set)) cpus.push_back(cpu);
    }
    CPU_FREE(set);
    if (ok) break;
  }
  std::vector<int> siblings;
  std::set<std::pair<int64_t, int64_t>> seen;
  std::vector<int> cores;
  for (int cpu : cpus) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::pair<int64_t, int64_t> core{read_number(topology + "physical_package_id", 0), read_number(topology + "core_id", -1 - cpu)};
    (seen.insert(core).second ? cores : siblings).push_back(cpu);
  }
  cpus = cores;
  cpus.insert(cpus.end(), siblings.begin(), siblings.end());
#endif
  return cpus;
}

int usable_cores() {
#if defined(__APPLE__)
  int count = 0;
  size_t size = sizeof count;
  if (sysctlbyname("hw.physicalcpu", &count, &size, nullptr, 0) == 0 && count > 0) return count;
  return usable_threads();
#else
  std::set<std::pair<int64_t, int64_t>> cores;
  for (int cpu : usable_cpus()) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    cores.insert({read_number(topology + "physical_package_id", 0), read_number(topology + "core_id", -1 - cpu)});
  }
  return std::max(1, std::min(static_cast<int>(cores.size()), usable_threads()));
#endif
}

int usable_threads() {
  const size_t listed = usable_cpus().size();
  int threads = listed > 0 ? static_cast<int>(listed) : static_cast<int>(std::thread::hardware_concurrency());
  const double quota = cgroup_limits("").cpus;
  if (quota > 0) threads = std::min(threads, static_cast<int>(std::ceil(quota)));
  return std::max(1, threads);
}

Memory memory() {
  Memory facts{0, 0};
#if defined(__linux__)
  facts.total_bytes = 0;
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string name;
    int64_t kib = 0;
    words >> name >> kib;
    if (name == "MemTotal:") facts.total_bytes = kib * 1024;
    if (name == "MemAvailable:") facts.available_bytes = kib * 1024;
  }
  const CgroupLimits limits = cgroup_limits("");
  facts.total_bytes = std::min(facts.total_bytes, limits.memory_limit_bytes);
  facts.available_bytes = std::min(facts.available_bytes, limits.memory_headroom_bytes);
#elif defined(__APPLE__)
  size_t size = sizeof facts.total_bytes;
  sysctlbyname("hw.memsize", &facts.total_bytes, &size, nullptr, 0);
  vm_statistics64_data_t stats{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&stats), &count) == KERN_SUCCESS) {
    facts.available_bytes = static_cast<int64_t>(stats.free_count + stats.inactive_count + stats.purgeable_count) * static_cast<int64_t>(vm_page_size);
  }
#endif
  return facts;
}

}  // namespace ingot
