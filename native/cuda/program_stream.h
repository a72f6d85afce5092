// Programs on one stream of one device: memory, kernels and graphs, and the work a job puts on the stream.
//
// Used by one thread at a time, which has the context current; who submits and who waits is the executor's business.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "../program.h"
#include "arrays.h"
#include "device.h"
#include "graphs.h"
#include "kernels.h"
#include "upload.h"

namespace ingot {

struct CudaStepSpec {
  int64_t kernel;  // index among the kernels
  std::vector<GridOp> grid;
  std::vector<ArgSpec> args;
};

struct CudaExecutorSpec {
  std::string driver;  // path or soname of the driver library
  int device;
  std::string library;  // file of the kernel images
  std::vector<cuda::KernelSpec> kernels;
  std::string weights;
  int64_t weights_bytes;
  int64_t arena_bytes;
  int64_t kv_bytes;
  std::vector<cuda::ArraySpec> arrays;
  std::vector<std::vector<CudaStepSpec>> programs;
  cuda::Progress on_progress;  // of the weights; may be empty
};

}  // namespace ingot

namespace ingot::cuda {

class ProgramStream {
 public:
  // Loads kernels, reserves memory, uploads the weights, zeroes arena and KV cache. Throws std::runtime_error naming what is wrong.
  explicit ProgramStream(const CudaExecutorSpec& spec);
  ProgramStream(const ProgramStream&) = delete;
  ProgramStream& operator=(const ProgramStream&) = delete;

  const Context& context() const { return context_; }
  size_t num_programs() const { return programs_.size(); }
  size_t num_steps(size_t program) const { return programs_[program].size(); }

  // Whether the job can be enqueued while another is in flight.
  bool fits(const Job& job) const { return arrays_.fits(job); }
  // Puts a job on the stream: inputs, steps, outputs. `slot` is free.
  void enqueue(Job& job, size_t slot, bool is_profiled);
  // Whether the device is done with the slot's job; `wait` sleeps until it is. Both throw when the job failed there.
  bool is_done(size_t slot) const;
  void wait(size_t slot) const;
  // Brings the outputs of a job that is done to its arrays and returns its milliseconds on the device.
  double retire(const Job& job, size_t slot);
  // Milliseconds of each step of the last profiled job that was retired.
  const std::vector<double>& step_ms() const { return step_ms_; }
  // Waits for all work, whether or not it succeeds.
  void settle() const { driver_.stream_synchronize.function(stream_.get()); }

 private:
  struct Step {
    size_t kernel;
    std::vector<GridOp> grid;
    std::vector<ArgSpec> args;
    std::vector<DeviceAddress> values;
    std::vector<void*> params;  // one pointer into `values` for each, as launches take them
    int64_t blocks = 0;         // of the job being enqueued
  };
  struct Slot {
    Event begin, end;
    std::vector<Event> marks;  // before the first step and after each, of a profiled job
    size_t num_marks = 0;
  };

  void reserve(const CudaExecutorSpec& spec);
  void check_done(Result result) const;
  Step resolve(const CudaStepSpec& spec, const std::string& where) const;
  void set_addresses();
  void evaluate_grids(std::vector<Step>& steps, const Job& job) const;
  void launch(const std::vector<Step>& steps) const;
  void launch_watched(const std::vector<Step>& steps, Job& job, Slot& slot, bool is_profiled);
  void record(const Event& event) const { driver_(driver_.event_record, event.get(), stream_.get()); }

  // Destroyed from the last to the first: what lives in the context before the context.
  const Driver driver_;
  const Context context_;
  const Stream stream_;
  const Kernels kernels_;
  int64_t weights_bytes_, arena_bytes_, kv_bytes_;
  DeviceMemory weights_, arena_, kv_;
  StepArrays arrays_;
  std::vector<std::vector<Step>> programs_;
  std::vector<std::array<bool, kNumSymbols>> sizing_symbols_;  // of each program: those that its grids are made for
  Graphs graphs_;
  Slot slots_[kNumSlots];
  std::vector<double> step_ms_;
};

}  // namespace ingot::cuda
