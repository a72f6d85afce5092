#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

#include "../machine.h"
#include "../memory.h"
#include "team.h"

namespace ingot {

namespace {

constexpr size_t kStreams = 4;
constexpr size_t kLine = 64;

typedef uint64_t Line __attribute__((vector_size(kLine)));

struct Probe {
  char* data;
  size_t stream_bytes;  // of one stream of one thread, whole lines
  std::atomic<uint64_t> sink{0};

  void touch(int thread) {
    std::memset(data + static_cast<size_t>(thread) * kStreams * stream_bytes, 1, kStreams * stream_bytes);
  }

  void read(int thread) {
    const char* base = data + static_cast<size_t>(thread) * kStreams * stream_bytes;
    Line sums[kStreams] = {};
    for (size_t at = 0; at < stream_bytes; at += kLine) {
      for (size_t s = 0; s < kStreams; ++s) {
        const char* line = base + s * stream_bytes + at;
        __builtin_prefetch(line + 1024);
        Line value;
        std::memcpy(&value, line, kLine);
        sums[s] += value;
      }
    }
    const Line sum = sums[0] + sums[1] + sums[2] + sums[3];
    sink.fetch_add(sum[0] + sum[7], std::memory_order_relaxed);  // keeps the loads alive
  }
};

double measure(int threads, size_t bytes, int rounds, const std::vector<int>& cpus) {
  Probe probe;
  probe.stream_bytes = std::max(kLine, bytes / (static_cast<size_t>(threads) * kStreams) / kLine * kLine);
  const size_t total = probe.stream_bytes * kStreams * static_cast<size_t>(threads);
  const Region region = Region::zeroed(total, "the bandwidth probe");
  probe.data = region.data();
  Team team(threads, cpus, false);
  team.run([](void* p, int thread) { static_cast<Probe*>(p)->touch(thread); }, &probe);
  std::vector<double> rates;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    team.run([](void* p, int thread) { static_cast<Probe*>(p)->read(thread); }, &probe);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    rates.push_back(static_cast<double>(total) / seconds.count() / 1e9);
  }
  std::nth_element(rates.begin(), rates.begin() + rounds / 2, rates.end());
  return rates[static_cast<size_t>(rounds / 2)];
}

}  // namespace

double read_bandwidth(int threads, size_t bytes, int rounds) {
  const std::vector<int> cpus = usable_cpus();
  double rate = 0;
  std::exception_ptr failure;
  // A thread of its own: the team pins its thread 0, and the caller's must stay free.
  std::thread([&] {
    try {
      rate = measure(threads, bytes, rounds, cpus);
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return rate;
}

}  // namespace ingot
