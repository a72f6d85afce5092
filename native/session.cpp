#include "session.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace ingot {

namespace {

void read_symbols(Napi::Env env, Napi::Value value, const char* name, int32_t (&symbols)[kNumSymbols]) {
  const char* const kExpected = "an Int32Array of 4 (T, B, S, P)";
  const Napi::TypedArray array = to_typed_array(env, value, name, kExpected);
  if (array.TypedArrayType() != napi_int32_array || array.ElementLength() != kNumSymbols) bad_type(env, name, kExpected);
  for (uint32_t i = 0; i < kNumSymbols; ++i) {
    symbols[i] = reinterpret_cast<const int32_t*>(data_of(array))[i];
    if (symbols[i] < 0) throw Napi::RangeError::New(env, std::string(name) + "[" + std::to_string(i) + "] must not be negative");
  }
}

}  // namespace

std::shared_ptr<Session> Session::create(Napi::Env env, std::unique_ptr<ProgramExecutor> executor, size_t num_arrays) {
  auto session = std::make_shared<Session>(env, std::move(executor), num_arrays);
  session->queue_ = Queue::New(env, "ingot executor", 0, 1, session.get());
  session->queue_.Unref(env);  // an idle executor does not keep the process alive
  // Added after the queue's own hook and so called before it: the engine thread is gone when the queue closes.
  napi_add_env_cleanup_hook(env, on_environment_end, session.get());
  session->open_ = true;
  return session;
}

Session::Session(Napi::Env env, std::unique_ptr<ProgramExecutor> executor, size_t num_arrays)
    : env_(env), num_arrays_(static_cast<uint32_t>(num_arrays)), executor_(std::move(executor)) {}

Session::~Session() {
  executor_.reset();
  if (!open_) return;
  napi_remove_env_cleanup_hook(env_, on_environment_end, this);
  queue_.Release();
}

void Session::on_environment_end(void* session) { static_cast<Session*>(session)->shut_down(); }

// Stops after the current step, without telling JavaScript.
void Session::shut_down() {
  const std::shared_ptr<Session> alive = shared_from_this();
  executor_.reset();
  if (open_) queue_.Release();
  open_ = false;
  self_.reset();
}

void Session::post(bool closed, double ms, const std::string& error) {
  auto completion = std::make_unique<Completion>(Completion{closed, ms, error});
  // The queue is unbounded; anything but success means that the environment is ending and nobody listens.
  if (queue_.NonBlockingCall(completion.get()) == napi_ok) static_cast<void>(completion.release());
}

void Session::deliver(Napi::Env env, Napi::Function, Session* session, Completion* data) {
  const std::unique_ptr<Completion> completion(data);
  if (static_cast<napi_env>(env) == nullptr) return;  // drained while the environment ends; the session may be gone
  if (completion->closed) {
    session->on_closed(env);
  } else {
    session->on_done(env, *completion);
  }
}

void Session::on_done(Napi::Env env, const Completion& completion) {
  const Pending pending = std::move(pending_.front());
  pending_.pop_front();
  std::shared_ptr<Session> alive = self_;
  if (!closing_ && pending_.empty()) {
    queue_.Unref(env);
    self_.reset();
  }
  if (completion.error.empty()) {
    pending.promise.Resolve(Napi::Number::New(env, completion.ms));
  } else {
    pending.promise.Reject(Napi::Error::New(env, completion.error).Value());
  }
}

void Session::on_closed(Napi::Env env) {
  const std::shared_ptr<Session> alive = std::move(self_);
  executor_.reset();
  napi_remove_env_cleanup_hook(env_, on_environment_end, this);
  queue_.Unref(env);
  queue_.Release();
  open_ = false;
  closing_->Resolve(env.Undefined());
}

Job Session::parse_job(const Napi::CallbackInfo& info, Napi::Array kept) const {
  const Napi::Env env = info.Env();
  Job job{};
  job.program = static_cast<size_t>(to_integer(env, info[0], "program", 0, static_cast<int64_t>(executor_->num_programs()) - 1));
  size_t next = 1;
  read_symbols(env, info[next++], "symbols", job.symbols);
  std::copy(std::begin(job.symbols), std::end(job.symbols), job.launch_symbols);
  if (executor_->has_launch_symbols()) {
    read_symbols(env, info[next++], "launchSymbols", job.launch_symbols);
    for (int i = 0; i < kNumSymbols; ++i) {
      if (job.launch_symbols[i] >= job.symbols[i]) continue;
      throw Napi::RangeError::New(env, "launchSymbols[" + std::to_string(i) + "] must be at least symbols[" + std::to_string(i) + "], " +
                                           std::to_string(job.symbols[i]) + ", found " + std::to_string(job.launch_symbols[i]));
    }
  }
  const Napi::Array arrays = to_array(env, info[next++], "arrays");
  if (arrays.Length() != num_arrays_) {
    throw Napi::RangeError::New(env, "arrays must hold " + std::to_string(num_arrays_) + " typed arrays, found " + std::to_string(arrays.Length()));
  }
  uint32_t count = 0;
  for (uint32_t i = 0; i < num_arrays_; ++i) {
    const char* const kExpected = "an Int32Array or a Float32Array";
    const std::string name = "arrays[" + std::to_string(i) + "]";
    const Napi::TypedArray array = to_typed_array(env, arrays.Get(i), name, kExpected);
    if (array.TypedArrayType() != napi_int32_array && array.TypedArrayType() != napi_float32_array) bad_type(env, name, kExpected);
    job.arrays.push_back({data_of(array), array.ByteLength()});
    kept.Set(count++, array);
  }
  const Napi::Array taps = to_array(env, info[next], "taps");
  for (uint32_t i = 0; i < taps.Length(); ++i) {
    const std::string name = "taps[" + std::to_string(i) + "]";
    const Napi::Object tap = to_object(env, taps.Get(i), name);
    const Napi::TypedArray into = to_typed_array(env, tap.Get("into"), name + ".into", "a Uint8Array");
    if (into.TypedArrayType() != napi_uint8_array) bad_type(env, name + ".into", "a Uint8Array");
    const auto bytes = static_cast<int64_t>(into.ByteLength());
    if (bytes > executor_->arena_bytes()) throw Napi::RangeError::New(env, name + ".into is larger than the arena");
    const int64_t steps = static_cast<int64_t>(executor_->num_steps(job.program));
    job.taps.push_back(Tap{to_integer(env, tap.Get("step"), name + ".step", 0, steps - 1),
                           to_integer(env, tap.Get("offset"), name + ".offset", 0, executor_->arena_bytes() - bytes), data_of(into),
                           static_cast<size_t>(bytes)});
    kept.Set(count++, into);
  }
  return job;
}

Napi::Value Session::run(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Promise::Deferred deferred(env);
  const bool is_closed = !executor_ || closing_;
  if (is_closed || pending_.size() >= executor_->max_in_flight()) {
    const char* const busy = pending_.size() > 1 ? "two programs are still running; await the first before the next"
                                                 : "a program is still running; await it before the next";
    const char* const why = is_closed ? "the executor is closed" : busy;
    deferred.Reject(Napi::Error::New(env, why).Value());
    return deferred.Promise();
  }
  const Napi::Array kept = Napi::Array::New(env);
  Job job = parse_job(info, kept);
  job.done = [this](double ms, const std::string& error) { post(false, ms, error); };
  pending_.push_back(Pending{deferred, Napi::Persistent(kept)});
  self_ = shared_from_this();
  queue_.Ref(env);
  executor_->submit(std::move(job));
  return deferred.Promise();
}

Napi::Value Session::profile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const bool on = to_boolean(env, info[0], "on");
  if (!pending_.empty()) throw Napi::Error::New(env, "a program is still running; await it before profile()");
  if (!executor_ || closing_) throw Napi::Error::New(env, "the executor is closed");
  const std::vector<double>& ms = executor_->step_ms();
  Napi::Float64Array array = Napi::Float64Array::New(env, ms.size());
  for (size_t i = 0; i < ms.size(); ++i) array[i] = ms[i];
  executor_->set_profiling(on);
  return array;
}

Napi::Value Session::close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (closing_) return closed_.Value();
  closing_.emplace(env);
  closed_ = Napi::Persistent(closing_->Promise().As<Napi::Object>());
  if (!open_) {  // the environment is ending
    closing_->Resolve(env.Undefined());
    return closed_.Value();
  }
  if (pending_.empty()) queue_.Ref(env);
  self_ = shared_from_this();
  executor_->close([this] { post(true, 0, ""); });
  return closed_.Value();
}

}  // namespace ingot
