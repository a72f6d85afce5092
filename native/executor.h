// Runs programs on the CPU: lists of kernel launches over planned memory, walked by one team of threads without returning to the caller.
//
// Knows buffers, kernels, grids and steps; knows nothing of tokens, sequences or models, and nothing of JavaScript
// (addon.cpp is the boundary; the sanitizer tests drive this class from C++).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "memory.h"
#include "program.h"

namespace ingot {

class Team;

// What a kernel gets; see templates/prelude.cpu.h, which declares the same for generated code.
struct Launch {
  void* const* args;
  const int32_t* dims;  // T, B, S, P
  void* scratch;        // this thread's, 64-byte aligned
};
using Kernel = void (*)(const Launch* launch, int64_t begin, int64_t end);

struct StepSpec {
  std::string kernel;
  std::vector<GridOp> grid;
  int64_t chunk;
  int64_t serial_units;
  std::vector<ArgSpec> args;
};

struct ExecutorSpec {
  std::string library;
  std::string weights;
  int64_t weights_bytes;
  int64_t arena_bytes;
  int64_t kv_bytes;
  int64_t scratch_bytes;  // per thread
  int threads;
  bool pin;
  uint32_t abi;
  int num_arrays;
  std::vector<std::vector<StepSpec>> programs;
};

class Executor : public ProgramExecutor {
 public:
  // Maps memory, loads the library, starts the threads. Throws std::runtime_error naming what is wrong.
  explicit Executor(const ExecutorSpec& spec);
  // Stops a running program after its current step, joins the threads.
  ~Executor() override;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  size_t num_programs() const override { return programs_.size(); }
  size_t num_steps(size_t program) const override { return programs_[program].size(); }
  int64_t arena_bytes() const override { return static_cast<int64_t>(arena_.size()); }
  size_t max_in_flight() const override { return 1; }
  bool has_launch_symbols() const override { return false; }
  void submit(Job job) override;
  void close(std::function<void()> closed) override;
  void set_profiling(bool on) override { profiling_.store(on, std::memory_order_relaxed); }
  const std::vector<double>& step_ms() const override { return step_ms_; }

 private:
  struct Step {
    std::string name;
    Kernel kernel;
    std::vector<GridOp> grid;
    int64_t chunk;
    int64_t serial_units;
    std::vector<void*> args;
    std::vector<std::pair<size_t, size_t>> arrays;  // (argument, array): filled in at each job
  };
  struct LibraryClose {
    void operator()(void* handle) const;
  };

  Step resolve(const StepSpec& spec, const std::string& where, int num_arrays) const;
  void engine_loop(std::vector<int> cpus, bool oversubscribed, int threads);
  void execute(Job& job);
  void prepare(Job& job);
  void walk(int thread);
  void run_parallel(int thread, size_t step);
  void run_serial(int thread, size_t begin, size_t end);
  void finish_step(size_t step);

  Region weights_, arena_, kv_, scratch_;
  size_t scratch_stride_ = 0;
  std::unique_ptr<void, LibraryClose> library_;
  std::vector<std::vector<Step>> programs_;

  // The running job, owned by the engine thread; the team reads it between the barriers that publish it.
  Team* team_ = nullptr;
  std::vector<Step>* steps_ = nullptr;
  const int32_t* symbols_ = nullptr;
  const std::vector<Tap>* taps_ = nullptr;
  size_t next_tap_ = 0;
  std::vector<int64_t> units_;
  std::vector<size_t> next_parallel_;  // first parallel step at or after each step; the program's length if none
  bool timing_ = false;
  double last_mark_ = 0;
  std::vector<double> step_ms_;
  bool abandoned_ = false;
  alignas(64) std::atomic<int64_t> claimed_{0};  // units of the current step handed out so far

  alignas(64) std::atomic<bool> abandon_{false};
  std::atomic<bool> profiling_{false};

  std::mutex mutex_;
  std::condition_variable wake_;
  std::unique_ptr<Job> job_;
  std::function<void()> closed_;
  bool closing_ = false;
  std::thread engine_;
};

}  // namespace ingot
