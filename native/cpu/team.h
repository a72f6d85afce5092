// A team of threads for one program run: a start gate, a barrier between steps, a join.
//
// Thread 0 is whoever builds the team (the executor's engine thread); the others are created here and pinned. Waiting
// threads spin for microseconds and then park, so a preempted or oversubscribed team still makes progress.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace ingot {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

// A counter that threads wait to see change.
class Gate {
 public:
  uint32_t now() const { return value_.load(std::memory_order_acquire); }
  // Opens the gate for everyone who saw an earlier value.
  void advance();
  // Returns once the value differs from `seen`: spins up to `spin_ns`, then parks.
  void wait_past(uint32_t seen, int64_t spin_ns);

 private:
  alignas(64) std::atomic<uint32_t> value_{0};
  alignas(64) std::atomic<uint32_t> parked_{0};
};

// All `parties` threads meet; the last to arrive runs a function alone before anyone leaves.
class Barrier {
 public:
  explicit Barrier(uint32_t parties) : parties_(parties) {}

  template <class Last>
  void arrive(int64_t spin_ns, Last&& last) {
    const uint32_t seen = gate_.now();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == parties_) {
      last();
      arrived_.store(0, std::memory_order_relaxed);
      gate_.advance();
    } else {
      gate_.wait_past(seen, spin_ns);
    }
  }

 private:
  const uint32_t parties_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  Gate gate_;
};

class Team {
 public:
  using Body = void (*)(void* context, int thread);

  // Pins the calling thread (thread 0) to cpus[0] and the others to the following ones; an empty list pins nothing.
  // Throws std::system_error if a thread cannot be created.
  Team(int threads, const std::vector<int>& cpus, bool oversubscribed);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }
  // Runs body(context, i) on every thread i and returns when all have returned. Only thread 0 calls it.
  void run(Body body, void* context);
  // Inside a body: every thread must pass every barrier.
  template <class Last>
  void barrier(Last&& last) {
    barrier_.arrive(spin_ns_, last);
  }

 private:
  void work(int thread, int cpu);
  void stop();

  const int size_;
  const int64_t spin_ns_;
  Barrier barrier_;
  Gate start_;
  Gate finished_;
  alignas(64) std::atomic<int> running_{0};
  Body body_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;  // written before start_.advance(), read after
  std::vector<std::thread> workers_;
};

// Prepares the calling thread for kernels: its name, its core (cpu < 0: any), and denormals flushed to zero, since a few
// denormal softmax weights would otherwise cost a hundred cycles each.
void prepare_kernel_thread(int thread, int cpu);

}  // namespace ingot
