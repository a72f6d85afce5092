// Streams as queues: nothing on them happens before somebody waits, so that a wait that is missing shows.
//
// An event query runs one operation, as if time had passed; synchronizing runs all up to its point.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "api.h"

namespace fake_cuda {

struct Operation {
  std::function<void()> run;  // a Refusal ends the context
};

struct Stream : Owned {
  std::deque<Operation> queue;
  std::unique_ptr<std::vector<Operation>> captured;  // while capturing
  std::thread::id capturing_thread;
};

struct Event : Owned {
  Handle stream = 0;       // where it was last recorded
  uint64_t recorded = 0;   // times
  uint64_t happened = 0;   // the last of them that has
  double at_ms = 0;
};

Table<Stream>& streams();
// Puts an operation on the stream, or into the graph that it captures.
void enqueue(Stream& stream, Operation operation);
void drain(Stream& stream);
// Waits for everything in the current context.
void drain_all();
// Refuses while this thread captures: the call would wait for work that is only being recorded.
void forbid_while_capturing();

}  // namespace fake_cuda
