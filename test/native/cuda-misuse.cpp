// Wrong uses of the CUDA driver, one a line of output: what is done, a colon, what the driver says. Run on the fake driver, which is to
// notice each. Arguments: the driver's path and a library of test kernels.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "../../native/cuda/device.h"

using namespace ingot::cuda;

namespace {

template <class Body>
void expect_refusal(const char* what, Body&& body) {
  std::string said = "nothing";
  try {
    body();
  } catch (const std::exception& error) {
    said = error.what();
  }
  std::printf("%s: %s\n", what, said.c_str());
}

void launch(const Driver& cuda, FunctionHandle function, unsigned threads, unsigned shared_bytes, DeviceAddress* argument,
            const Stream& stream) {
  void* params[] = {argument};
  const LaunchConfig config{{1, 1, 1}, {threads, 1, 1}, shared_bytes, stream.get(), nullptr, 0};
  cuda(cuda.launch_kernel, &config, function, params, nullptr);
}

int number_at(const Driver& cuda, DeviceAddress address, const Stream& stream) {
  int number = 0;
  cuda(cuda.memcpy_dtoh, &number, address, sizeof number, stream.get());
  return number;
}

}  // namespace

int main(int, char** argv) {
  const Driver cuda(argv[1]);
  std::ifstream file(argv[2], std::ios::binary);
  const std::string image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());

  expect_refusal("no context", [&] { allocate(cuda, 64); });
  {
    const Context first(cuda, 0), second(cuda, 1);
    first.make_current();
    const Stream stream = create_stream(cuda);
    second.make_current();
    expect_refusal("a stream of another context", [&] { cuda(cuda.stream_synchronize, stream.get()); });
    first.make_current();
  }

  const Context context(cuda, 0);
  const Stream stream = create_stream(cuda);
  ModuleHandle module_handle = nullptr;
  cuda(cuda.module_load_data, &module_handle, image.c_str(), 0u, nullptr, nullptr);
  const Module module(module_handle, cuda.module_unload);
  FunctionHandle count_up = nullptr;
  cuda(cuda.module_get_function, &count_up, module.get(), "count_up");

  const DeviceMemory number = allocate(cuda, 4);
  DeviceAddress address = number.get();
  const PinnedMemory pinned = allocate_pinned(cuda, 16);
  int* const host = static_cast<int*>(pinned.get());

  expect_refusal("memory nobody wrote", [&] { throw std::runtime_error(std::to_string(number_at(cuda, address, stream))); });
  expect_refusal("a read that does not wait", [&] {
    *host = 5;
    cuda(cuda.memset_d8, address, static_cast<unsigned char>(0), size_t{4}, stream.get());
    cuda(cuda.memcpy_dtoh, pinned.get(), address, size_t{4}, stream.get());
    const int too_early = *host;
    cuda(cuda.stream_synchronize, stream.get());
    throw std::runtime_error(std::to_string(too_early) + " then " + std::to_string(*host));
  });
  expect_refusal("replays of a graph, its parameter changed meanwhile", [&] {
    GraphHandle graph = nullptr;
    GraphExecHandle exec = nullptr;
    cuda(cuda.stream_begin_capture, stream.get(), static_cast<int>(kCaptureThreadLocal));
    DeviceAddress parameter = address;
    launch(cuda, count_up, 32, 0, &parameter, stream);
    expect_refusal("an allocation while capturing", [&] { allocate(cuda, 4); });
    cuda(cuda.stream_end_capture, stream.get(), &graph);
    const Owner<GraphHandle> graph_owner(graph, cuda.graph_destroy);
    cuda(cuda.graph_instantiate, &exec, graph, 0ull);
    const GraphExec exec_owner(exec, cuda.graph_exec_destroy);
    parameter = 0;
    const int before = number_at(cuda, address, stream);
    cuda(cuda.graph_launch, exec, stream.get());
    cuda(cuda.graph_launch, exec, stream.get());
    throw std::runtime_error(std::to_string(before) + " then " + std::to_string(number_at(cuda, address, stream)));
  });
  expect_refusal("a copy that leaves its memory", [&] { cuda(cuda.memcpy_htod, address, pinned.get(), size_t{8}, stream.get()); });
  expect_refusal("a copy that leaves its pinned block", [&] {
    const DeviceMemory larger = allocate(cuda, 64);
    cuda(cuda.memcpy_htod, larger.get(), host + 3, size_t{8}, stream.get());
  });
  expect_refusal("freed memory", [&] {
    const DeviceAddress freed = allocate(cuda, 4).get();
    cuda(cuda.memset_d8, freed, static_cast<unsigned char>(0), size_t{4}, stream.get());
  });
  expect_refusal("memory freed twice", [&] {
    const DeviceAddress freed = allocate(cuda, 4).get();
    cuda(cuda.mem_free, freed);
  });
  expect_refusal("a destroyed event", [&] {
    const EventHandle event = create_event(cuda).get();
    cuda(cuda.event_record, event, stream.get());
  });
  expect_refusal("an event for a stream", [&] {
    const Event event = create_event(cuda);
    cuda(cuda.stream_synchronize, reinterpret_cast<StreamHandle>(event.get()));
  });
  expect_refusal("a missing kernel", [&] {
    FunctionHandle missing = nullptr;
    cuda(cuda.module_get_function, &missing, module.get(), "missing");
  });
  expect_refusal("2,048 threads", [&] { launch(cuda, count_up, 2048, 0, &address, stream); });
  expect_refusal("64 KB of shared memory unasked", [&] { launch(cuda, count_up, 32, 64 << 10, &address, stream); });
  expect_refusal("1 MB of shared memory", [&] {
    cuda(cuda.func_set_attribute, count_up, static_cast<int>(kMaxDynamicSharedSizeBytes), 1 << 20);
  });
  expect_refusal("an attribute nobody knows", [&] {
    void* params[] = {&address};
    LaunchAttribute attribute{};
    attribute.id = 99;
    const LaunchConfig config{{1, 1, 1}, {32, 1, 1}, 0, stream.get(), &attribute, 1};
    cuda(cuda.launch_kernel, &config, count_up, params, nullptr);
  });
  expect_refusal("pinned memory freed before its copy", [&] {
    cuda(cuda.memcpy_htod, address, allocate_pinned(cuda, 4).get(), size_t{4}, stream.get());
    cuda(cuda.stream_synchronize, stream.get());
  });
  expect_refusal("anything after a failure", [&] { create_event(cuda); });
  // What is not destroyed is a leak that the end of the process reports.
  std::fflush(stdout);
  std::exit(0);
}
