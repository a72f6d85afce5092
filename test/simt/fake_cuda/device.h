// The device the fake driver drives, and its primary context.
#pragma once

#include <optional>

#include "api.h"
#include "simt.hpp"

namespace fake_cuda {

// Read from the environment at every cuInit, so that one process can test several devices one after another.
struct Model {
  int count;           // INGOT_FAKE_CUDA_DEVICES, 1
  int sm;              // INGOT_FAKE_CUDA_SM: 80, 86, 90
  size_t memory;       // INGOT_FAKE_CUDA_MEMORY, 1 GiB
  int driver_version;  // INGOT_FAKE_CUDA_DRIVER: 12040
  simt::Schedule schedule;
};
const Model& model();
int max_shared_bytes();  // of a block that asked for it

struct Context {
  Handle handle = 0;
  int retained = 0;
  std::optional<Refusal> failure;  // a failed kernel or copy: every later call says so
};
Context& context_of(int device);
// The current context's, which is in order. Refuses otherwise.
void require_context();
// The same where the context may have failed: for calls that free.
void require_any_context();

}  // namespace fake_cuda
