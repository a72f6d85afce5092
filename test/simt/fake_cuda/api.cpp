// The lock, the log and the words for results.
#include "api.h"

#include <stdio.h>
#include <stdlib.h>

namespace fake_cuda {

namespace {

// Never destroyed: calls come until the process is gone.
std::string* log_path = new std::string;
std::string* failing_name = new std::string;
int calls_until_failure = 0;
thread_local Refusal last_refusal{kSuccess, ""};

struct Words {
  Result result;
  const char* name;
  const char* text;
};
constexpr Words kWords[] = {
    {kSuccess, "CUDA_SUCCESS", "no error"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {kNoBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {kInvalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {kUnsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {kLaunchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {kCaptureUnmatched, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"},
};

const Words* find_words(Result result) {
  for (const Words& words : kWords) {
    if (words.result == result) return &words;
  }
  return nullptr;
}

}  // namespace

void refuse(Result result, const std::string& message) { throw Refusal{result, message}; }

std::mutex& one_call() {
  static std::mutex* mutex = new std::mutex;
  return *mutex;
}

void read_settings() {
  const auto text_of = [](const char* variable) { return std::string(getenv(variable) == nullptr ? "" : getenv(variable)); };
  *log_path = text_of("INGOT_FAKE_CUDA_LOG");
  const std::string failure = text_of("INGOT_FAKE_CUDA_FAIL");
  const size_t blank = failure.find(' ');
  *failing_name = failure.substr(0, blank);
  calls_until_failure = blank == std::string::npos ? 0 : atoi(failure.c_str() + blank);
}

void fail_on_purpose(const char* name) {
  const std::string called = name;
  if (calls_until_failure == 0 || called == "cuInit") return;
  if (*failing_name == "*") {
    // Giving back does not fail: what is left after it would be no one's leak.
    for (const char* part : {"Free", "Destroy", "Release", "Unload", "EndCapture", "CtxSetCurrent", "CtxGetCurrent"}) {
      if (called.find(part) != std::string::npos) return;
    }
  } else if (*failing_name != called) {
    return;
  }
  if (--calls_until_failure == 0) refuse(kInvalidValue, "failed on purpose");
}

void log_line(const std::string& line) {
  if (log_path->empty()) return;
  FILE* const file = fopen(log_path->c_str(), "a");
  if (file == nullptr) return;
  fprintf(file, "%s\n", line.c_str());
  fclose(file);
}

void log_call(const char* name, const std::string& detail, Result result, const std::string& message) {
  std::string line = name;
  if (!detail.empty()) line += " " + detail;
  if (result != kSuccess) line += std::string(" = ") + (find_words(result) == nullptr ? std::to_string(result) : find_words(result)->name);
  if (!message.empty()) line += ": " + message;
  log_line(line);
}

void remember(const Refusal& refusal) { last_refusal = refusal; }

std::vector<AnyTable*>& all_tables() {
  static auto* tables = new std::vector<AnyTable*>;
  return *tables;
}

AnyTable::AnyTable(const char* kind) : kind(kind) { all_tables().push_back(this); }

Handle next_handle() {
  static Handle last = 0x1000;
  return last += 0x10;
}

}  // namespace fake_cuda

using namespace fake_cuda;

FAKE_CUDA_API cuGetErrorName(Result result, const char** name) {
  const Words* const words = find_words(result);
  *name = words == nullptr ? nullptr : words->name;
  return words == nullptr ? kInvalidValue : kSuccess;
}

FAKE_CUDA_API cuGetErrorString(Result result, const char** text) {
  static thread_local std::string said;
  const Words* const words = find_words(result);
  if (words == nullptr) return kInvalidValue;
  said = words->text;
  // The driver only has the general words; a test wants to know what was wrong.
  if (last_refusal.result == result && !last_refusal.message.empty()) said += ": " + last_refusal.message;
  *text = said.c_str();
  return kSuccess;
}
