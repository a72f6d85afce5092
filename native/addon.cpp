// The boundary with JavaScript: checks every argument, throws errors that name it, and carries results back to the event loop.
//
// `runtime/native.ts` is this file's typed twin. Nothing here computes; nothing behind it sees a JavaScript value.
#include "arguments.h"

#include <memory>

#include "cpu/bandwidth.h"
#include "cpu/features.h"
#include "cuda/executor.h"
#include "executor.h"
#include "machine.h"
#include "session.h"

namespace ingot {

namespace {

constexpr int64_t kMaxThreads = 1024;
constexpr uint32_t kMaxPrograms = 1024;
constexpr uint32_t kMaxSteps = 1 << 20;
constexpr uint32_t kMaxArgs = 256;
constexpr int64_t kMaxGridNumber = kMaxSafeInteger;
constexpr int64_t kMaxDevices = 1024;
constexpr int64_t kMaxBlockThreads = 1024;
constexpr int64_t kMaxSharedBytes = int64_t{1} << 20;
constexpr int64_t kMaxImageBytes = int64_t{1} << 32;
constexpr int64_t kMaxArrayBytes = int64_t{1} << 32;
constexpr int64_t kMaxChunk = int64_t{1} << 40;  // times the largest share still fits 64 bits

// Runs `body`, turning a C++ exception into a JavaScript error.
template <class Body>
Napi::Value guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Napi::Error::New(env, error.what());
  }
}

GridOp parse_grid_op(Napi::Env env, Napi::Value value, const std::string& name) {
  if (value.IsNumber()) return {GridOp::Kind::kNumber, to_integer(env, value, name, 0, kMaxGridNumber)};
  const std::string word = to_string(env, value, name);
  const std::string symbols = "TBSP";
  if (word.size() == 1 && symbols.find(word) != std::string::npos) return {GridOp::Kind::kSymbol, static_cast<int64_t>(symbols.find(word))};
  if (word == "mul") return {GridOp::Kind::kMul, 0};
  if (word == "add") return {GridOp::Kind::kAdd, 0};
  if (word == "ceildiv") return {GridOp::Kind::kCeilDiv, 0};
  if (word == "min") return {GridOp::Kind::kMin, 0};
  bad_type(env, name, "a number, T, B, S, P, mul, add, ceildiv or min");
}

ArgSpec parse_arg(Napi::Env env, Napi::Value value, const std::string& name, bool has_symbols) {
  const Napi::Array pair = to_array(env, value, name);
  const std::string space = to_string(env, pair.Get(0u), name + "[0]");
  const int64_t number = to_integer(env, pair.Get(1u), name + "[1]", 0, kMaxSafeInteger);
  if (space == "arena") return {ArgSpec::Space::kArena, number};
  if (space == "weights") return {ArgSpec::Space::kWeights, number};
  if (space == "kv") return {ArgSpec::Space::kKv, number};
  if (space == "array") return {ArgSpec::Space::kArray, number};
  if (space == "symbol" && has_symbols) return {ArgSpec::Space::kSymbol, number};
  bad_type(env, name + "[0]", has_symbols ? "arena, weights, kv, array or symbol" : "arena, weights, kv or array");
}

// Calls `each(element, name)` for every element, at most `max` of them.
template <class Each>
void for_each(Napi::Env env, Napi::Value value, const std::string& name, uint32_t max, Each&& each) {
  const Napi::Array array = to_array(env, value, name);
  if (array.Length() > max) bad_type(env, name, ("an array of at most " + std::to_string(max)).c_str());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    Napi::HandleScope scope(env);
    each(array.Get(i), name + "[" + std::to_string(i) + "]");
  }
}

std::vector<GridOp> parse_grid(Napi::Env env, Napi::Value value, const std::string& name) {
  std::vector<GridOp> grid;
  for_each(env, value, name, 256, [&](Napi::Value op, const std::string& at) { grid.push_back(parse_grid_op(env, op, at)); });
  return grid;
}

std::vector<ArgSpec> parse_args(Napi::Env env, Napi::Value value, const std::string& name, bool has_symbols) {
  std::vector<ArgSpec> args;
  for_each(env, value, name, kMaxArgs,
           [&](Napi::Value arg, const std::string& at) { args.push_back(parse_arg(env, arg, at, has_symbols)); });
  return args;
}

StepSpec parse_step(Napi::Env env, Napi::Value value, const std::string& name) {
  const Napi::Object object = to_object(env, value, name);
  StepSpec step;
  step.kernel = to_string(env, object.Get("kernel"), name + ".kernel");
  step.chunk = to_integer(env, object.Get("chunk"), name + ".chunk", 1, kMaxChunk);
  step.serial_units = to_integer(env, object.Get("serialUnits"), name + ".serialUnits", 0, kMaxGridNumber);
  step.grid = parse_grid(env, object.Get("grid"), name + ".grid");
  // On the CPU a launch carries the symbols themselves.
  step.args = parse_args(env, object.Get("args"), name + ".args", false);
  return step;
}

// `programs`: an array of objects with an array `steps`; `parse` reads one step.
template <class Step, class Parse>
std::vector<std::vector<Step>> parse_programs(Napi::Env env, Napi::Value value, Parse&& parse) {
  std::vector<std::vector<Step>> programs;
  for_each(env, value, "options.programs", kMaxPrograms, [&](Napi::Value program, const std::string& at) {
    std::vector<Step>& steps = programs.emplace_back();
    for_each(env, to_object(env, program, at).Get("steps"), at + ".steps", kMaxSteps,
             [&](Napi::Value step, const std::string& where) { steps.push_back(parse(env, step, where)); });
  });
  return programs;
}

ExecutorSpec parse_options(Napi::Env env, Napi::Value value) {
  const Napi::Object object = to_object(env, value, "options");
  const auto integer = [&](const char* key, int64_t min, int64_t max) {
    return to_integer(env, object.Get(key), std::string("options.") + key, min, max);
  };
  ExecutorSpec spec;
  spec.library = to_string(env, object.Get("library"), "options.library");
  spec.weights = to_string(env, object.Get("weights"), "options.weights");
  spec.weights_bytes = integer("weightsBytes", 0, kMaxSafeInteger);
  spec.arena_bytes = integer("arenaBytes", 0, kMaxSafeInteger);
  spec.kv_bytes = integer("kvBytes", 0, kMaxSafeInteger);
  spec.scratch_bytes = integer("scratchBytes", 0, int64_t{1} << 32);
  spec.threads = static_cast<int>(integer("threads", 1, kMaxThreads));
  spec.pin = to_boolean(env, object.Get("pin"), "options.pin");
  spec.abi = static_cast<uint32_t>(integer("abi", 0, UINT32_MAX));
  spec.num_arrays = static_cast<int>(integer("numArrays", 0, 256));
  spec.programs = parse_programs<StepSpec>(env, object.Get("programs"), parse_step);
  return spec;
}

cuda::KernelSpec parse_kernel(Napi::Env env, Napi::Value value, const std::string& name) {
  const Napi::Object object = to_object(env, value, name);
  const auto integer = [&](const char* key, int64_t min, int64_t max) {
    return to_integer(env, object.Get(key), name + "." + key, min, max);
  };
  cuda::KernelSpec kernel;
  kernel.name = to_string(env, object.Get("name"), name + ".name");
  kernel.offset = integer("offset", 0, kMaxImageBytes);
  kernel.bytes = integer("bytes", 1, kMaxImageBytes);
  kernel.threads = static_cast<int>(integer("threads", 1, kMaxBlockThreads));
  kernel.shared_bytes = integer("sharedBytes", 0, kMaxSharedBytes);
  return kernel;
}

CudaExecutorSpec parse_cuda_options(Napi::Env env, Napi::Value value) {
  const Napi::Object object = to_object(env, value, "options");
  const auto integer = [&](const char* key, int64_t min, int64_t max) {
    return to_integer(env, object.Get(key), std::string("options.") + key, min, max);
  };
  CudaExecutorSpec spec;
  spec.driver = to_string(env, object.Get("driver"), "options.driver");
  spec.device = static_cast<int>(integer("device", 0, kMaxDevices));
  spec.library = to_string(env, object.Get("library"), "options.library");
  spec.weights = to_string(env, object.Get("weights"), "options.weights");
  spec.weights_bytes = integer("weightsBytes", 0, kMaxSafeInteger);
  spec.arena_bytes = integer("arenaBytes", 0, kMaxSafeInteger);
  spec.kv_bytes = integer("kvBytes", 0, kMaxSafeInteger);
  for_each(env, object.Get("kernels"), "options.kernels", kMaxSteps,
           [&](Napi::Value kernel, const std::string& at) { spec.kernels.push_back(parse_kernel(env, kernel, at)); });
  for_each(env, object.Get("arrays"), "options.arrays", 256, [&](Napi::Value array, const std::string& at) {
    const Napi::Object fields = to_object(env, array, at);
    spec.arrays.push_back({to_integer(env, fields.Get("bytes"), at + ".bytes", 0, kMaxArrayBytes),
                           to_boolean(env, fields.Get("isOutput"), at + ".isOutput")});
  });
  const auto num_kernels = static_cast<int64_t>(spec.kernels.size());
  const auto parse = [&](Napi::Env, Napi::Value step, const std::string& at) {
    const Napi::Object fields = to_object(env, step, at);
    return CudaStepSpec{to_integer(env, fields.Get("kernel"), at + ".kernel", 0, num_kernels - 1),
                        parse_grid(env, fields.Get("grid"), at + ".grid"), parse_args(env, fields.Get("args"), at + ".args", true)};
  };
  spec.programs = parse_programs<CudaStepSpec>(env, object.Get("programs"), parse);
  const Napi::Value on_progress = object.Get("onProgress");
  if (on_progress.IsUndefined()) return spec;
  if (!on_progress.IsFunction()) bad_type(env, "options.onProgress", "a function");
  // Called only while the executor is being made, on this thread; what it throws ends the making.
  spec.on_progress = [env, on_progress](int64_t done, int64_t total) {
    const Napi::HandleScope scope(env);
    const auto number = [&](int64_t bytes) { return Napi::Number::New(env, static_cast<double>(bytes)); };
    on_progress.As<Napi::Function>().Call({number(done), number(total)});
  };
  return spec;
}

Napi::Value object_of(Napi::Env env, std::unique_ptr<ProgramExecutor> executor, size_t num_arrays) {
  const std::shared_ptr<Session> session = Session::create(env, std::move(executor), num_arrays);
  const Napi::Object object = Napi::Object::New(env);
  const auto method = [&](const char* name, Napi::Value (Session::*call)(const Napi::CallbackInfo&)) {
    // Each function holds the session, so it works detached from the object and the last one to go frees it.
    object.Set(name, Napi::Function::New(env, [session, call](const Napi::CallbackInfo& args) {
                 return guarded(args.Env(), [&] { return (session.get()->*call)(args); });
               }, name));
  };
  method("run", &Session::run);
  method("profile", &Session::profile);
  method("close", &Session::close);
  return object;
}

Napi::Value create_executor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const ExecutorSpec spec = parse_options(env, info[0]);
    return object_of(env, std::make_unique<Executor>(spec), static_cast<size_t>(spec.num_arrays));
  });
}

Napi::Value create_cuda_executor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const CudaExecutorSpec spec = parse_cuda_options(env, info[0]);
    return object_of(env, std::make_unique<CudaExecutor>(spec), spec.arrays.size());
  });
}

Napi::Value cuda_facts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string path = to_string(env, info[0], "driver");
    const auto device = static_cast<int>(to_integer(env, info[1], "device", 0, kMaxDevices));
    const cuda::Driver driver(path);
    const cuda::DeviceFacts found = cuda::Device(driver, device).facts();
    const Napi::Object facts = Napi::Object::New(env);
    facts.Set("name", found.name);
    const Napi::Array capability = Napi::Array::New(env, 2);
    capability.Set(0u, found.major);
    capability.Set(1u, found.minor);
    facts.Set("computeCapability", capability);
    facts.Set("driverVersion", found.driver_version);
    facts.Set("multiprocessors", found.multiprocessors);
    facts.Set("totalBytes", static_cast<double>(found.total_bytes));
    facts.Set("sharedBytesPerBlock", static_cast<double>(found.shared_bytes_per_block));
    return facts;
  });
}

Napi::Value cuda_free_bytes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const cuda::Driver driver(to_string(env, info[0], "driver"));
    const cuda::Context context(driver, static_cast<int>(to_integer(env, info[1], "device", 0, kMaxDevices)));
    return Napi::Number::New(env, static_cast<double>(context.free_bytes()));
  });
}

Napi::Value cpu_facts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const CpuFeatures features = cpu_features();
    const Napi::Object facts = Napi::Object::New(env);
    facts.Set("arch", features.arch);
    facts.Set("model", features.model);
    facts.Set("threads", usable_threads());
    facts.Set("cores", usable_cores());
    const Napi::Array names = Napi::Array::New(env, features.names.size());
    for (uint32_t i = 0; i < features.names.size(); ++i) names.Set(i, features.names[i]);
    facts.Set("features", names);
    const Napi::Object caches = Napi::Object::New(env);
    caches.Set("l1d", static_cast<double>(features.l1d_bytes));
    caches.Set("l2", static_cast<double>(features.l2_bytes));
    caches.Set("l3", static_cast<double>(features.l3_bytes));
    facts.Set("cacheBytes", caches);
    return facts;
  });
}

Napi::Value memory_facts(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Memory found = memory();
    const Napi::Object facts = Napi::Object::New(env);
    facts.Set("totalBytes", static_cast<double>(found.total_bytes));
    facts.Set("availableBytes", static_cast<double>(found.available_bytes));
    return facts;
  });
}

Napi::Value measure_bandwidth(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto threads = static_cast<int>(to_integer(env, info[0], "threads", 1, kMaxThreads));
    const auto bytes = static_cast<size_t>(to_integer(env, info[1], "bytes", 1 << 20, memory().available_bytes));
    const auto rounds = static_cast<int>(to_integer(env, info[2], "rounds", 1, 1000));
    return Napi::Number::New(env, read_bandwidth(threads, bytes, rounds));
  });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("cpuFacts", Napi::Function::New(env, cpu_facts, "cpuFacts"));
  exports.Set("memoryFacts", Napi::Function::New(env, memory_facts, "memoryFacts"));
  exports.Set("readBandwidth", Napi::Function::New(env, measure_bandwidth, "readBandwidth"));
  exports.Set("createExecutor", Napi::Function::New(env, create_executor, "createExecutor"));
  exports.Set("cudaFacts", Napi::Function::New(env, cuda_facts, "cudaFacts"));
  exports.Set("cudaFreeBytes", Napi::Function::New(env, cuda_free_bytes, "cudaFreeBytes"));
  exports.Set("createCudaExecutor", Napi::Function::New(env, create_cuda_executor, "createCudaExecutor"));
  return exports;
}

}  // namespace

}  // namespace ingot

static Napi::Object init_ingot(Napi::Env env, Napi::Object exports) { return ingot::init(env, exports); }
NODE_API_MODULE(ingot, init_ingot)
