#include "graphs.h"

#include <algorithm>
#include <utility>

namespace ingot::cuda {

GraphExecHandle Graphs::find(const GraphKey& key) {
  const auto found = std::find_if(graphs_.begin(), graphs_.end(), [&](const Captured& captured) { return captured.key == key; });
  if (found == graphs_.end()) return nullptr;
  graphs_.splice(graphs_.begin(), graphs_, found);
  return found->graph.get();
}

bool Graphs::was_seen(const GraphKey& key) {
  const auto found = std::find(seen_.begin(), seen_.end(), key);
  if (found != seen_.end()) {
    seen_.splice(seen_.begin(), seen_, found);
    return true;
  }
  seen_.push_front(key);
  if (seen_.size() > kMaxGraphs) seen_.pop_back();
  return false;
}

GraphExecHandle Graphs::keep(const GraphKey& key, GraphExec graph) {
  graphs_.push_front({key, std::move(graph)});
  if (graphs_.size() > kMaxGraphs) graphs_.pop_back();  // one that still runs is freed by the driver when it ends
  return graphs_.front().graph.get();
}

}  // namespace ingot::cuda
