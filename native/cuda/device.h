// One GPU: its facts, its primary context, and owners of what lives in it (memory, pinned memory, stream, events).
//
// Owners free in their destructors without checking: after a failed kernel the context is dead and every call fails.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "driver.h"

namespace ingot::cuda {

struct DeviceFacts {
  std::string name;
  int major;  // compute capability
  int minor;
  std::string driver_version;
  int multiprocessors;
  int64_t total_bytes;
  int64_t shared_bytes_per_block;  // static and dynamic together, after opting in
};

// A device, of which nothing is held: to be asked takes no context, which takes memory there and a while to make.
class Device {
 public:
  // Throws std::runtime_error when there is no device of that index.
  Device(const Driver& driver, int index);

  int handle() const { return handle_; }
  DeviceFacts facts() const;

 private:
  int attribute(DeviceAttribute attribute) const;

  const Driver& driver_;
  int handle_ = 0;
};

// The device's primary context, held while this lives. The thread that constructs it has it current.
class Context {
 public:
  // Throws std::runtime_error when there is no device of that index.
  Context(const Driver& driver, int index);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Driver& driver() const { return driver_; }
  void make_current() const { driver_(driver_.ctx_set_current, handle_); }
  void leave() const { driver_.ctx_set_current.function(nullptr); }
  DeviceFacts facts() const { return device_.facts(); }
  int64_t free_bytes() const;
  // "NVIDIA X (sm_86), driver 12.4".
  std::string describe() const;

 private:
  const Driver& driver_;
  const Device device_;
  ContextHandle handle_ = nullptr;
};

// A driver object that is destroyed by one call. Move only; an empty one holds nothing.
template <class Handle>
class Owner {
 public:
  using Destroy = const Driver::Entry<Handle>;
  Owner() = default;
  Owner(Handle handle, Destroy& destroy) : handle_(handle), destroy_(&destroy) {}
  Owner(Owner&& other) noexcept { swap(other); }
  Owner& operator=(Owner&& other) noexcept {
    Owner moved(std::move(other));
    swap(moved);
    return *this;
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  ~Owner() {
    if (handle_ != Handle{}) destroy_->function(handle_);
  }
  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != Handle{}; }

 private:
  void swap(Owner& other) noexcept {
    std::swap(handle_, other.handle_);
    std::swap(destroy_, other.destroy_);
  }
  Handle handle_{};
  Destroy* destroy_ = nullptr;
};

using DeviceMemory = Owner<DeviceAddress>;
using PinnedMemory = Owner<void*>;
using Stream = Owner<StreamHandle>;
using Event = Owner<EventHandle>;
using Module = Owner<ModuleHandle>;
using GraphExec = Owner<GraphExecHandle>;

// Of 0 bytes: an empty owner. Throw DriverError.
DeviceMemory allocate(const Driver& driver, int64_t bytes);
PinnedMemory allocate_pinned(const Driver& driver, size_t bytes);
Stream create_stream(const Driver& driver);
// One that a thread sleeps for.
Event create_event(const Driver& driver);
// Milliseconds between two recorded events that have both happened.
double elapsed_ms(const Driver& driver, const Event& begin, const Event& end);

}  // namespace ingot::cuda
