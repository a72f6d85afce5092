#include "kernels.h"

#include <algorithm>

#include "../memory.h"
#include "image.h"

namespace ingot::cuda {

namespace {

constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // gridDim.x
constexpr int kFirstOverlapMajor = 9;
constexpr int kFirstWaitingPtx = 90;                    // code for less has no wait for the kernel before (`wait_for_inputs`)
constexpr int kFirstOverlapDriver = 12030;  // captures programmatic launches into graphs
constexpr int kOldestMajor = 8;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

bool is_wrong_architecture(Result result) {
  return result == kNoBinaryForGpu || result == kInvalidPtx;
}

std::string build_again(const DeviceFacts& facts) {
  if (facts.major < kOldestMajor) return "kernels need sm_80 or later: use another GPU, or the CPU with --target native";
  return std::string("build again with `ingot compile <model> --target cuda:") + (facts.major == 9 ? "sm_90a`" : "sm_80`");
}

}  // namespace

Kernels::Kernels(const Context& context, const std::string& library, const std::vector<KernelSpec>& specs) : driver_(context.driver()) {
  const DeviceFacts facts = context.facts();
  const bool can_overlap = facts.major >= kFirstOverlapMajor && driver_.version_number() >= kFirstOverlapDriver;
  int64_t end = 0;
  for (const KernelSpec& spec : specs) end = std::max(end, spec.offset + spec.bytes);
  const Region file = Region::of_file(library, static_cast<size_t>(end));
  for (const KernelSpec& spec : specs) {
    const std::string kernel = "kernel " + spec.name;
    Kernel found{spec.name, nullptr, static_cast<unsigned>(spec.threads), static_cast<unsigned>(spec.shared_bytes), false};
    const ModuleHandle module = load(context, spec, file.data() + spec.offset);
    const Result result = driver_.module_get_function.function(&found.function, module, spec.name.c_str());
    if (result == kNotFound) fail(library + " has no " + kernel + " at offset " + std::to_string(spec.offset) + ": build it again");
    if (result != 0) fail(kernel + " cannot be had: cuModuleGetFunction failed: " + driver_.words(result));
    int max_threads = 0, ptx_version = 0;
    driver_(driver_.func_get_attribute, &max_threads, kMaxThreadsPerBlock, found.function);
    driver_(driver_.func_get_attribute, &ptx_version, kPtxVersion, found.function);
    found.overlaps = can_overlap && ptx_version >= kFirstWaitingPtx;
    if (spec.threads > max_threads) {
      fail(kernel + " is launched with " + std::to_string(spec.threads) + " threads a block and can have " + std::to_string(max_threads) +
           ": " + build_again(facts));
    }
    if (spec.shared_bytes > facts.shared_bytes_per_block) {
      fail(kernel + " needs " + std::to_string(spec.shared_bytes) + " bytes of shared memory a block, " + context.describe() + " has " +
           std::to_string(facts.shared_bytes_per_block) + ": " + build_again(facts));
    }
    // What a kernel may have without asking, 48 KB, is less what it declares itself.
    if (spec.shared_bytes > 0) {
      try {
        driver_(driver_.func_set_attribute, found.function, kMaxDynamicSharedSizeBytes, static_cast<int>(spec.shared_bytes));
      } catch (const DriverError& error) {  // with its static shared memory it is too much
        fail(kernel + " cannot have " + std::to_string(spec.shared_bytes) + " bytes of dynamic shared memory: " + error.what());
      }
    }
    kernels_.push_back(std::move(found));
  }
}

ModuleHandle Kernels::load(const Context& context, const KernelSpec& spec, const char* image) {
  Module& module = modules_[{spec.offset, spec.bytes}];
  if (module) return module.get();
  const std::string copy(image, static_cast<size_t>(spec.bytes));  // PTX must end in the NUL that c_str() gives
  char log[2048] = {};
  int options[] = {kErrorLogBuffer, kErrorLogBufferSizeBytes};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log - 1)};
  ModuleHandle handle = nullptr;
  const Result result = driver_.module_load_data.function(&handle, copy.c_str(), 2, options, values);
  if (result == 0) {
    module = Module(handle, driver_.module_unload);
    return handle;
  }
  std::string message = "kernel " + spec.name + " does not load: " + driver_.words(result);
  if (log[0] != '\0') message += ": " + std::string(log);
  if (result == kOutOfMemory) fail(message + remedy(result));
  const std::string older = "driver " + driver_.version() +
                            " is older than the compiler of the kernels: update the driver, or build again with an older CUDA toolkit ($NVCC)";
  const DeviceFacts facts = context.facts();
  const std::string architectures = architectures_of(copy.data(), copy.size());
  const bool is_for_this = architectures.find("sm_" + std::to_string(10 * facts.major + facts.minor)) != std::string::npos;
  if (result == kUnsupportedPtxVersion || (is_wrong_architecture(result) && is_for_this)) fail(message + ": " + older);
  if (!is_wrong_architecture(result)) {
    fail(message + ": the kernel library is damaged: build it again with `ingot build`; or " + older);
  }
  fail(message + ": it is built for " + (architectures.empty() ? "another architecture" : architectures) + ", this is an " +
       context.describe() + ": " + build_again(facts));
}

void Kernels::check_blocks(size_t kernel, int64_t blocks) const {
  if (blocks > kMaxBlocks) {
    fail("kernel " + name(kernel) + " would have " + std::to_string(blocks) + " blocks, a grid has at most " + std::to_string(kMaxBlocks) +
         ": compile the model again with lower limits");
  }
}

void Kernels::launch(size_t kernel, int64_t blocks, void** params, const Stream& stream, bool follows_kernel) const {
  const Kernel& found = kernels_[kernel];
  LaunchAttribute overlap{};
  overlap.id = LaunchAttribute::kProgrammaticStreamSerialization;
  overlap.value.programmatic_stream_serialization_allowed = 1;
  const LaunchConfig config{{static_cast<unsigned>(blocks), 1, 1}, {found.threads, 1, 1}, found.shared_bytes, stream.get(), &overlap,
                            found.overlaps && follows_kernel ? 1u : 0u};
  const Result result = driver_.launch_kernel.function(&config, found.function, params, nullptr);
  if (result != 0) throw DriverError(result, "kernel " + found.name + " cannot be launched: " + driver_.words(result));
}

}  // namespace ingot::cuda
