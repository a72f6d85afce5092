#include "team.h"

#include <chrono>
#include <cstdio>

#if defined(__linux__)
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace ingot {

namespace {

// Longer than any healthy step-to-step imbalance, far shorter than a scheduler's time slice.
constexpr int64_t kSpinNs = 15'000;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void park(std::atomic<uint32_t>& word, uint32_t seen) {
#if defined(__linux__)
  // The kernel compares again under its lock, so an advance between our check and this call is not lost.
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  word.wait(seen, std::memory_order_acquire);
#endif
}

void unpark_all(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
  word.notify_all();
#endif
}

}  // namespace

void Gate::advance() {
  // Sequentially consistent on both sides: either we see the parked thread, or its park sees the new value.
  value_.fetch_add(1, std::memory_order_seq_cst);
  if (parked_.load(std::memory_order_seq_cst) != 0) unpark_all(value_);
}

void Gate::wait_past(uint32_t seen, int64_t spin_ns) {
  int64_t deadline = 0;
  for (int spin = 1; spin_ns > 0; ++spin) {
    if (value_.load(std::memory_order_acquire) != seen) return;
    cpu_relax();
    if (spin % 32 == 0) {
      const int64_t now = now_ns();
      if (deadline == 0) deadline = now + spin_ns;
      if (now >= deadline) break;
    }
  }
  parked_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == seen) park(value_, seen);
  parked_.fetch_sub(1, std::memory_order_relaxed);
}

void prepare_kernel_thread(int thread, int cpu) {
  char name[16];
  std::snprintf(name, sizeof name, "ingot-%d", thread);
#if defined(__linux__)
  pthread_setname_np(pthread_self(), name);
  if (cpu >= 0) {
    // Room for large machines: cpu_set_t alone stops at 1024.
    cpu_set_t* set = CPU_ALLOC(cpu + 1);
    if (set != nullptr) {
      const size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
      CPU_ZERO_S(bytes, set);
      CPU_SET_S(cpu, bytes, set);
      // Best effort: a core taken offline meanwhile leaves the thread free to move.
      pthread_setaffinity_np(pthread_self(), bytes, set);
      CPU_FREE(set);
    }
  }
#elif defined(__APPLE__)
  pthread_setname_np(name);
#endif
  (void)cpu;
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);  // FTZ and DAZ
#elif defined(__aarch64__)
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  asm volatile("msr fpcr, %0" ::"r"(fpcr | (uint64_t{1} << 24)));  // FZ
#endif
}

Team::Team(int threads, const std::vector<int>& cpus, bool oversubscribed)
    : size_(threads), spin_ns_(oversubscribed ? 0 : kSpinNs), barrier_(static_cast<uint32_t>(threads)) {
  const auto cpu_of = [&](int thread) { return cpus.empty() ? -1 : cpus[static_cast<size_t>(thread) % cpus.size()]; };
  prepare_kernel_thread(0, cpu_of(0));
  workers_.reserve(static_cast<size_t>(threads));
  try {
    for (int thread = 1; thread < threads; ++thread) workers_.emplace_back(&Team::work, this, thread, cpu_of(thread));
  } catch (...) {
    stop();
    throw;
  }
}

Team::~Team() { stop(); }

void Team::stop() {
  stopping_ = true;
  start_.advance();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void Team::run(Body body, void* context) {
  body_ = body;
  context_ = context;
  if (size_ == 1) return body(context, 0);
  running_.store(size_ - 1, std::memory_order_relaxed);
  const uint32_t seen = finished_.now();
  start_.advance();
  body(context, 0);
  finished_.wait_past(seen, spin_ns_);
}

void Team::work(int thread, int cpu) {
  prepare_kernel_thread(thread, cpu);
  // Gates start at 0 and only thread 0 opens this one, once per run, after every worker has finished the run before:
  // counting here rather than reading the gate keeps a late starter from missing the first run.
  for (uint32_t seen = 0;; ++seen) {
    start_.wait_past(seen, spin_ns_);
    if (stopping_) return;
    body_(context_, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) finished_.advance();
  }
}

}  // namespace ingot
