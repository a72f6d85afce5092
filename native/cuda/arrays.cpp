#include "arrays.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ingot::cuda {

namespace {

constexpr size_t kAlignment = 256;  // as of separate allocations

size_t align_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

StepArrays::StepArrays(const Driver& driver, const std::vector<ArraySpec>& specs) : driver_(driver) {
  for (const ArraySpec& spec : specs) places_.push_back({0, static_cast<size_t>(spec.bytes), spec.is_output});
  lay_out();
}

// | symbols | inputs, smaller capacities first | outputs likewise |
// A copy ends with the last byte in use, so the largest array's unused rest is not copied.
void StepArrays::lay_out() {
  std::vector<Place*> order;
  for (Place& place : places_) order.push_back(&place);
  std::stable_sort(order.begin(), order.end(), [](const Place* a, const Place* b) {
    return a->is_output != b->is_output ? b->is_output : a->capacity < b->capacity;
  });
  size_t end = align_up(kNumSymbols * sizeof(int32_t));
  outputs_begin_ = 0;
  for (Place* place : order) {
    if (place->is_output && outputs_begin_ == 0) outputs_begin_ = end;
    place->offset = end;
    end += align_up(place->capacity);
  }
  if (outputs_begin_ == 0) outputs_begin_ = end;
  bytes_ = end + kAlignment;  // an array without room still has an address of its own
}

void StepArrays::reserve() {
  block_ = allocate(driver_, static_cast<int64_t>(bytes_));
  for (PinnedMemory& pinned : pinned_) {
    pinned = allocate_pinned(driver_, bytes_);
    std::memset(pinned.get(), 0, bytes_);
  }
}

bool StepArrays::fits(const Job& job) const {
  for (size_t i = 0; i < places_.size(); ++i) {
    if (job.arrays[i].bytes > places_[i].capacity) return false;
  }
  return true;
}

void StepArrays::grow(const Job& job, const Stream& stream) {
  std::vector<ArraySpec> specs;
  for (size_t i = 0; i < places_.size(); ++i) {
    size_t capacity = places_[i].capacity;
    // Half as much again, so that an array that grows by a row a step does not come here at each.
    if (job.arrays[i].bytes > capacity) capacity = align_up(job.arrays[i].bytes + job.arrays[i].bytes / 2);
    specs.push_back({static_cast<int64_t>(capacity), places_[i].is_output});
  }
  StepArrays grown(driver_, specs);
  grown.reserve();
  for (size_t i = 0; i < places_.size(); ++i) {
    if (!places_[i].is_output || places_[i].capacity == 0) continue;
    driver_(driver_.memcpy_dtod, grown.array(i), array(i), places_[i].capacity, stream.get());
  }
  driver_(driver_.stream_synchronize, stream.get());
  std::swap(places_, grown.places_);
  std::swap(outputs_begin_, grown.outputs_begin_);
  std::swap(bytes_, grown.bytes_);
  std::swap(block_, grown.block_);
  std::swap(pinned_, grown.pinned_);
}

void StepArrays::send(const Job& job, size_t slot, const Stream& stream) {
  char* const pinned = static_cast<char*>(pinned_[slot].get());
  std::memcpy(pinned, job.symbols, sizeof job.symbols);
  size_t end = sizeof job.symbols;
  for (size_t i = 0; i < places_.size(); ++i) {
    const StepArray& array = job.arrays[i];
    if (places_[i].is_output || array.bytes == 0) continue;
    std::memcpy(pinned + places_[i].offset, array.data, array.bytes);
    end = std::max(end, places_[i].offset + array.bytes);
  }
  driver_(driver_.memcpy_htod, block_.get(), pinned, end, stream.get());
}

void StepArrays::fetch(const Job& job, size_t slot, const Stream& stream) {
  size_t end = 0;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].is_output && job.arrays[i].bytes > 0) end = std::max(end, places_[i].offset + job.arrays[i].bytes);
  }
  if (end == 0) return;
  char* const pinned = static_cast<char*>(pinned_[slot].get());
  driver_(driver_.memcpy_dtoh, pinned + outputs_begin_, block_.get() + outputs_begin_, end - outputs_begin_, stream.get());
}

void StepArrays::unpack(const Job& job, size_t slot) const {
  const char* const pinned = static_cast<const char*>(pinned_[slot].get());
  for (size_t i = 0; i < places_.size(); ++i) {
    const StepArray& array = job.arrays[i];
    if (places_[i].is_output && array.bytes > 0) std::memcpy(array.data, pinned + places_[i].offset, array.bytes);
  }
}

}  // namespace ingot::cuda
