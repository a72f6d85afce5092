// Initialization, facts of the device, primary contexts and what is left in them when they go.
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace fake_cuda {

namespace {

constexpr int kMaxDevices = 8;
bool is_initialized = false;
Model the_model{};
Context* contexts = new Context[kMaxDevices];
thread_local Handle current = 0;

long long number_of(const char* variable, long long otherwise) {
  const char* const text = getenv(variable);
  return text == nullptr || *text == '\0' ? otherwise : atoll(text);
}

Model read_model() {
  Model read;
  read.count = static_cast<int>(number_of("INGOT_FAKE_CUDA_DEVICES", 1));
  read.sm = static_cast<int>(number_of("INGOT_FAKE_CUDA_SM", 90));
  read.memory = static_cast<size_t>(number_of("INGOT_FAKE_CUDA_MEMORY", 1ll << 30));
  read.driver_version = static_cast<int>(number_of("INGOT_FAKE_CUDA_DRIVER", 12040));
  const char* const order = getenv("INGOT_SIMT_ORDER");
  if (order != nullptr && !simt::order_of(order, &read.schedule.order)) {
    refuse(kInvalidValue, "INGOT_SIMT_ORDER knows no order " + std::string(order));
  }
  read.schedule.seed = static_cast<uint64_t>(number_of("INGOT_SIMT_SEED", 1));
  if (read.count > kMaxDevices) refuse(kInvalidValue, "INGOT_FAKE_CUDA_DEVICES is at most " + std::to_string(kMaxDevices));
  return read;
}

void report_leaks(int device, const char* when) {
  std::string left;
  for (const AnyTable* table : all_tables()) {
    const size_t number = table->count(device);
    if (number > 0) left += (left.empty() ? "" : ", ") + std::to_string(number) + " " + table->kind;
  }
  if (left.empty()) return;
  const std::string line = "leak: " + left + " when " + when;
  fprintf(stderr, "fake CUDA driver: %s\n", line.c_str());
  log_line(line);
}

__attribute__((destructor)) void at_exit() {
  for (int device = 0; device < kMaxDevices; ++device) {
    if (contexts[device].retained == 0) continue;
    const std::string line = "leak: the primary context of device " + std::to_string(device) + " when the process ended";
    fprintf(stderr, "fake CUDA driver: %s\n", line.c_str());
    log_line(line);
    report_leaks(device, "the process ended");
  }
}

void require_device(int device) {
  if (!is_initialized) refuse(kNotInitialized, "cuInit comes first");
  if (device < 0 || device >= the_model.count) {
    refuse(kInvalidDevice, "device " + std::to_string(device) + " of " + std::to_string(the_model.count));
  }
}

}  // namespace

const Model& model() { return the_model; }

// From the CUDA programming guide, "Technical specifications per compute capability".
int max_shared_bytes() { return (the_model.sm >= 90 ? 227 : the_model.sm == 80 ? 163 : 99) * 1024; }

Context& context_of(int device) { return contexts[device]; }

int current_device() {
  for (int device = 0; device < kMaxDevices; ++device) {
    if (current != 0 && contexts[device].handle == current) return device;
  }
  refuse(kInvalidContext, current == 0 ? "no context is current on this thread: cuCtxSetCurrent comes first"
                                       : "the context that is current on this thread was released");
}

void require_any_context() { current_device(); }

void require_context() {
  const Context& context = contexts[current_device()];
  if (context.failure) throw *context.failure;
}

}  // namespace fake_cuda

using namespace fake_cuda;

FAKE_CUDA_API cuInit(unsigned flags) {
  const Result result = call("cuInit", "", [&] {
    read_settings();
    if (flags != 0) refuse(kInvalidValue, "flags must be 0");
    the_model = read_model();
    if (the_model.count == 0) refuse(kNoDevice, "");
    is_initialized = true;
  });
  return result;
}

FAKE_CUDA_API cuDriverGetVersion(int* version) {
  return call("cuDriverGetVersion", "", [&] { *version = the_model.driver_version; });
}

FAKE_CUDA_API cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", "", [&] {
    if (!is_initialized) refuse(kNotInitialized, "cuInit comes first");
    *count = the_model.count;
  });
}

FAKE_CUDA_API cuDeviceGet(int* device, int ordinal) {
  return call("cuDeviceGet", std::to_string(ordinal), [&] {
    require_device(ordinal);
    *device = ordinal;
  });
}

FAKE_CUDA_API cuDeviceGetName(char* name, int length, int device) {
  return call("cuDeviceGetName", "", [&] {
    require_device(device);
    snprintf(name, static_cast<size_t>(length), "NVIDIA Fake %d", the_model.sm);
  });
}

FAKE_CUDA_API cuDeviceTotalMem_v2(size_t* bytes, int device) {
  return call("cuDeviceTotalMem_v2", "", [&] {
    require_device(device);
    *bytes = the_model.memory;
  });
}

FAKE_CUDA_API cuDeviceGetAttribute(int* value, int attribute, int device) {
  return call("cuDeviceGetAttribute", std::to_string(attribute), [&] {
    require_device(device);
    switch (attribute) {
      case 1: *value = 1024; return;                     // MAX_THREADS_PER_BLOCK
      case 8: *value = 48 << 10; return;                 // MAX_SHARED_MEMORY_PER_BLOCK
      case 16: *value = 4; return;                       // MULTIPROCESSOR_COUNT: few, so that grids have a second wave
      case 75: *value = the_model.sm / 10; return;       // COMPUTE_CAPABILITY_MAJOR
      case 76: *value = the_model.sm % 10; return;       // COMPUTE_CAPABILITY_MINOR
      case 97: *value = max_shared_bytes(); return;      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
      default: refuse(kInvalidValue, "the fake driver does not know attribute " + std::to_string(attribute));
    }
  });
}

FAKE_CUDA_API cuDevicePrimaryCtxRetain(Handle* context, int device) {
  return call("cuDevicePrimaryCtxRetain", std::to_string(device), [&] {
    require_device(device);
    Context& retained = contexts[device];
    if (retained.retained++ == 0) {
      retained.handle = next_handle();
      retained.failure.reset();
    }
    *context = retained.handle;
  });
}

FAKE_CUDA_API cuDevicePrimaryCtxRelease_v2(int device) {
  return call("cuDevicePrimaryCtxRelease_v2", std::to_string(device), [&] {
    require_device(device);
    Context& released = contexts[device];
    if (released.retained == 0) refuse(kInvalidContext, "the primary context is not retained");
    if (--released.retained > 0) return;
    report_leaks(device, "the primary context was released");
    for (AnyTable* table : all_tables()) table->drop(device);
    released.handle = 0;
  });
}

FAKE_CUDA_API cuCtxSetCurrent(Handle context) {
  return call("cuCtxSetCurrent", context == 0 ? "none" : "", [&] {
    bool is_known = context == 0;
    for (int device = 0; device < kMaxDevices; ++device) is_known |= contexts[device].handle == context;
    if (!is_known) refuse(kInvalidContext, "this is no context: it was never retained, or is released");
    current = context;
  });
}

FAKE_CUDA_API cuCtxGetCurrent(Handle* context) {
  return call("cuCtxGetCurrent", "", [&] { *context = current; });
}
