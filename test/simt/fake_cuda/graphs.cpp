// Capture as recording, graphs as what was recorded, replay as putting it on a stream again with the parameters it was recorded with.
#include "device.h"
#include "streams.h"

namespace fake_cuda {

namespace {

struct Graph : Owned {
  std::vector<Operation> operations;
};
struct GraphExec : Owned {
  std::vector<Operation> operations;
};

Table<Graph>& graphs() {
  static auto* table = new Table<Graph>("graphs");
  return *table;
}
Table<GraphExec>& graph_execs() {
  static auto* table = new Table<GraphExec>("executable graphs");
  return *table;
}

}  // namespace

}  // namespace fake_cuda

using namespace fake_cuda;

FAKE_CUDA_API cuStreamBeginCapture_v2(Handle stream, int mode) {
  return call("cuStreamBeginCapture_v2", std::to_string(mode), [&] {
    require_context();
    Stream& captured = streams().get(stream);
    if (captured.captured) refuse(kInvalidValue, "the stream is capturing already");
    captured.captured = std::make_unique<std::vector<Operation>>();
    captured.capturing_thread = std::this_thread::get_id();
  });
}

FAKE_CUDA_API cuStreamEndCapture(Handle stream, Handle* graph) {
  return call("cuStreamEndCapture", "", [&] {
    require_context();
    Stream& captured = streams().get(stream);
    if (!captured.captured) refuse(kCaptureUnmatched, "the stream is not capturing");
    auto made = std::make_unique<Graph>();
    made->operations = std::move(*captured.captured);
    captured.captured.reset();
    graphs().add(graph, std::move(made));
  });
}

FAKE_CUDA_API cuGraphInstantiateWithFlags(Handle* exec, Handle graph, unsigned long long flags) {
  return call("cuGraphInstantiateWithFlags", std::to_string(flags), [&] {
    require_context();
    auto made = std::make_unique<GraphExec>();
    made->operations = graphs().get(graph).operations;
    graph_execs().add(exec, std::move(made));
  });
}

FAKE_CUDA_API cuGraphLaunch(Handle exec, Handle stream) {
  return call("cuGraphLaunch", "", [&] {
    require_context();
    Stream& on = streams().get(stream);
    if (on.captured) refuse(kCaptureUnsupported, "the fake driver captures launches, copies and memsets only");
    for (const Operation& operation : graph_execs().get(exec).operations) enqueue(on, operation);
  });
}

FAKE_CUDA_API cuGraphDestroy(Handle graph) {
  return call("cuGraphDestroy", "", [&] {
    require_any_context();
    graphs().remove(graph);
  });
}

// One that is on a stream still runs: the stream has its operations.
FAKE_CUDA_API cuGraphExecDestroy(Handle exec) {
  return call("cuGraphExecDestroy", "", [&] {
    require_any_context();
    graph_execs().remove(exec);
  });
}
