// What the processor can do: model, instruction sets the kernels ask for, cache sizes.
//
// A feature counts only if the operating system saves its registers; AMX also needs a permission this file asks for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ingot {

struct CpuFeatures {
  const char* arch;  // "x64", "arm64" or "other"
  std::string model;
  std::vector<std::string> names;
  int64_t l1d_bytes, l2_bytes, l3_bytes;  // 0: unknown
};

CpuFeatures cpu_features();

// Asks Linux once per process to let threads use AMX tile registers; true if they may. Must come before a kernel runs:
// without it the first tile instruction kills the process.
bool request_amx();

}  // namespace ingot
