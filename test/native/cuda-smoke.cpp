// The CUDA executor without JavaScript: a few programs of the test kernels, their results compared, their times printed.
//
// For machines with a GPU and no Node.js; it runs on the fake driver as well. Arguments: the driver's path, and cuda-kernels.cu as an image.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a -Itemplates -fatbin
//        test/native/cuda-kernels.cu -o kernels.fatbin
//   g++ -std=c++17 -O2 test/native/cuda-smoke.cpp native/cuda/*.cpp native/grid.cpp native/memory.cpp -o smoke -ldl -pthread
//   ./smoke libcuda.so.1 kernels.fatbin
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <vector>

#include "../../native/cuda/executor.h"

using namespace ingot;

namespace {

constexpr int kLongProgram = 150;

// Jobs that are running, and what the device took for the last that was done.
struct Results {
  std::mutex mutex;
  std::condition_variable changed;
  int running = 0;
  double ms = 0;
  std::string error;

  void wait(int most_running) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return running <= most_running; });
    if (error.empty()) return;
    std::printf("FAILED: %s\n", error.c_str());
    std::exit(1);
  }
} results;

void submit(CudaExecutor& executor, size_t program, int32_t tokens, std::vector<int32_t>& in, std::vector<int32_t>& out,
            std::vector<Tap> taps = {}) {
  results.wait(1);
  const int32_t launched = (tokens + 7) / 8 * 8;
  Job job{program, {tokens, 1, 1, 1}, {launched, 1, 1, 1}, {{in.data(), in.size() * 4}, {out.data(), out.size() * 4}}, std::move(taps), {}};
  job.done = [](double ms, const std::string& error) {
    const std::lock_guard<std::mutex> lock(results.mutex);
    --results.running;
    results.ms = ms;
    if (!error.empty()) results.error = error;
    results.changed.notify_one();
  };
  {
    const std::lock_guard<std::mutex> lock(results.mutex);
    ++results.running;
  }
  executor.submit(std::move(job));
}

void expect(const char* what, long found, long expected) {
  if (found == expected) return;
  std::printf("FAILED: %s is %ld, expected %ld\n", what, found, expected);
  std::exit(1);
}

CudaExecutorSpec spec_of(const char* driver, const char* library, const char* weights) {
  std::ifstream file(library, std::ios::binary | std::ios::ate);
  const auto bytes = static_cast<int64_t>(file.tellg());
  CudaExecutorSpec spec{driver, 0, library, {}, weights, 0, 4096, 4096, {{64, false}, {64, true}}, {}, {}};
  for (const char* name : {"see", "append", "set_to", "count_up", "through_shared"}) spec.kernels.push_back({name, 0, bytes, 32, 0});
  spec.kernels[4] = {"through_shared", 0, bytes, 256, 25600 * 4};
  using Space = ArgSpec::Space;
  const std::vector<GridOp> one = {{GridOp::Kind::kNumber, 1}}, tokens = {{GridOp::Kind::kSymbol, 0}};
  const ArgSpec in{Space::kArray, 0}, out{Space::kArray, 1};
  spec.programs = {
      {{0, tokens, {{Space::kSymbol, 0}, {Space::kSymbol, 1}, {Space::kSymbol, 2}, {Space::kSymbol, 3}, out}}},
      {{1, tokens, {in, out}}},
      {{2, one, {in, out}}},
      std::vector<CudaStepSpec>(kLongProgram, CudaStepSpec{3, one, {{Space::kArena, 256}}}),
      {{4, one, {out}}},
  };
  return spec;
}

}  // namespace

int main(int count, char** argv) {
  if (count != 3) {
    std::printf("usage: %s libcuda.so.1 kernels.fatbin\n", argv[0]);
    return 2;
  }
  {
    const cuda::Driver driver(argv[1]);
    std::printf("%s\n", cuda::Context(driver, 0).describe().c_str());
  }
  CudaExecutor executor(spec_of(argv[1], argv[2], argv[0]));
  std::vector<int32_t> in(1), out(8);

  for (int32_t tokens = 9; tokens <= 16; ++tokens) {
    submit(executor, 0, tokens, in, out);
    results.wait(0);
    expect("the grid", out[0], 16);
    expect("T", out[1], tokens);
  }

  submit(executor, 2, 1, in = {0}, out);
  results.wait(0);
  constexpr int kRuns = 200;
  std::vector<std::vector<int32_t>> ins(kRuns), outs(kRuns, std::vector<int32_t>(1));
  for (int i = 0; i < kRuns; ++i) submit(executor, 1, 1 + i % 20, ins[static_cast<size_t>(i)] = {i % 10}, outs[static_cast<size_t>(i)]);
  results.wait(0);
  uint32_t appended = 0;
  for (int i = 0; i < kRuns; ++i) {
    appended = appended * 10 + static_cast<uint32_t>(i % 10);
    expect("what runs in flight append", outs[static_cast<size_t>(i)][0], static_cast<int32_t>(appended));
  }

  submit(executor, 4, 1, in, out);
  results.wait(0);
  expect("the last number in shared memory", out[0], 25599);

  int32_t counted = 0;
  for (int i = 1; i <= 20; ++i) {
    submit(executor, 3, 1, in, out);
    results.wait(0);
    if (i == 1 || i == 20) std::printf("%d kernels, %s: %.3f ms\n", kLongProgram, i == 1 ? "launched one by one" : "replayed", results.ms);
  }
  executor.set_profiling(true);
  submit(executor, 3, 1, in, out, {{kLongProgram - 1, 256, &counted, sizeof counted}});
  results.wait(0);
  expect("what kernels count one after the other", counted, kLongProgram * 21);
  expect("the number of times", static_cast<long>(executor.step_ms().size()), kLongProgram);

  std::vector<int32_t> larger(1000, 3);
  submit(executor, 1, 1, larger, out);
  results.wait(0);
  expect("what is appended after arrays grew", out[0], 25599 * 10 + 3);

  executor.close([] {
    const std::lock_guard<std::mutex> lock(results.mutex);
    results.running = -1;
    results.changed.notify_one();
  });
  results.wait(-1);
  std::printf("ok\n");
  return 0;
}
