#include "features.h"

#include <cstdlib>
#include <cstring>
#include <fstream>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace ingot {

namespace {

#if defined(__x86_64__)

struct Cpuid {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Cpuid cpuid(uint32_t leaf, uint32_t subleaf) {
  Cpuid r;
  if (__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) == 0) return {};
  return r;
}

bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

// Register state the operating system saves, XCR0. Raw opcode: the intrinsic needs -mxsave.
uint64_t xgetbv() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

std::string vendor() {
  const Cpuid zero = cpuid(0, 0);
  const uint32_t words[3] = {zero.b, zero.d, zero.c};
  return std::string(reinterpret_cast<const char*>(words), sizeof words);
}

std::vector<std::string> feature_names() {
  std::vector<std::string> names;
  const auto add = [&](bool present, const char* name) {
    if (present) names.emplace_back(name);
  };
  const Cpuid one = cpuid(1, 0);
  const Cpuid seven = cpuid(7, 0);
  const Cpuid seven1 = seven.a >= 1 ? cpuid(7, 1) : Cpuid{};
  const uint64_t saved = bit(one.c, 27) ? xgetbv() : 0;  // OSXSAVE
  const bool ymm = (saved & 0x6) == 0x6 && bit(one.c, 28);
  const bool zmm = ymm && (saved & 0xe0) == 0xe0;
  add(ymm, "avx");
  add(ymm && bit(one.c, 12), "fma");
  add(ymm && bit(one.c, 29), "f16c");
  add(ymm && bit(seven.b, 5), "avx2");
  add(ymm && bit(seven1.a, 4), "avx_vnni");
  add(zmm && bit(seven.b, 16), "avx512f");
  add(zmm && bit(seven.b, 17), "avx512dq");
  add(zmm && bit(seven.b, 30), "avx512bw");
  add(zmm && bit(seven.b, 31), "avx512vl");
  add(zmm && bit(seven.c, 11), "avx512_vnni");
  const bool bf16 = zmm && bit(seven1.a, 5);
  add(bf16, "avx512_bf16");
  // Zen 4 and 5 start VDPBF16PS as often as a multiply-add (measured: two a cycle on Zen 5); Sapphire Rapids a quarter as often.
  add(bf16 && vendor() == "AuthenticAMD", "fast_avx512_bf16");
  add(zmm && bit(seven.d, 23), "avx512_fp16");
  const bool tiles = bit(seven.d, 24) && (saved & 0x60000) == 0x60000 && request_amx();
  add(tiles, "amx_tile");
  add(tiles && bit(seven.d, 22), "amx_bf16");
  add(tiles && bit(seven.d, 25), "amx_int8");
  return names;
}

std::string model_name() {
  char brand[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Cpuid part = cpuid(0x80000002 + i, 0);
    std::memcpy(brand + 16 * i, &part, 16);
  }
  std::string name(brand);
  const size_t start = name.find_first_not_of(' ');
  return start == std::string::npos ? "x86-64" : name.substr(start, name.find_last_not_of(' ') - start + 1);
}

#elif defined(__aarch64__)

std::vector<std::string> feature_names() {
  std::vector<std::string> names{"neon"};  // part of every 64-bit ARM
#if defined(__linux__)
  const unsigned long one = getauxval(AT_HWCAP);
  const unsigned long two = getauxval(AT_HWCAP2);
  if (one >> 10 & 1) names.emplace_back("fp16");
  if (one >> 20 & 1) names.emplace_back("dotprod");
  if (two >> 14 & 1) names.emplace_back("bf16");
  if (two >> 13 & 1) names.emplace_back("i8mm");
#elif defined(__APPLE__)
  const auto add = [&](const char* key, const char* name) {
    int value = 0;
    size_t size = sizeof value;
    if (sysctlbyname(key, &value, &size, nullptr, 0) == 0 && value != 0) names.emplace_back(name);
  };
  add("hw.optional.arm.FEAT_FP16", "fp16");
  add("hw.optional.arm.FEAT_DotProd", "dotprod");
  add("hw.optional.arm.FEAT_BF16", "bf16");
  add("hw.optional.arm.FEAT_I8MM", "i8mm");
#endif
  return names;
}

std::string model_name() {
#if defined(__APPLE__)
  char name[128] = {};
  size_t size = sizeof name - 1;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#else
  std::ifstream file("/proc/cpuinfo");
  std::string line, implementer, part;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.rfind("CPU implementer", 0) == 0) implementer = line.substr(colon + 2);
    if (line.rfind("CPU part", 0) == 0) part = line.substr(colon + 2);
  }
  if (!part.empty()) return "ARM implementer " + implementer + " part " + part;
#endif
  return "arm64";
}

#else

std::vector<std::string> feature_names() { return {}; }
std::string model_name() { return "unknown"; }

#endif

// Data or unified cache of `level`, from sysfs ("48K", "2M"); 0 if not listed.
int64_t cache_bytes(int level) {
#if defined(__APPLE__)
  const char* key = level == 1 ? "hw.l1dcachesize" : level == 2 ? "hw.l2cachesize" : "hw.l3cachesize";
  int64_t bytes = 0;
  size_t size = sizeof bytes;
  return sysctlbyname(key, &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
#else
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::string at, type, size;
    if (!std::getline(std::ifstream(folder + "level"), at)) break;
    std::getline(std::ifstream(folder + "type"), type);
    std::getline(std::ifstream(folder + "size"), size);
    if (at != std::to_string(level) || type == "Instruction" || size.empty()) continue;
    const int64_t unit = size.back() == 'K' ? 1024 : size.back() == 'M' ? 1 << 20 : 1;
    return std::strtoll(size.c_str(), nullptr, 10) * unit;
  }
  return 0;
#endif
}

}  // namespace

bool request_amx() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kArchReqXcompPerm = 0x1023;  // asm/prctl.h, Linux 5.16
  constexpr int kXfeatureXtiledata = 18;
  static const bool granted = syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) == 0;
  return granted;
#else
  return false;
#endif
}

CpuFeatures cpu_features() {
  CpuFeatures facts;
#if defined(__x86_64__)
  facts.arch = "x64";
#elif defined(__aarch64__)
  facts.arch = "arm64";
#else
  facts.arch = "other";
#endif
  facts.model = model_name();
  facts.names = feature_names();
  facts.l1d_bytes = cache_bytes(1);
  facts.l2_bytes = cache_bytes(2);
  facts.l3_bytes = cache_bytes(3);
  return facts;
}

}  // namespace ingot
