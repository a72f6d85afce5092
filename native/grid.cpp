// Grids: units of work of a step, evaluated for each job.
#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "program.h"

namespace ingot {

namespace {

// No plan has this many units; a product beyond it is a wrong grid.
constexpr int64_t kMaxUnits = int64_t{1} << 48;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

}  // namespace

int64_t evaluate_grid(const std::vector<GridOp>& grid, const int32_t* symbols) {
  int64_t stack[64];
  size_t depth = 0;
  for (const GridOp& op : grid) {
    if (op.kind == GridOp::Kind::kNumber || op.kind == GridOp::Kind::kSymbol) {
      if (depth == std::size(stack)) fail("grid is too deep");
      stack[depth++] = op.kind == GridOp::Kind::kNumber ? op.value : symbols[op.value];
      continue;
    }
    if (depth < 2) fail("grid takes an operand from an empty stack");
    const int64_t b = stack[--depth];
    int64_t& a = stack[depth - 1];
    bool overflow = false;
    if (op.kind == GridOp::Kind::kMul) overflow = __builtin_mul_overflow(a, b, &a);
    if (op.kind == GridOp::Kind::kAdd) overflow = __builtin_add_overflow(a, b, &a);
    if (op.kind == GridOp::Kind::kMin) a = std::min(a, b);
    if (op.kind == GridOp::Kind::kCeilDiv) {
      if (b <= 0) fail("grid divides by " + std::to_string(b));
      a = a / b + (a % b > 0 ? 1 : 0);
    }
    if (overflow || a > kMaxUnits) fail("grid exceeds " + std::to_string(kMaxUnits) + " units");
  }
  if (depth != 1) fail("grid leaves " + std::to_string(depth) + " values, expected 1");
  if (stack[0] < 0 || stack[0] > kMaxUnits) fail("grid gives " + std::to_string(stack[0]) + " units");
  return stack[0];
}

void check_grid(const std::vector<GridOp>& grid, const std::string& where) {
  const int32_t ones[kNumSymbols] = {1, 1, 1, 1};
  try {
    evaluate_grid(grid, ones);
  } catch (const std::runtime_error& error) {
    fail(where + ": " + error.what());
  }
}

}  // namespace ingot
