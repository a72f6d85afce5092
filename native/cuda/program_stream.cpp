#include "program_stream.h"

#include <algorithm>
#include <cstdio>

#include "../memory.h"

namespace ingot::cuda {

namespace {

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

std::string size_of(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

}  // namespace

ProgramStream::ProgramStream(const CudaExecutorSpec& spec)
    : driver_(spec.driver), context_(driver_, spec.device), stream_(create_stream(driver_)), kernels_(context_, spec.library, spec.kernels),
      weights_bytes_(spec.weights_bytes), arena_bytes_(spec.arena_bytes), kv_bytes_(spec.kv_bytes), arrays_(driver_, spec.arrays) {
  const Region weights = Region::of_file(spec.weights, static_cast<size_t>(spec.weights_bytes));
  for (size_t p = 0; p < spec.programs.size(); ++p) {
    std::vector<Step>& steps = programs_.emplace_back();
    std::array<bool, kNumSymbols>& sizing = sizing_symbols_.emplace_back();
    for (size_t s = 0; s < spec.programs[p].size(); ++s) {
      steps.push_back(resolve(spec.programs[p][s], "programs[" + std::to_string(p) + "].steps[" + std::to_string(s) + "]"));
      for (const GridOp& op : steps.back().grid) {
        if (op.kind == GridOp::Kind::kSymbol) sizing[static_cast<size_t>(op.value)] = true;
      }
    }
  }
  reserve(spec);
  set_addresses();
  for (Slot& slot : slots_) slot = {create_event(driver_), create_event(driver_), {}, 0};
  // Zeros: counters between the blocks of a kernel begin at 0, and a block of KV cache that nobody wrote holds no NaN.
  if (arena_) driver_(driver_.memset_d8, arena_.get(), static_cast<unsigned char>(0), static_cast<size_t>(arena_bytes_), stream_.get());
  if (kv_) driver_(driver_.memset_d8, kv_.get(), static_cast<unsigned char>(0), static_cast<size_t>(kv_bytes_), stream_.get());
  upload(driver_, weights, weights_, stream_, spec.on_progress);
  driver_(driver_.stream_synchronize, stream_.get());
}

void ProgramStream::reserve(const CudaExecutorSpec& spec) {
  const int64_t free_bytes = context_.free_bytes(), total_bytes = context_.facts().total_bytes;
  try {
    weights_ = allocate(driver_, spec.weights_bytes);
    arena_ = allocate(driver_, spec.arena_bytes);
    kv_ = allocate(driver_, spec.kv_bytes);
    arrays_.reserve();
  } catch (const DriverError& error) {
    if (error.result != kOutOfMemory) throw;
    const char* remedy = spec.weights_bytes > free_bytes
                             ? "use a smaller model or a GPU with more memory, or end what else uses this one"
                             : "lower --kv-cache-memory, --max-model-len, --max-num-seqs or --max-num-batched-tokens, or end what else uses the GPU";
    fail("not enough memory on " + context_.describe() + ": weights take " + size_of(spec.weights_bytes) + ", the arena " +
         size_of(spec.arena_bytes) + ", the KV cache " + size_of(spec.kv_bytes) + ", and " + size_of(free_bytes) + " of " +
         size_of(total_bytes) + " are free: " + remedy);
  }
}

ProgramStream::Step ProgramStream::resolve(const CudaStepSpec& spec, const std::string& where) const {
  check_grid(spec.grid, where + ".grid");
  for (size_t a = 0; a < spec.args.size(); ++a) {
    const ArgSpec& arg = spec.args[a];
    const auto check = [&](const char* what, int64_t limit) {
      if (arg.value >= 0 && arg.value < limit) return;
      fail(where + ".args[" + std::to_string(a) + "]: " + what + " " + std::to_string(arg.value) + ", expected less than " +
           std::to_string(limit));
    };
    switch (arg.space) {
      case ArgSpec::Space::kArena: check("arena offset", arena_bytes_); break;
      case ArgSpec::Space::kWeights: check("weights offset", weights_bytes_); break;
      case ArgSpec::Space::kKv: check("kv offset", kv_bytes_); break;
      case ArgSpec::Space::kArray: check("array", static_cast<int64_t>(arrays_.size())); break;
      case ArgSpec::Space::kSymbol: check("symbol", kNumSymbols); break;
    }
  }
  Step step{static_cast<size_t>(spec.kernel), spec.grid, spec.args, std::vector<DeviceAddress>(spec.args.size()), {}, 0};
  for (DeviceAddress& value : step.values) step.params.push_back(&value);
  return step;
}

void ProgramStream::set_addresses() {
  for (std::vector<Step>& steps : programs_) {
    for (Step& step : steps) {
      for (size_t a = 0; a < step.args.size(); ++a) {
        const auto value = static_cast<size_t>(step.args[a].value);
        switch (step.args[a].space) {
          case ArgSpec::Space::kArena: step.values[a] = arena_.get() + value; break;
          case ArgSpec::Space::kWeights: step.values[a] = weights_.get() + value; break;
          case ArgSpec::Space::kKv: step.values[a] = kv_.get() + value; break;
          case ArgSpec::Space::kArray: step.values[a] = arrays_.array(value); break;
          case ArgSpec::Space::kSymbol: step.values[a] = arrays_.symbol(value); break;
        }
      }
    }
  }
}

void ProgramStream::evaluate_grids(std::vector<Step>& steps, const Job& job) const {
  for (size_t s = 0; s < steps.size(); ++s) {
    try {
      steps[s].blocks = evaluate_grid(steps[s].grid, job.launch_symbols);
      kernels_.check_blocks(steps[s].kernel, steps[s].blocks);
    } catch (const std::runtime_error& error) {
      fail("step " + std::to_string(s) + " (" + kernels_.name(steps[s].kernel) + "): " + error.what());
    }
  }
}

void ProgramStream::enqueue(Job& job, size_t slot_index, bool is_profiled) {
  Slot& slot = slots_[slot_index];
  slot.num_marks = 0;
  std::vector<Step>& steps = programs_[job.program];
  GraphKey key{job.program, {}};
  for (size_t i = 0; i < kNumSymbols; ++i) key.launch_symbols[i] = sizing_symbols_[job.program][i] ? job.launch_symbols[i] : 0;
  const bool is_watched = is_profiled || !job.taps.empty();
  if (!arrays_.fits(job)) {
    graphs_.clear();  // they hold the old addresses
    arrays_.grow(job, stream_);
    set_addresses();
  }
  GraphExecHandle graph = is_watched ? nullptr : graphs_.find(key);
  if (graph == nullptr) evaluate_grids(steps, job);
  if (graph == nullptr && !is_watched && graphs_.was_seen(key)) {
    graph = graphs_.keep(key, capture(driver_, stream_, [&] { launch(steps); }));
  }
  record(slot.begin);
  arrays_.send(job, slot_index, stream_);
  if (graph != nullptr) {
    driver_(driver_.graph_launch, graph, stream_.get());
  } else if (is_watched) {
    launch_watched(steps, job, slot, is_profiled);
  } else {
    launch(steps);
  }
  arrays_.fetch(job, slot_index, stream_);
  record(slot.end);
}

void ProgramStream::launch(const std::vector<Step>& steps) const {
  // The first waits for the copy of inputs: extents may be read before `wait_for_inputs`, and every wait ends after that copy.
  bool follows_kernel = false;
  for (const Step& step : steps) {
    if (step.blocks == 0) continue;
    kernels_.launch(step.kernel, step.blocks, const_cast<void**>(step.params.data()), stream_, follows_kernel);
    follows_kernel = true;
  }
}

void ProgramStream::launch_watched(const std::vector<Step>& steps, Job& job, Slot& slot, bool is_profiled) {
  if (is_profiled) {
    while (slot.marks.size() <= steps.size()) slot.marks.push_back(create_event(driver_));
    slot.num_marks = steps.size() + 1;
    record(slot.marks[0]);
  }
  std::stable_sort(job.taps.begin(), job.taps.end(), [](const Tap& a, const Tap& b) { return a.step < b.step; });
  auto tap = job.taps.begin();
  for (size_t s = 0; s < steps.size(); ++s) {
    const Step& step = steps[s];
    if (step.blocks > 0) kernels_.launch(step.kernel, step.blocks, const_cast<void**>(step.params.data()), stream_, false);
    if (is_profiled) record(slot.marks[s + 1]);
    for (; tap != job.taps.end() && tap->step == static_cast<int64_t>(s); ++tap) {
      if (tap->bytes == 0) continue;
      driver_(driver_.memcpy_dtoh, tap->into, arena_.get() + static_cast<size_t>(tap->offset), tap->bytes, stream_.get());
    }
  }
}

bool ProgramStream::is_done(size_t slot) const {
  const Result result = driver_.event_query.function(slots_[slot].end.get());
  if (result != kNotReady) check_done(result);
  return result != kNotReady;
}

void ProgramStream::wait(size_t slot) const { check_done(driver_.event_synchronize.function(slots_[slot].end.get())); }

void ProgramStream::check_done(Result result) const {
  if (result == 0) return;
  throw DriverError(result, "the device stopped: " + driver_.words(result) + ": this process can use the GPU no more; start it again");
}

double ProgramStream::retire(const Job& job, size_t slot_index) {
  const Slot& slot = slots_[slot_index];
  arrays_.unpack(job, slot_index);
  if (slot.num_marks > 0) {
    step_ms_.clear();
    for (size_t s = 0; s + 1 < slot.num_marks; ++s) step_ms_.push_back(elapsed_ms(driver_, slot.marks[s], slot.marks[s + 1]));
  }
  return elapsed_ms(driver_, slot.begin, slot.end);
}

}  // namespace ingot::cuda
