// The kernels of an engine on its device: modules loaded from the library file, functions checked against their launches.
//
// Knows no programs: a launch gets its blocks and its argument pointers from the executor.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "device.h"

namespace ingot::cuda {

struct KernelSpec {
  std::string name;  // symbol in the image
  int64_t offset;    // of the image in the library file; kernels may share one
  int64_t bytes;
  int threads;           // a block
  int64_t shared_bytes;  // dynamic
};

class Kernels {
 public:
  // Throws std::runtime_error naming the kernel when its image does not fit the device or it cannot be launched as the spec says.
  Kernels(const Context& context, const std::string& library, const std::vector<KernelSpec>& specs);

  const std::string& name(size_t kernel) const { return kernels_[kernel].name; }
  // Throws unless a grid can have so many blocks.
  void check_blocks(size_t kernel, int64_t blocks) const;
  // `params[i]` points at the i-th argument's value. Where the launch before on `stream` is a kernel's and nothing came between, the
  // two may overlap up to this one's wait.
  void launch(size_t kernel, int64_t blocks, void** params, const Stream& stream, bool follows_kernel) const;

 private:
  struct Kernel {
    std::string name;
    FunctionHandle function;
    unsigned threads;
    unsigned shared_bytes;
    bool overlaps;  // programmatic dependent launch
  };
  ModuleHandle load(const Context& context, const KernelSpec& spec, const char* image);

  const Driver& driver_;
  std::map<std::pair<int64_t, int64_t>, Module> modules_;
  std::vector<Kernel> kernels_;
};

}  // namespace ingot::cuda
