// Captured programs, one for each program and launch symbols, the least recently used leaving first.
//
// Decides what is worth capturing: the first run of a key launches directly, the second captures.
#pragma once

#include <array>
#include <cstdint>
#include <list>

#include "../program.h"
#include "device.h"

namespace ingot::cuda {

struct GraphKey {
  size_t program;
  std::array<int32_t, kNumSymbols> launch_symbols;
  bool operator==(const GraphKey& other) const { return program == other.program && launch_symbols == other.launch_symbols; }
};

class Graphs {
 public:
  static constexpr size_t kMaxGraphs = 64;

  // The graph of `key`, which is now the most recently used; nullptr if there is none.
  GraphExecHandle find(const GraphKey& key);
  // Whether `key` was asked about before, among the last kMaxGraphs that were.
  bool was_seen(const GraphKey& key);
  GraphExecHandle keep(const GraphKey& key, GraphExec graph);
  // Forgets all graphs, not which keys were seen.
  void clear() { graphs_.clear(); }

 private:
  struct Captured {
    GraphKey key;
    GraphExec graph;
  };
  std::list<Captured> graphs_;  // most recently used first
  std::list<GraphKey> seen_;
};

// What `body` launches on `stream`, as a graph; nothing of it has run. Throws what `body` or the driver throws.
template <class Body>
GraphExec capture(const Driver& driver, const Stream& stream, Body&& body) {
  GraphHandle handle = nullptr;
  driver(driver.stream_begin_capture, stream.get(), static_cast<int>(kCaptureThreadLocal));
  try {
    body();
  } catch (...) {
    driver.stream_end_capture.function(stream.get(), &handle);
    const Owner<GraphHandle> dropped(handle, driver.graph_destroy);
    throw;
  }
  driver(driver.stream_end_capture, stream.get(), &handle);
  const Owner<GraphHandle> graph(handle, driver.graph_destroy);
  GraphExecHandle exec = nullptr;
  driver(driver.graph_instantiate, &exec, graph.get(), 0ull);
  return {exec, driver.graph_exec_destroy};
}

}  // namespace ingot::cuda
