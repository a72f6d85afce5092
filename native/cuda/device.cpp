#include "device.h"

namespace ingot::cuda {

Device::Device(const Driver& driver, int index) : driver_(driver) {
  int count = 0;
  driver(driver.device_get_count, &count);
  if (index < 0 || index >= count) {
    throw std::runtime_error("there is no CUDA device " + std::to_string(index) + ": the driver sees " + std::to_string(count) +
                             "; choose one of them, see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  driver(driver.device_get, &handle_, index);
}

int Device::attribute(DeviceAttribute attribute) const {
  int value = 0;
  driver_(driver_.device_get_attribute, &value, attribute, handle_);
  return value;
}

DeviceFacts Device::facts() const {
  DeviceFacts facts;
  char name[256] = {};
  driver_(driver_.device_get_name, name, static_cast<int>(sizeof name) - 1, handle_);
  facts.name = name;
  facts.major = attribute(kComputeCapabilityMajor);
  facts.minor = attribute(kComputeCapabilityMinor);
  facts.driver_version = driver_.version();
  facts.multiprocessors = attribute(kMultiprocessorCount);
  size_t total = 0;
  driver_(driver_.device_total_mem, &total, handle_);
  facts.total_bytes = static_cast<int64_t>(total);
  facts.shared_bytes_per_block = attribute(kMaxSharedMemoryPerBlockOptin);
  return facts;
}

Context::Context(const Driver& driver, int index) : driver_(driver), device_(driver, index) {
  driver(driver.primary_ctx_retain, &handle_, device_.handle());
  try {
    make_current();
  } catch (...) {
    driver.primary_ctx_release.function(device_.handle());
    throw;
  }
}

Context::~Context() {
  ContextHandle current = nullptr;
  if (driver_.ctx_get_current.function(&current) == 0 && current == handle_) leave();
  driver_.primary_ctx_release.function(device_.handle());
}

int64_t Context::free_bytes() const {
  size_t free = 0, total = 0;
  driver_(driver_.mem_get_info, &free, &total);
  return static_cast<int64_t>(free);
}

std::string Context::describe() const {
  const DeviceFacts found = facts();
  return found.name + " (sm_" + std::to_string(found.major) + std::to_string(found.minor) + "), driver " + found.driver_version;
}

DeviceMemory allocate(const Driver& driver, int64_t bytes) {
  if (bytes == 0) return {};
  DeviceAddress address = 0;
  driver(driver.mem_alloc, &address, static_cast<size_t>(bytes));
  return {address, driver.mem_free};
}

PinnedMemory allocate_pinned(const Driver& driver, size_t bytes) {
  if (bytes == 0) return {};
  void* memory = nullptr;
  const Result result = driver.mem_host_alloc.function(&memory, bytes, 0u);
  if (result != 0) {  // the machine's memory, not the GPU's
    throw std::runtime_error("cannot pin " + std::to_string(bytes) + " bytes of memory: " + driver.words(result) +
                             ": end what else needs memory, or raise the limit of locked memory (ulimit -l)");
  }
  return {memory, driver.mem_free_host};
}

Stream create_stream(const Driver& driver) {
  StreamHandle stream = nullptr;
  driver(driver.stream_create, &stream, kStreamNonBlocking);
  return {stream, driver.stream_destroy};
}

Event create_event(const Driver& driver) {
  EventHandle event = nullptr;
  driver(driver.event_create, &event, kEventBlockingSync);
  return {event, driver.event_destroy};
}

double elapsed_ms(const Driver& driver, const Event& begin, const Event& end) {
  float ms = 0;
  driver(driver.event_elapsed_time, &ms, begin.get(), end.get());
  return static_cast<double>(ms);
}

}  // namespace ingot::cuda
