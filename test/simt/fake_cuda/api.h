// What every function of the fake driver goes through: one lock, one line in the log, refusals turned into results with a message.
//
// The types are the driver's public ABI, declared here a second time on purpose: the product's own table is what is being tested.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

namespace fake_cuda {

using Result = int;  // CUresult
inline constexpr Result kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100, kInvalidDevice = 101,
                        kInvalidImage = 200, kInvalidContext = 201, kNoBinaryForGpu = 209, kInvalidPtx = 218, kUnsupportedPtxVersion = 222,
                        kInvalidHandle = 400, kNotFound = 500, kNotReady = 600, kLaunchFailed = 719, kNotSupported = 801,
                        kCaptureUnsupported = 900, kCaptureUnmatched = 903;
using Address = unsigned long long;  // CUdeviceptr
using Handle = uintptr_t;            // of a context, module, function, stream, event or graph: a number that is never used again

struct Refusal {
  Result result;
  std::string message;
};
[[noreturn]] void refuse(Result result, const std::string& message);

std::mutex& one_call();
// One line of the log, if there is one: the call, what it was given, what it answered.
void log_call(const char* name, const std::string& detail, Result result, const std::string& message);
void log_line(const std::string& line);
// Reads INGOT_FAKE_CUDA_LOG and INGOT_FAKE_CUDA_FAIL.
void read_settings();
// Refuses if this is the call that is to fail.
void fail_on_purpose(const char* name);
// What cuGetErrorString adds to the next question about `result` on this thread.
void remember(const Refusal& refusal);

// Runs `body`, which returns nothing or a result that is no error, as one call of the driver.
template <class Body>
Result call(const char* name, const std::string& detail, Body&& body) {
  const std::lock_guard<std::mutex> lock(one_call());
  Result result = kSuccess;
  std::string message;
  try {
    fail_on_purpose(name);
    if constexpr (std::is_void_v<decltype(body())>) {
      body();
    } else {
      result = body();
    }
  } catch (const Refusal& refusal) {
    result = refusal.result;
    message = refusal.message;
    remember(refusal);
  }
  log_call(name, detail, result, message);
  return result;
}

// Everything that lives in a context: counted when the context goes, and usable only while that context is current.
struct Owned {
  int device = 0;
};

class AnyTable {
 public:
  explicit AnyTable(const char* kind);
  virtual ~AnyTable() = default;
  virtual size_t count(int device) const = 0;
  virtual void drop(int device) = 0;
  const char* const kind;
};
std::vector<AnyTable*>& all_tables();
int current_device();  // of the current context; refuses without one
Handle next_handle();

template <class T>
class Table : public AnyTable {
 public:
  using AnyTable::AnyTable;
  T& add(Handle* handle, std::unique_ptr<T> object) {
    object->device = current_device();
    *handle = next_handle();
    return *(objects_[*handle] = std::move(object));
  }
  T& get(Handle handle) const {
    const auto found = objects_.find(handle);
    const std::string many = kind;
    if (found == objects_.end()) refuse(kInvalidHandle, "this is none of the " + many + ": it was never created, or is destroyed");
    if (found->second->device != current_device()) {
      refuse(kInvalidContext, "this is one of another context's " + many + ": make that context current first");
    }
    return *found->second;
  }
  T* find(Handle handle) const {
    const auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second.get();
  }
  void remove(Handle handle) {
    get(handle);
    objects_.erase(handle);
  }
  template <class Each>
  void for_each(Each&& each) const {
    for (const auto& [handle, object] : objects_) each(*object);
  }
  template <class Each>
  void for_each_handle(Each&& each) const {
    for (const auto& [handle, object] : objects_) each(handle, *object);
  }
  size_t count(int device) const override {
    size_t number = 0;
    for (const auto& [handle, object] : objects_) number += object->device == device;
    return number;
  }
  void drop(int device) override {
    for (auto at = objects_.begin(); at != objects_.end();) at = at->second->device == device ? objects_.erase(at) : std::next(at);
  }

 private:
  std::map<Handle, std::unique_ptr<T>> objects_;
};

}  // namespace fake_cuda

#define FAKE_CUDA_API extern "C" __attribute__((visibility("default"))) fake_cuda::Result
