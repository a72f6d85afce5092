#include "executor.h"

#include <chrono>
#include <cstdlib>
#include <optional>
#include <set>
#include <utility>

#if defined(__linux__)
#include <pthread.h>
#endif

namespace ingot {

namespace {

constexpr std::chrono::microseconds kPollInterval(20);

// Executors whose thread runs. `process.exit` runs no cleanup of the environment: without this list the thread would still call the
// driver while the process takes it apart.
struct Running {
  std::mutex mutex;
  std::set<CudaExecutor*> executors;
};
Running& running() {
  static auto* const list = new Running;  // outlives every destructor of the process
  return *list;
}

}  // namespace

CudaExecutor::CudaExecutor(const CudaExecutorSpec& spec)
    : programs_(std::make_unique<cuda::ProgramStream>(spec)), arena_bytes_(spec.arena_bytes) {
  for (size_t p = 0; p < programs_->num_programs(); ++p) steps_.push_back(programs_->num_steps(p));
  programs_->context().leave();
  engine_ = std::thread(&CudaExecutor::engine_loop, this);
  const std::lock_guard<std::mutex> lock(running().mutex);
  // Registered after the driver was loaded, hence called before the driver's own.
  static const bool is_registered = std::atexit(stop_all) == 0;
  if (is_registered) running().executors.insert(this);
}

CudaExecutor::~CudaExecutor() {
  {
    const std::lock_guard<std::mutex> lock(running().mutex);
    running().executors.erase(this);
  }
  stop(false);
}

void CudaExecutor::stop_all() {
  const std::lock_guard<std::mutex> lock(running().mutex);
  for (CudaExecutor* executor : running().executors) executor->stop(true);
  running().executors.clear();
}

void CudaExecutor::stop(bool is_process_ending) {
  silent_.store(is_process_ending, std::memory_order_relaxed);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
    abandoned_ = true;
  }
  wake_.notify_one();
  if (engine_.joinable()) engine_.join();
}

void CudaExecutor::submit(Job job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void CudaExecutor::close(std::function<void()> closed) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
    closed_ = std::move(closed);
  }
  wake_.notify_one();
}

void CudaExecutor::engine_loop() {
#if defined(__linux__)
  pthread_setname_np(pthread_self(), "ingot-cuda");
#endif
  std::string failure;
  try {
    programs_->context().make_current();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  for (;;) {
    std::optional<Job> job;
    bool is_dropped = false;
    if (in_flight_.size() == cuda::kNumSlots) finish_oldest(true);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (in_flight_.empty()) {
        wake_.wait(lock, [&] { return !jobs_.empty() || closing_; });
      } else {
        // The event is asked now and then rather than waited for: a job that is submitted meanwhile must come onto the stream before the
        // one that is there is done.
        wake_.wait_for(lock, kPollInterval, [&] { return !jobs_.empty(); });
      }
      is_dropped = abandoned_;
      if (!jobs_.empty()) {
        job = std::move(jobs_.front());
        jobs_.pop_front();
      } else if (in_flight_.empty()) {
        break;  // closing, and nothing left to do
      }
    }
    if (!job) {
      finish_oldest(false);
    } else if (is_dropped || !failure.empty()) {
      in_flight_.push_back({std::move(*job), 0, false, is_dropped ? "the executor was closed before the program ran" : failure});
    } else {
      start(std::move(*job));
    }
  }
  programs_.reset();
  if (closed_ && !silent_.load(std::memory_order_relaxed)) closed_();
}

void CudaExecutor::start(Job job) {
  // Arrays that must grow move: the jobs before are finished with the old ones first.
  while (!in_flight_.empty() && !programs_->fits(job)) finish_oldest(true);
  const bool is_profiled = profiling_.load(std::memory_order_relaxed);
  InFlight& started = in_flight_.emplace_back(InFlight{std::move(job), next_slot_, is_profiled, ""});
  try {
    programs_->enqueue(started.job, started.slot, is_profiled);
    next_slot_ = (next_slot_ + 1) % cuda::kNumSlots;
  } catch (const std::exception& error) {
    started.error = error.what();
    programs_->settle();  // the part that was enqueued may still read the slot
  }
}

void CudaExecutor::finish_oldest(bool waits) {
  InFlight& oldest = in_flight_.front();
  double ms = 0;
  if (oldest.error.empty()) {
    try {
      if (waits) programs_->wait(oldest.slot);
      if (!programs_->is_done(oldest.slot)) return;
      ms = programs_->retire(oldest.job, oldest.slot);
      if (oldest.is_profiled) step_ms_ = programs_->step_ms();
    } catch (const std::exception& error) {
      oldest.error = error.what();
      programs_->settle();  // its slot is given away
    }
  }
  const InFlight finished = std::move(oldest);
  in_flight_.pop_front();
  if (!silent_.load(std::memory_order_relaxed)) finished.job.done(ms, finished.error);
}

}  // namespace ingot
