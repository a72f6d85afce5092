#include "driver.h"

#include <dlfcn.h>

namespace ingot::cuda {

namespace {

constexpr const char* kInstall = "install NVIDIA's driver (12.0 or later), or compile the model for the CPU with --target native";

void* open_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw std::runtime_error("no NVIDIA driver: " + std::string(dlerror()) + ": " + kInstall);
  return library;
}

}  // namespace

std::string remedy(Result result) {
  if (result == kNoDevice) return ": the driver sees no GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES";
  if (result == kStubLibrary) return std::string(": this library is a stub for linking; ") + kInstall;
  if (result == kOutOfMemory) return ": the GPU's memory is full; end what else uses it, see nvidia-smi";
  if (result == kDeviceUnavailable) return ": another process has the GPU for itself; see its compute mode in nvidia-smi";
  if (result == kSystemNotReady) return ": the driver's services do not run; start nvidia-fabricmanager";
  if (result == kDriverMismatch) return ": libcuda and the kernel module differ in version; restart the machine, or install both again";
  return "";
}

Driver::Driver(const std::string& path) : path_(path), library_(open_library(path)) {
  const Result result = init.function(0);
  if (result != 0) fail(result, "cuInit");
}

void* Driver::find(const char* symbol) const {
  void* found = dlsym(library_, symbol);
  if (found == nullptr) throw std::runtime_error(path_ + " has no function " + symbol + ": the NVIDIA driver is too old; " + kInstall);
  return found;
}

void Driver::fail(Result result, const char* symbol) const { throw DriverError(result, std::string(symbol) + " failed: " + words(result) + remedy(result)); }

std::string Driver::words(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (get_error_name.function(result, &name) != 0 || name == nullptr) return "unknown CUDA error " + std::to_string(result);
  if (get_error_string.function(result, &text) != 0 || text == nullptr) return name;
  return std::string(name) + " (" + text + ")";
}

int Driver::version_number() const {
  int version = 0;
  (*this)(driver_get_version, &version);
  return version;
}

std::string Driver::version() const {
  const int version = version_number();
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace ingot::cuda
