// Runs programs on a CUDA device: one engine thread, which puts jobs on a stream and brings their outputs back in order.
//
// Two jobs may be in flight: the second is on the stream before the first is done, so the device does not wait for the host. Knows
// nothing of tokens, sequences or models, and nothing of JavaScript. What is put on the stream is in program_stream.h.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../program.h"
#include "program_stream.h"

namespace ingot {

class CudaExecutor : public ProgramExecutor {
 public:
  // Loads everything onto the device before it returns. Throws std::runtime_error naming what is wrong, or what `on_progress` throws.
  explicit CudaExecutor(const CudaExecutorSpec& spec);
  // Waits for what is on the stream, drops what is not, joins the thread.
  ~CudaExecutor() override;
  CudaExecutor(const CudaExecutor&) = delete;
  CudaExecutor& operator=(const CudaExecutor&) = delete;

  size_t num_programs() const override { return steps_.size(); }
  size_t num_steps(size_t program) const override { return steps_[program]; }
  int64_t arena_bytes() const override { return arena_bytes_; }
  size_t max_in_flight() const override { return cuda::kNumSlots; }
  bool has_launch_symbols() const override { return true; }
  void submit(Job job) override;
  void close(std::function<void()> closed) override;
  void set_profiling(bool on) override { profiling_.store(on, std::memory_order_relaxed); }
  const std::vector<double>& step_ms() const override { return step_ms_; }

 private:
  struct InFlight {
    Job job;
    size_t slot;
    bool is_profiled;
    std::string error;  // why it never came onto the stream
  };

  void engine_loop();
  void start(Job job);
  // Takes the oldest job off the stream and tells of it: when the device is done with it, or only if it is.
  void finish_oldest(bool waits);
  // Ends the thread: what is on the stream is waited for, what is not is dropped.
  void stop(bool is_process_ending);
  static void stop_all();

  std::unique_ptr<cuda::ProgramStream> programs_;  // the engine thread's, until it ends
  std::vector<size_t> steps_;
  const int64_t arena_bytes_;
  std::deque<InFlight> in_flight_;
  size_t next_slot_ = 0;
  std::vector<double> step_ms_;

  std::atomic<bool> profiling_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  std::function<void()> closed_;
  bool closing_ = false;
  bool abandoned_ = false;
  std::atomic<bool> silent_{false};  // nobody is told any more
  std::thread engine_;
};

}  // namespace ingot
