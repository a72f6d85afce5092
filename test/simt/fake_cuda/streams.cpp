// Streams, events, and the running of what was put on them.
#include "streams.h"

#include <chrono>

#include "device.h"

namespace fake_cuda {

namespace {

Table<Event>& events() {
  static auto* table = new Table<Event>("events");
  return *table;
}

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void run_first(Stream& stream) {
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  try {
    operation.run();
  } catch (const Refusal& refusal) {
    stream.queue.clear();
    context_of(stream.device).failure = refusal;
    throw;
  }
}

bool has_happened(const Event& event) { return event.happened == event.recorded; }

}  // namespace

Table<Stream>& streams() {
  static auto* table = new Table<Stream>("streams");
  return *table;
}

void enqueue(Stream& stream, Operation operation) {
  if (stream.captured) {
    stream.captured->push_back(std::move(operation));
  } else {
    stream.queue.push_back(std::move(operation));
  }
}

void drain(Stream& stream) {
  while (!stream.queue.empty()) run_first(stream);
}

void drain_all() {
  streams().for_each([](Stream& stream) {
    if (stream.device == current_device()) drain(stream);
  });
}

void forbid_while_capturing() {
  streams().for_each([](const Stream& stream) {
    if (stream.captured && stream.capturing_thread == std::this_thread::get_id()) {
      refuse(kCaptureUnsupported, "this thread is capturing a stream");
    }
  });
}

}  // namespace fake_cuda

using namespace fake_cuda;

FAKE_CUDA_API cuStreamCreate(Handle* stream, unsigned flags) {
  return call("cuStreamCreate", std::to_string(flags), [&] {
    require_context();
    streams().add(stream, std::make_unique<Stream>());
  });
}

FAKE_CUDA_API cuStreamDestroy_v2(Handle stream) {
  return call("cuStreamDestroy_v2", "", [&] {
    require_any_context();
    Stream& destroyed = streams().get(stream);
    if (!context_of(destroyed.device).failure) drain(destroyed);
    streams().remove(stream);
  });
}

FAKE_CUDA_API cuStreamSynchronize(Handle stream) {
  return call("cuStreamSynchronize", "", [&] {
    require_context();
    forbid_while_capturing();
    drain(streams().get(stream));
  });
}

FAKE_CUDA_API cuEventCreate(Handle* event, unsigned flags) {
  return call("cuEventCreate", std::to_string(flags), [&] {
    require_context();
    events().add(event, std::make_unique<Event>());
  });
}

FAKE_CUDA_API cuEventDestroy_v2(Handle event) {
  return call("cuEventDestroy_v2", "", [&] {
    require_any_context();
    events().remove(event);
  });
}

FAKE_CUDA_API cuEventRecord(Handle event, Handle stream) {
  return call("cuEventRecord", "", [&] {
    require_context();
    Stream& on = streams().get(stream);
    Event& recorded = events().get(event);
    if (on.captured) refuse(kCaptureUnsupported, "the fake driver captures launches, copies and memsets only");
    recorded.stream = stream;
    const uint64_t number = ++recorded.recorded;
    enqueue(on, {[event, number] {
              Event* const happened = events().find(event);
              if (happened == nullptr) return;  // destroyed meanwhile, which is allowed
              happened->happened = number;
              happened->at_ms = now_ms();
            }});
  });
}

FAKE_CUDA_API cuEventQuery(Handle event) {
  return call("cuEventQuery", "", [&]() -> Result {
    require_context();
    forbid_while_capturing();
    Event& asked = events().get(event);
    if (!has_happened(asked)) {
      Stream& stream = streams().get(asked.stream);
      if (!stream.queue.empty()) run_first(stream);
    }
    return has_happened(asked) ? kSuccess : kNotReady;
  });
}

FAKE_CUDA_API cuEventSynchronize(Handle event) {
  return call("cuEventSynchronize", "", [&] {
    require_context();
    forbid_while_capturing();
    Event& awaited = events().get(event);
    while (!has_happened(awaited)) run_first(streams().get(awaited.stream));
  });
}

FAKE_CUDA_API cuEventElapsedTime(float* ms, Handle begin, Handle end) {
  return call("cuEventElapsedTime", "", [&]() -> Result {
    require_context();
    const Event& first = events().get(begin);
    const Event& last = events().get(end);
    if (first.recorded == 0 || last.recorded == 0) refuse(kInvalidHandle, "an event was never recorded");
    if (!has_happened(first) || !has_happened(last)) return kNotReady;
    *ms = static_cast<float>(last.at_ms - first.at_ms);
    return kSuccess;
  });
}
