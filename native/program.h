// Programs as the executors take them: grids, arguments, taps and jobs, and what every executor can be asked.
//
// Knows no device: the CPU's is executor.h, CUDA's is cuda/executor.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace ingot {

inline constexpr int kNumSymbols = 4;  // T, B, S, P

// One word of a grid in reverse Polish.
struct GridOp {
  enum class Kind : uint8_t { kNumber, kSymbol, kMul, kAdd, kCeilDiv, kMin };
  Kind kind;
  int64_t value;  // the number, or the symbol's index
};

// Units of work of a grid. Throws std::runtime_error on overflow, a division by zero or an unbalanced expression.
int64_t evaluate_grid(const std::vector<GridOp>& grid, const int32_t* symbols);

// A trial with every symbol 1: an unbalanced expression is found when a program is loaded rather than at its first step. Throws
// std::runtime_error that begins with `where`.
void check_grid(const std::vector<GridOp>& grid, const std::string& where);

struct ArgSpec {
  enum class Space : uint8_t { kArena, kWeights, kKv, kArray, kSymbol };
  Space space;
  int64_t value;  // byte offset, or the index of the array or symbol
};

struct Tap {
  int64_t step;
  int64_t offset;  // in the arena
  void* into;
  size_t bytes;
};

struct StepArray {
  void* data;
  size_t bytes;
};

struct Job {
  size_t program;
  int32_t symbols[kNumSymbols];
  int32_t launch_symbols[kNumSymbols];  // at least `symbols`; the same where an executor has no use for them
  std::vector<StepArray> arrays;
  std::vector<Tap> taps;
  // Called once on the engine thread: milliseconds, or why the program did not run.
  std::function<void(double ms, const std::string& error)> done;
};

class ProgramExecutor {
 public:
  virtual ~ProgramExecutor() = default;

  virtual size_t num_programs() const = 0;
  virtual size_t num_steps(size_t program) const = 0;
  virtual int64_t arena_bytes() const = 0;
  // Jobs that may be submitted before the first of them is done.
  virtual size_t max_in_flight() const = 0;
  // Whether grids are evaluated from `launch_symbols`; callers pass them only where they are.
  virtual bool has_launch_symbols() const = 0;
  // Hands a job to the engine thread. The caller has checked it and keeps at most `max_in_flight` unfinished; `done` comes in order.
  virtual void submit(Job job) = 0;
  // Lets submitted programs finish, then ends the engine thread, which calls `closed` last. Once only; no submit after it.
  virtual void close(std::function<void()> closed) = 0;
  // Turns timing of single steps on or off, from the next job on.
  virtual void set_profiling(bool on) = 0;
  // Milliseconds of each step of the last profiled job. Not while one is running.
  virtual const std::vector<double>& step_ms() const = 0;
};

}  // namespace ingot
