// The arrays of a step on the device: one block, inputs first, so that one copy brings all inputs and one fetches all outputs.
//
// A job's arrays pass through a pinned block of its slot. The device's block is one for all jobs: they follow each other on the stream,
// and a job may read what the job before left in an output.
#pragma once

#include <cstdint>
#include <vector>

#include "../program.h"
#include "device.h"

namespace ingot::cuda {

struct ArraySpec {
  int64_t bytes;  // most that fits without growing
  bool is_output;
};

inline constexpr size_t kNumSlots = 2;  // jobs in flight

class StepArrays {
 public:
  // Lays the arrays out; `reserve` allocates them.
  StepArrays(const Driver& driver, const std::vector<ArraySpec>& specs);
  void reserve();

  size_t size() const { return places_.size(); }
  DeviceAddress array(size_t index) const { return block_.get() + places_[index].offset; }
  DeviceAddress symbol(size_t index) const { return block_.get() + index * sizeof(int32_t); }

  bool fits(const Job& job) const;
  // Makes room for the job's arrays; every address changes, what outputs hold is kept. Nothing may be in flight. Where it throws, all is
  // as before.
  void grow(const Job& job, const Stream& stream);

  // Packs symbols and inputs into the slot's block and copies it to the device.
  void send(const Job& job, size_t slot, const Stream& stream);
  // Copies outputs to the slot's block; once that has happened, `unpack` brings them to the job's arrays.
  void fetch(const Job& job, size_t slot, const Stream& stream);
  void unpack(const Job& job, size_t slot) const;

 private:
  struct Place {
    size_t offset;
    size_t capacity;
    bool is_output;
  };
  void lay_out();

  const Driver& driver_;
  std::vector<Place> places_;
  size_t outputs_begin_ = 0;
  size_t bytes_ = 0;
  DeviceMemory block_;
  PinnedMemory pinned_[kNumSlots];
};

}  // namespace ingot::cuda
