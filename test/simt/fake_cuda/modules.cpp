// Modules and launches. A module image is the bytes of a shared library for this processor, made by test/simt/nvcc; each kernel NAME is
// entered through NAME__simt, says in NAME__simt_params how many parameters it has, in NAME__simt_ptx what it was built for.
//
// Real device images are recognized only to be refused as the driver refuses them.
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "device.h"
#include "streams.h"

namespace fake_cuda {

namespace {

constexpr int kMaxThreads = 1024;
constexpr int kSharedWithoutAsking = (48 << 10) - 1024;  // the rest is for what a kernel declares, which is not known here
constexpr int kFirstWaitingPtx = 90;
constexpr uint16_t kElfMachineCuda = 190;
constexpr uint32_t kFatbinMagic = 0xba55ed50;

// Loaded once per content and never unloaded: operations that enter it may wait on a stream, and the emulator remembers source lines by
// address.
struct Library {
  int file = -1;
  void* handle = nullptr;
};
struct Module : Owned {
  const Library* library = nullptr;
};
struct Function {
  Handle module = 0;
  std::string name;
  simt::Entry entry = nullptr;
  size_t num_params = 0;
  int ptx_version = 0;
  int max_dynamic_bytes = kSharedWithoutAsking;
};

Table<Module>& modules() {
  static auto* table = new Table<Module>("modules");
  return *table;
}
// Functions live as long as their module and are not leaks of their own.
std::map<Handle, std::unique_ptr<Function>>& functions() {
  static auto* map = new std::map<Handle, std::unique_ptr<Function>>;
  return *map;
}
Function& function_of(Handle handle) {
  const auto found = functions().find(handle);
  if (found == functions().end()) refuse(kInvalidHandle, "this is no function, or its module is unloaded");
  modules().get(found->second->module);
  return *found->second;
}

// Kernels find the emulator in this library, which was loaded for its caller alone.
void show_emulator_to_kernels() {
  Dl_info self{};
  dladdr(reinterpret_cast<void*>(&show_emulator_to_kernels), &self);
  if (dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == nullptr) refuse(kInvalidImage, dlerror());
}

size_t elf_bytes(const char* image) {
  Elf64_Ehdr header;
  memcpy(&header, image, sizeof header);
  size_t end = header.e_shoff + size_t{header.e_shnum} * header.e_shentsize;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    memcpy(&segment, image + header.e_phoff + size_t(i) * header.e_phentsize, sizeof segment);
    end = std::max<size_t>(end, segment.p_offset + segment.p_filesz);
  }
  return end;
}

const Library* load_library(const char* image) {
  static auto* loaded = new std::map<std::string, Library>;
  const size_t bytes = elf_bytes(image);
  Library& library = (*loaded)[std::string(image, bytes)];
  if (library.handle != nullptr) return &library;
  library.file = memfd_create("kernels", MFD_CLOEXEC);
  if (library.file < 0 || write(library.file, image, bytes) != static_cast<ssize_t>(bytes)) refuse(kOutOfMemory, "no memory for a module");
  // By the process's number, not /proc/self: addr2line, a child, reads the lines of reports from there.
  const std::string path = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(library.file);
  show_emulator_to_kernels();
  library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library.handle == nullptr) refuse(kInvalidImage, dlerror());
  return &library;
}

std::string word_after(const std::string& text, const std::string& directive) {
  const size_t at = text.find(directive);
  if (at == std::string::npos) refuse(kInvalidImage, "the image is neither a shared library nor a fat binary, a cubin or PTX");
  const size_t begin = at + directive.size();
  return text.substr(begin, text.find_first_of(", \t\r\n", begin) - begin);
}

// PTX ISA 8.4 came with CUDA 12.4, 9.0 with 13.0.
[[noreturn]] void refuse_ptx(const std::string& text) {
  const double version = atof(word_after(text, ".version ").c_str());
  const std::string target = word_after(text, ".target ");
  const double known = model().driver_version / 1000 - 4 + model().driver_version % 1000 / 100.0;
  if (version > known + 0.001) refuse(kUnsupportedPtxVersion, "PTX " + word_after(text, ".version "));
  if (atoi(target.c_str() + 3) > model().sm) refuse(kInvalidPtx, "target " + target);
  refuse(kInvalidPtx, "the fake driver compiles no PTX");
}

const Library* load(const char* image) {
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic == kFatbinMagic) refuse(kNoBinaryForGpu, "");
  if (memcmp(image, ELFMAG, SELFMAG) != 0) refuse_ptx(image);
  uint16_t machine;
  memcpy(&machine, image + offsetof(Elf64_Ehdr, e_machine), sizeof machine);
  if (machine == kElfMachineCuda) refuse(kNoBinaryForGpu, "");
  return load_library(image);
}

struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char bytes[64];
    int programmatic_stream_serialization_allowed;
  } value;
};
struct LaunchConfig {
  unsigned grid[3], block[3], shared_bytes;
  Handle stream;
  const LaunchAttribute* attributes;
  unsigned num_attributes;
};
constexpr int kProgrammaticStreamSerialization = 6;

bool overlaps(const Function& function, const LaunchConfig& config) {
  bool is_asked = false;
  for (unsigned i = 0; i < config.num_attributes; ++i) {
    if (config.attributes[i].id != kProgrammaticStreamSerialization) {
      refuse(kInvalidValue, "the fake driver does not know this launch attribute");
    }
    is_asked |= config.attributes[i].value.programmatic_stream_serialization_allowed != 0;
  }
  if (is_asked && model().sm < 90) refuse(kNotSupported, "programmatic stream serialization needs sm_90");
  if (is_asked && function.ptx_version < kFirstWaitingPtx) {
    refuse(kInvalidValue, function.name + " would overlap the kernel before, and is built for sm_" + std::to_string(function.ptx_version) +
                              ", where wait_for_inputs does not wait");
  }
  return is_asked;
}

void check_shape(const Function& function, const LaunchConfig& config) {
  const unsigned(&grid)[3] = config.grid;
  const unsigned(&block)[3] = config.block;
  if (grid[0] == 0 || grid[0] > 0x7fffffffu || grid[1] != 1 || grid[2] != 1) {
    refuse(kInvalidValue, "a grid of " + std::to_string(grid[0]) + " blocks");
  }
  if (block[0] == 0 || block[0] > kMaxThreads || block[1] != 1 || block[2] != 1) {
    refuse(kInvalidValue, "a block of " + std::to_string(block[0]) + " threads, at most " + std::to_string(kMaxThreads) + " are possible");
  }
  if (config.shared_bytes > static_cast<unsigned>(function.max_dynamic_bytes)) {
    refuse(kInvalidValue, std::to_string(config.shared_bytes) + " bytes of dynamic shared memory, " +
                              std::to_string(function.max_dynamic_bytes) + " are allowed: cuFuncSetAttribute allows more");
  }
}

Operation launch_of(const Function& function, const LaunchConfig& config, void** params, bool overlaps) {
  // Parameters are read now and not when the kernel runs, as the driver does.
  std::vector<uint64_t> values(function.num_params);
  for (size_t i = 0; i < values.size(); ++i) memcpy(&values[i], params[i], sizeof values[i]);
  return {[name = function.name, entry = function.entry, values, blocks = config.grid[0], threads = config.block[0],
           bytes = config.shared_bytes, overlaps]() mutable {
    std::vector<void*> pointers;
    for (uint64_t& value : values) pointers.push_back(&value);
    const std::string report =
        simt::launch(entry, static_cast<int>(blocks), static_cast<int>(threads), bytes, pointers.data(), model().schedule, overlaps);
    if (!report.empty()) refuse(kLaunchFailed, name + ": " + report);
  }};
}

}  // namespace

}  // namespace fake_cuda

using namespace fake_cuda;

// Of the options, the buffer for errors of the compiler of PTX is used.
FAKE_CUDA_API cuModuleLoadDataEx(Handle* module, const void* image, unsigned num_options, int* options, void** values) {
  return call("cuModuleLoadDataEx", "", [&] {
    require_context();
    forbid_while_capturing();
    char* log = nullptr;
    size_t log_bytes = 0;
    for (unsigned i = 0; i < num_options; ++i) {
      if (options[i] == 5) log = static_cast<char*>(values[i]);                  // ERROR_LOG_BUFFER
      if (options[i] == 6) log_bytes = reinterpret_cast<uintptr_t>(values[i]);  // ERROR_LOG_BUFFER_SIZE_BYTES
    }
    auto loaded = std::make_unique<Module>();
    try {
      loaded->library = load(static_cast<const char*>(image));
    } catch (const Refusal& refusal) {
      if (refusal.result == kInvalidPtx && log != nullptr) snprintf(log, log_bytes, "ptxas fatal   : %s", refusal.message.c_str());
      throw;
    }
    modules().add(module, std::move(loaded));
  });
}

FAKE_CUDA_API cuModuleUnload(Handle module) {
  return call("cuModuleUnload", "", [&] {
    require_any_context();
    modules().remove(module);
    for (auto at = functions().begin(); at != functions().end();) at = at->second->module == module ? functions().erase(at) : std::next(at);
  });
}

FAKE_CUDA_API cuModuleGetFunction(Handle* function, Handle module, const char* name) {
  return call("cuModuleGetFunction", name, [&] {
    require_context();
    auto found = std::make_unique<Function>();
    found->module = module;
    found->name = name;
    void* const library = modules().get(module).library->handle;
    found->entry = reinterpret_cast<simt::Entry>(dlsym(library, (found->name + "__simt").c_str()));
    if (found->entry == nullptr) refuse(kNotFound, "");
    const auto number = [&](const char* suffix) {
      const void* const place = dlsym(library, (found->name + suffix).c_str());
      if (place == nullptr) refuse(kInvalidImage, "the image has " + found->name + "__simt and no " + found->name + suffix);
      int value;
      memcpy(&value, place, sizeof value);
      return value;
    };
    found->num_params = static_cast<size_t>(number("__simt_params"));
    found->ptx_version = number("__simt_ptx");
    *function = next_handle();
    functions()[*function] = std::move(found);
  });
}

FAKE_CUDA_API cuFuncGetAttribute(int* value, int attribute, Handle function) {
  return call("cuFuncGetAttribute", std::to_string(attribute), [&] {
    require_context();
    const Function& asked = function_of(function);
    switch (attribute) {
      case 0: *value = kMaxThreads; break;
      case 5: *value = asked.ptx_version; break;
      case 8: *value = asked.max_dynamic_bytes; break;
      default: refuse(kInvalidValue, "the fake driver does not know attribute " + std::to_string(attribute));
    }
  });
}

FAKE_CUDA_API cuFuncSetAttribute(Handle function, int attribute, int value) {
  return call("cuFuncSetAttribute", std::to_string(attribute) + " " + std::to_string(value), [&] {
    require_context();
    Function& changed = function_of(function);
    if (attribute != 8) refuse(kInvalidValue, "the fake driver cannot set attribute " + std::to_string(attribute));
    const int limit = max_shared_bytes();
    if (value < 0 || value > limit) refuse(kInvalidValue, "at most " + std::to_string(limit) + " bytes are possible");
    changed.max_dynamic_bytes = value;
  });
}

FAKE_CUDA_API cuLaunchKernelEx(const LaunchConfig* config, Handle function, void** params, void** extra) {
  std::string detail;
  {
    const std::lock_guard<std::mutex> lock(one_call());
    const auto found = functions().find(function);
    detail = found == functions().end() ? "?" : found->second->name;
    const Stream* const stream = streams().find(config->stream);
    detail += " blocks=" + std::to_string(config->grid[0]) + " threads=" + std::to_string(config->block[0]) +
              " shared=" + std::to_string(config->shared_bytes) + (config->num_attributes > 0 ? " overlaps" : "") +
              (stream != nullptr && stream->captured ? " captured" : "");
  }
  return call("cuLaunchKernelEx", detail, [&] {
    require_context();
    const Function& launched = function_of(function);
    if (extra != nullptr) refuse(kInvalidValue, "extra must be null");
    if (params == nullptr && launched.num_params > 0) refuse(kInvalidValue, launched.name + " has parameters and none are given");
    const bool is_overlapping = overlaps(launched, *config);
    check_shape(launched, *config);
    enqueue(streams().get(config->stream), launch_of(launched, *config, params, is_overlapping));
  });
}
