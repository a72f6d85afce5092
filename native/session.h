// One executor as JavaScript holds it: promises on the JavaScript thread, completions posted by the engine thread.
//
// Knows executors by what all of them can be asked; which one it is, addon.cpp says.
#pragma once

#include "arguments.h"

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "program.h"

namespace ingot {

class Session : public std::enable_shared_from_this<Session> {
 public:
  // `num_arrays`: typed arrays that a run takes.
  static std::shared_ptr<Session> create(Napi::Env env, std::unique_ptr<ProgramExecutor> executor, size_t num_arrays);
  Session(Napi::Env env, std::unique_ptr<ProgramExecutor> executor, size_t num_arrays);
  ~Session();

  // The methods of `NativeExecutor` and `NativeCudaExecutor` in runtime/native.ts. Bad arguments throw; a busy or closed executor rejects.
  Napi::Value run(const Napi::CallbackInfo& info);
  Napi::Value profile(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

 private:
  struct Completion {
    bool closed;
    double ms;
    std::string error;
  };
  struct Pending {
    Napi::Promise::Deferred promise;
    Napi::Reference<Napi::Array> arrays;  // keeps the step's memory alive
  };
  static void deliver(Napi::Env env, Napi::Function, Session* session, Completion* data);
  using Queue = Napi::TypedThreadSafeFunction<Session, Completion, deliver>;

  Job parse_job(const Napi::CallbackInfo& info, Napi::Array kept) const;
  void post(bool closed, double ms, const std::string& error);
  void on_done(Napi::Env env, const Completion& completion);
  void on_closed(Napi::Env env);
  void shut_down();
  static void on_environment_end(void* session);

  const napi_env env_;
  const uint32_t num_arrays_;
  std::unique_ptr<ProgramExecutor> executor_;  // empty once closed
  Queue queue_;
  bool open_ = false;  // the queue is ours to use and the hook is set
  std::deque<Pending> pending_;  // oldest first, as they will be done
  std::optional<Napi::Promise::Deferred> closing_;
  Napi::ObjectReference closed_;      // the one promise every close() returns
  std::shared_ptr<Session> self_;     // while the engine thread may post: JavaScript might have dropped us
};

}  // namespace ingot
