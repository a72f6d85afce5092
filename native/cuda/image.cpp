#include "image.h"

#include <cstdint>
#include <cstring>

namespace ingot::cuda {

namespace {

template <class T>
T read(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A fat binary is a header of 16 bytes and entries: u16 kind, u16, u32 header size, u64 payload size, … u32 architecture at 28, u32 flags
// at 40. Undocumented; as nvcc 13.0 writes it.
constexpr uint32_t kFatbinMagic = 0xba55ed50;
constexpr uint16_t kPtxEntry = 1;
constexpr uint32_t kArchitectureSpecific = 0x100000;  // the a of sm_90a
constexpr size_t kSmallestEntry = 64;

std::string of_fatbin(const char* image, size_t bytes) {
  std::string all;
  for (size_t at = read<uint16_t>(image + 6); bytes >= kSmallestEntry && at <= bytes - kSmallestEntry;) {
    const char* entry = image + at;
    const std::string kind = read<uint16_t>(entry) == kPtxEntry ? "compute_" : "sm_";
    const char* const suffix = (read<uint32_t>(entry + 40) & kArchitectureSpecific) != 0 ? "a" : "";
    all += (all.empty() ? "" : ", ") + kind + std::to_string(read<uint32_t>(entry + 28)) + suffix;
    const uint64_t size = read<uint32_t>(entry + 4) + read<uint64_t>(entry + 8);
    if (size < kSmallestEntry || size > bytes - at) break;
    at += size;
  }
  return all;
}

constexpr uint16_t kElfMachineCuda = 190;
constexpr size_t kElfHeader = 64;

std::string of_cubin(const char* image) {
  if (read<uint16_t>(image + 18) != kElfMachineCuda) return "";
  const auto flags = read<uint32_t>(image + 48);
  // From version 8 of the ABI (CUDA 13) on, the architecture is the second byte.
  return "sm_" + std::to_string(image[8] >= 8 ? flags >> 8 & 0xff : flags & 0xff);
}

std::string of_ptx(const std::string& text) {
  const std::string directive = ".target ";
  const size_t begin = text.find(directive);
  if (begin == std::string::npos) return "";
  const size_t name = begin + directive.size();
  return text.substr(name, text.find_first_of(", \t\r\n", name) - name);
}

}  // namespace

std::string architectures_of(const char* image, size_t bytes) {
  if (bytes >= 16 && read<uint32_t>(image) == kFatbinMagic) return of_fatbin(image, bytes);
  if (bytes >= kElfHeader && std::memcmp(image, "\177ELF", 4) == 0) return of_cubin(image);
  return of_ptx(std::string(image, bytes < 4096 ? bytes : 4096));
}

}  // namespace ingot::cuda
