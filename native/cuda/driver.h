// The CUDA driver API, loaded at run time: one table of the functions used, each call checked.
//
// Types and numbers are declared here from the driver's public ABI, so that building takes no CUDA header and running the rest of the
// addon takes no NVIDIA driver. Based on cuda.h of CUDA 12.0; names after `cu` are the driver's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace ingot::cuda {

using Result = int;  // CUresult
inline constexpr Result kOutOfMemory = 2, kStubLibrary = 34, kDeviceUnavailable = 46, kNoDevice = 100, kNoBinaryForGpu = 209, kInvalidPtx = 218,
                        kUnsupportedPtxVersion = 222, kNotFound = 500, kNotReady = 600, kSystemNotReady = 802, kDriverMismatch = 803;

using DeviceAddress = unsigned long long;  // CUdeviceptr
using ContextHandle = struct ContextTag*;
using ModuleHandle = struct ModuleTag*;
using FunctionHandle = struct FunctionTag*;
using StreamHandle = struct StreamTag*;
using EventHandle = struct EventTag*;
using GraphHandle = struct GraphTag*;
using GraphExecHandle = struct GraphExecTag*;

enum DeviceAttribute : int {
  kMultiprocessorCount = 16,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxSharedMemoryPerBlockOptin = 97,
};
enum FunctionAttribute : int { kMaxThreadsPerBlock = 0, kPtxVersion = 5, kMaxDynamicSharedSizeBytes = 8 };
enum JitOption : int { kErrorLogBuffer = 5, kErrorLogBufferSizeBytes = 6 };
inline constexpr unsigned kStreamNonBlocking = 1, kCaptureThreadLocal = 1, kEventBlockingSync = 1;

// CUlaunchAttribute with the one attribute used: this grid may begin before its predecessor in the stream has ended.
struct alignas(8) LaunchAttribute {
  static constexpr int kProgrammaticStreamSerialization = 6;
  int id;
  char pad[4];
  union {
    char bytes[64];
    int programmatic_stream_serialization_allowed;
  } value;
};
static_assert(sizeof(LaunchAttribute) == 72, "CUlaunchAttribute has 72 bytes");

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3];
  unsigned block[3];
  unsigned shared_bytes;
  StreamHandle stream;
  LaunchAttribute* attributes;
  unsigned num_attributes;
};
static_assert(sizeof(LaunchConfig) == 56, "CUlaunchConfig has 56 bytes");

// A call that failed, with the driver's own words; `result` is for those who know a remedy.
class DriverError : public std::runtime_error {
 public:
  DriverError(Result result, const std::string& message) : std::runtime_error(message), result(result) {}
  const Result result;
};

// What to do about a result, after a colon; "" where there is nothing in general to say.
std::string remedy(Result result);

class Driver {
 public:
  // Loads the driver library and initializes it. Throws std::runtime_error saying what is missing. The library stays loaded until the
  // process ends: the driver has threads of its own.
  explicit Driver(const std::string& path);
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // One function of the library; the first parameter list is its C signature.
  template <class... Params>
  struct Entry {
    Entry(const Driver& driver, const char* symbol) : symbol(symbol), function(reinterpret_cast<Function>(driver.find(symbol))) {}
    using Function = Result (*)(Params...);
    const char* const symbol;
    const Function function;
  };

  // Calls `entry`; throws DriverError unless it succeeds.
  template <class... Params, class... Args>
  void operator()(const Entry<Params...>& entry, Args... args) const {
    const Result result = entry.function(args...);
    if (result != 0) fail(result, entry.symbol);
  }
  // "CUDA_ERROR_X: what it means".
  std::string words(Result result) const;
  // "12.4".
  std::string version() const;
  int version_number() const;  // 12040

 private:
  void* find(const char* symbol) const;
  [[noreturn]] void fail(Result result, const char* symbol) const;

  const std::string path_;
  void* const library_;

 public:
  // Behind `library_`, in which they are looked up.
  const Entry<unsigned> init{*this, "cuInit"};
  const Entry<int*> driver_get_version{*this, "cuDriverGetVersion"};
  const Entry<Result, const char**> get_error_name{*this, "cuGetErrorName"};
  const Entry<Result, const char**> get_error_string{*this, "cuGetErrorString"};
  const Entry<int*> device_get_count{*this, "cuDeviceGetCount"};
  const Entry<int*, int> device_get{*this, "cuDeviceGet"};
  const Entry<char*, int, int> device_get_name{*this, "cuDeviceGetName"};
  const Entry<size_t*, int> device_total_mem{*this, "cuDeviceTotalMem_v2"};
  const Entry<int*, int, int> device_get_attribute{*this, "cuDeviceGetAttribute"};
  const Entry<ContextHandle*, int> primary_ctx_retain{*this, "cuDevicePrimaryCtxRetain"};
  const Entry<int> primary_ctx_release{*this, "cuDevicePrimaryCtxRelease_v2"};
  const Entry<ContextHandle> ctx_set_current{*this, "cuCtxSetCurrent"};
  const Entry<ContextHandle*> ctx_get_current{*this, "cuCtxGetCurrent"};
  const Entry<size_t*, size_t*> mem_get_info{*this, "cuMemGetInfo_v2"};
  const Entry<DeviceAddress*, size_t> mem_alloc{*this, "cuMemAlloc_v2"};
  const Entry<DeviceAddress> mem_free{*this, "cuMemFree_v2"};
  const Entry<void**, size_t, unsigned> mem_host_alloc{*this, "cuMemHostAlloc"};
  const Entry<void*> mem_free_host{*this, "cuMemFreeHost"};
  const Entry<DeviceAddress, const void*, size_t, StreamHandle> memcpy_htod{*this, "cuMemcpyHtoDAsync_v2"};
  const Entry<void*, DeviceAddress, size_t, StreamHandle> memcpy_dtoh{*this, "cuMemcpyDtoHAsync_v2"};
  const Entry<DeviceAddress, DeviceAddress, size_t, StreamHandle> memcpy_dtod{*this, "cuMemcpyDtoDAsync_v2"};
  const Entry<DeviceAddress, unsigned char, size_t, StreamHandle> memset_d8{*this, "cuMemsetD8Async"};
  const Entry<ModuleHandle*, const void*, unsigned, int*, void**> module_load_data{*this, "cuModuleLoadDataEx"};
  const Entry<ModuleHandle> module_unload{*this, "cuModuleUnload"};
  const Entry<FunctionHandle*, ModuleHandle, const char*> module_get_function{*this, "cuModuleGetFunction"};
  const Entry<int*, int, FunctionHandle> func_get_attribute{*this, "cuFuncGetAttribute"};
  const Entry<FunctionHandle, int, int> func_set_attribute{*this, "cuFuncSetAttribute"};
  const Entry<const LaunchConfig*, FunctionHandle, void**, void**> launch_kernel{*this, "cuLaunchKernelEx"};
  const Entry<StreamHandle*, unsigned> stream_create{*this, "cuStreamCreate"};
  const Entry<StreamHandle> stream_destroy{*this, "cuStreamDestroy_v2"};
  const Entry<StreamHandle> stream_synchronize{*this, "cuStreamSynchronize"};
  const Entry<StreamHandle, int> stream_begin_capture{*this, "cuStreamBeginCapture_v2"};
  const Entry<StreamHandle, GraphHandle*> stream_end_capture{*this, "cuStreamEndCapture"};
  const Entry<GraphExecHandle*, GraphHandle, unsigned long long> graph_instantiate{*this, "cuGraphInstantiateWithFlags"};
  const Entry<GraphExecHandle, StreamHandle> graph_launch{*this, "cuGraphLaunch"};
  const Entry<GraphHandle> graph_destroy{*this, "cuGraphDestroy"};
  const Entry<GraphExecHandle> graph_exec_destroy{*this, "cuGraphExecDestroy"};
  const Entry<EventHandle*, unsigned> event_create{*this, "cuEventCreate"};
  const Entry<EventHandle> event_destroy{*this, "cuEventDestroy_v2"};
  const Entry<EventHandle, StreamHandle> event_record{*this, "cuEventRecord"};
  const Entry<EventHandle> event_query{*this, "cuEventQuery"};
  const Entry<EventHandle> event_synchronize{*this, "cuEventSynchronize"};
  const Entry<float*, EventHandle, EventHandle> event_elapsed_time{*this, "cuEventElapsedTime"};
};

}  // namespace ingot::cuda
