#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <dlfcn.h>
#include <stdexcept>

#include "cpu/features.h"
#include "cpu/team.h"
#include "machine.h"

namespace ingot {

namespace {

// Largest share handed out at once, in chunks: bounds what a preempted thread can hold back.
constexpr int64_t kMaxChunks = 32;
constexpr size_t kPage = 4096;

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

}  // namespace

void Executor::LibraryClose::operator()(void* handle) const { dlclose(handle); }

Executor::Executor(const ExecutorSpec& spec) {
  library_.reset(dlopen(spec.library.c_str(), RTLD_NOW | RTLD_LOCAL));
  if (!library_) fail("cannot load the kernel library: " + std::string(dlerror()));
  const void* abi = dlsym(library_.get(), "ingot_abi");
  if (abi == nullptr) fail(spec.library + " has no symbol ingot_abi: it is not a kernel library");
  uint32_t found = 0;
  std::memcpy(&found, abi, sizeof found);
  if (found != spec.abi) {
    fail(spec.library + " was built for kernel ABI " + std::to_string(found) + ", expected " + std::to_string(spec.abi) + ": build it again");
  }
  weights_ = Region::of_file(spec.weights, static_cast<size_t>(spec.weights_bytes));
  arena_ = Region::zeroed(static_cast<size_t>(spec.arena_bytes), "the arena");
  kv_ = Region::zeroed(static_cast<size_t>(spec.kv_bytes), "the KV cache");
  // Whole pages a thread: no two threads share a cache line.
  scratch_stride_ = (static_cast<size_t>(std::max<int64_t>(spec.scratch_bytes, 1)) + kPage - 1) / kPage * kPage;
  scratch_ = Region::zeroed(scratch_stride_ * static_cast<size_t>(spec.threads), "scratch");
  for (size_t p = 0; p < spec.programs.size(); ++p) {
    std::vector<Step>& steps = programs_.emplace_back();
    for (size_t s = 0; s < spec.programs[p].size(); ++s) {
      const std::string where = "programs[" + std::to_string(p) + "].steps[" + std::to_string(s) + "]";
      steps.push_back(resolve(spec.programs[p][s], where, spec.num_arrays));
    }
  }
  request_amx();
  const std::vector<int> cpus = usable_cpus();
  const bool oversubscribed = spec.threads > usable_threads();
  engine_ = std::thread(&Executor::engine_loop, this, spec.pin ? cpus : std::vector<int>{}, oversubscribed, spec.threads);
}

Executor::~Executor() {
  abandon_.store(true, std::memory_order_relaxed);
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  if (engine_.joinable()) engine_.join();
}

Executor::Step Executor::resolve(const StepSpec& spec, const std::string& where, int num_arrays) const {
  Step step{spec.kernel, nullptr, spec.grid, spec.chunk, spec.serial_units, {}, {}};
  step.kernel = reinterpret_cast<Kernel>(dlsym(library_.get(), spec.kernel.c_str()));
  if (step.kernel == nullptr) fail(where + ".kernel: the library has no symbol " + spec.kernel + ": build it again");
  check_grid(spec.grid, where + ".grid");
  for (size_t a = 0; a < spec.args.size(); ++a) {
    const ArgSpec& arg = spec.args[a];
    const std::string at = where + ".args[" + std::to_string(a) + "]: ";
    if (arg.space == ArgSpec::Space::kArray) {
      if (arg.value < 0 || arg.value >= num_arrays) {
        fail(at + "array " + std::to_string(arg.value) + ", expected 0 to " + std::to_string(num_arrays - 1));
      }
      step.arrays.emplace_back(a, static_cast<size_t>(arg.value));
      step.args.push_back(nullptr);
      continue;
    }
    const bool is_arena = arg.space == ArgSpec::Space::kArena;
    const Region& region = is_arena ? arena_ : arg.space == ArgSpec::Space::kWeights ? weights_ : kv_;
    if (arg.value < 0 || static_cast<uint64_t>(arg.value) >= region.size()) {
      const char* name = is_arena ? "arena" : arg.space == ArgSpec::Space::kWeights ? "weights" : "kv";
      fail(at + name + " offset " + std::to_string(arg.value) + ", expected less than " + std::to_string(region.size()));
    }
    step.args.push_back(region.data() + arg.value);
  }
  return step;
}

void Executor::submit(Job job) {
  {
    std::lock_guard lock(mutex_);
    job_ = std::make_unique<Job>(std::move(job));
  }
  wake_.notify_one();
}

void Executor::close(std::function<void()> closed) {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    closed_ = std::move(closed);
  }
  wake_.notify_one();
}

void Executor::engine_loop(std::vector<int> cpus, bool oversubscribed, int threads) {
  std::unique_ptr<Team> team;
  std::string failure;
  try {
    team = std::make_unique<Team>(threads, cpus, oversubscribed);
  } catch (const std::exception& error) {
    failure = "cannot start " + std::to_string(threads) + " threads: " + error.what();
  }
  team_ = team.get();
  for (;;) {
    std::unique_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return job_ || closing_; });
      job = std::move(job_);
      if (!job) break;  // closing, and nothing left to do
    }
    const double start = now_ms();
    std::string error = failure;
    if (error.empty()) {
      try {
        execute(*job);
      } catch (const std::exception& caught) {
        error = caught.what();
      }
    }
    job->done(now_ms() - start, error);
  }
  team.reset();
  team_ = nullptr;
  // Gigabytes are unmapped here rather than on the caller's thread.
  kv_ = Region();
  arena_ = Region();
  weights_ = Region();
  scratch_ = Region();
  if (closed_) closed_();
}

void Executor::prepare(Job& job) {
  std::vector<Step>& steps = programs_[job.program];
  const size_t count = steps.size();
  units_.resize(count);
  next_parallel_.resize(count + 1);
  for (size_t s = 0; s < count; ++s) {
    try {
      units_[s] = evaluate_grid(steps[s].grid, job.symbols);
    } catch (const std::runtime_error& error) {
      fail("step " + std::to_string(s) + " (" + steps[s].name + "): " + error.what());
    }
    for (const auto& [arg, array] : steps[s].arrays) steps[s].args[arg] = job.arrays[array].data;
  }
  next_parallel_[count] = count;
  for (size_t s = count; s-- > 0;) {
    // A single chunk cannot be shared: it is as serial as a small grid.
    const bool is_parallel = team_->size() > 1 && units_[s] > steps[s].serial_units && units_[s] > steps[s].chunk;
    next_parallel_[s] = is_parallel ? s : next_parallel_[s + 1];
  }
  std::stable_sort(job.taps.begin(), job.taps.end(), [](const Tap& a, const Tap& b) { return a.step < b.step; });
  steps_ = &steps;
  symbols_ = job.symbols;
  taps_ = &job.taps;
  next_tap_ = 0;
  abandoned_ = false;
  timing_ = profiling_.load(std::memory_order_relaxed);
  if (timing_) step_ms_.assign(count, 0);
}

// Serial steps run where their inputs are complete: before the team starts, inside a barrier, or after the join.
//
//   s0 s1 | P2 | s3 P4 | s5
//   engine  all  last   all  engine
void Executor::execute(Job& job) {
  prepare(job);
  const size_t count = steps_->size();
  const size_t first = next_parallel_[0];
  last_mark_ = timing_ ? now_ms() : 0;
  run_serial(0, 0, first);
  if (first < count && !abandoned_) {
    claimed_.store(0, std::memory_order_relaxed);
    team_->run([](void* self, int thread) { static_cast<Executor*>(self)->walk(thread); }, this);
    if (!abandoned_) {
      size_t last = first;
      while (next_parallel_[last + 1] < count) last = next_parallel_[last + 1];
      finish_step(last);
      run_serial(0, last + 1, count);
    }
  }
  if (abandoned_) fail("the executor was closed while a program was running");
}

void Executor::walk(int thread) {
  const size_t count = steps_->size();
  for (size_t step = next_parallel_[0];;) {
    run_parallel(thread, step);
    const size_t next = next_parallel_[step + 1];
    if (next == count) return;  // the join is the last barrier
    team_->barrier([&] {
      finish_step(step);
      abandoned_ = abandon_.load(std::memory_order_relaxed);
      if (!abandoned_) run_serial(thread, step + 1, next);
      claimed_.store(0, std::memory_order_relaxed);
    });
    if (abandoned_) return;
    step = next;
  }
}

void Executor::run_parallel(int thread, size_t index) {
  const Step& step = (*steps_)[index];
  const int64_t units = units_[index];
  const int64_t shares = int64_t{2} * team_->size();
  const Launch launch{step.args.data(), symbols_, scratch_.data() + scratch_stride_ * static_cast<size_t>(thread)};
  int64_t begin = claimed_.load(std::memory_order_relaxed);
  while (begin < units) {
    // Guided: large shares while much is left, single chunks at the end, so that threads finish together.
    const int64_t left = (units - begin + step.chunk - 1) / step.chunk;
    const int64_t chunks = std::clamp<int64_t>(left / shares, 1, kMaxChunks);
    const int64_t end = std::min(units, begin + chunks * step.chunk);
    if (!claimed_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
    step.kernel(&launch, begin, end);
    begin = claimed_.load(std::memory_order_relaxed);
  }
}

void Executor::run_serial(int thread, size_t begin, size_t end) {
  for (size_t s = begin; s < end; ++s) {
    const Step& step = (*steps_)[s];
    const Launch launch{step.args.data(), symbols_, scratch_.data() + scratch_stride_ * static_cast<size_t>(thread)};
    if (units_[s] > 0) step.kernel(&launch, 0, units_[s]);
    finish_step(s);
    if (abandon_.load(std::memory_order_relaxed)) {
      abandoned_ = true;
      return;
    }
  }
}

void Executor::finish_step(size_t step) {
  if (timing_) {
    const double now = now_ms();
    step_ms_[step] = now - last_mark_;
    last_mark_ = now;
  }
  for (; next_tap_ < taps_->size() && (*taps_)[next_tap_].step == static_cast<int64_t>(step); ++next_tap_) {
    const Tap& tap = (*taps_)[next_tap_];
    std::memcpy(tap.into, arena_.data() + tap.offset, tap.bytes);
  }
  // A copy is not the next step's time.
  if (timing_ && next_tap_ > 0) last_mark_ = now_ms();
}

}  // namespace ingot
