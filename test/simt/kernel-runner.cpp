// Runs one kernel of a shared library over launches read from a file and writes every argument back: no driver, no JavaScript.
//
//   kernel-runner LIBRARY KERNEL ORDER SEED IN OUT
//
// IN: i64 number of launches; a launch: i64 blocks, threads, dynamic shared bytes, number of arguments; an argument: i64 bytes and the
// bytes, or −1 − i for "the same memory as argument i". OUT: the arguments of each launch, then a line of text for each line of kernel
// text that a checked run counted: line, read or write, global or shared, requests, units a request, ideal. A report goes to stderr.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "simt.hpp"

static FILE* in;

[[noreturn]] static void stop(const std::string& why) {
  fprintf(stderr, "%s\n", why.c_str());
  exit(1);
}

static void read_bytes(void* to, size_t bytes) {
  if (bytes != 0 && fread(to, 1, bytes, in) != bytes) stop("kernel-runner: the file of launches ends early");
}

static int64_t read_int() {
  int64_t value;
  read_bytes(&value, sizeof value);
  return value;
}

int main(int argc, char** argv) {
  if (argc != 7) stop("kernel-runner: expected LIBRARY KERNEL ORDER SEED IN OUT");
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) stop(std::string("kernel-runner: ") + dlerror());
  const std::string name = std::string(argv[2]) + "__simt";
  const auto entry = reinterpret_cast<simt::Entry>(dlsym(library, name.c_str()));
  if (!entry) stop("kernel-runner: the library has no kernel " + std::string(argv[2]) + "; is it declared by INGOT_KERNEL?");
  simt::Schedule schedule;
  if (!simt::order_of(argv[3], &schedule.order)) stop("kernel-runner: no order " + std::string(argv[3]));
  schedule.seed = strtoull(argv[4], nullptr, 10);
  in = fopen(argv[5], "rb");
  FILE* out = fopen(argv[6], "wb");
  if (!in || !out) stop("kernel-runner: cannot open " + std::string(in ? argv[6] : argv[5]));

  const int64_t launches = read_int();
  for (int64_t n = 0; n < launches; ++n) {
    const int64_t blocks = read_int(), threads = read_int(), dynamic_bytes = read_int();
    const size_t num_args = size_t(read_int());
    std::vector<void*> memory(num_args);
    std::vector<size_t> sizes(memory.size());
    for (size_t i = 0; i < memory.size(); ++i) {
      const int64_t bytes = read_int();
      if (bytes < 0) {
        memory[i] = memory[size_t(-1 - bytes)];
        sizes[i] = sizes[size_t(-1 - bytes)];
        continue;
      }
      sizes[i] = size_t(bytes);
      memory[i] = simt::device_alloc(sizes[i], "argument " + std::to_string(i));
      if (!memory[i]) stop("kernel-runner: no memory for argument " + std::to_string(i));
      read_bytes(memory[i], sizes[i]);
    }
    std::vector<void*> params;
    for (void*& start : memory) params.push_back(&start);
    const std::string report = simt::launch(entry, int(blocks), int(threads), size_t(dynamic_bytes), params.data(), schedule);
    if (!report.empty()) stop(report);
    for (size_t i = 0; i < memory.size(); ++i) fwrite(memory[i], 1, sizes[i], out);
    simt::device_free_all();
  }
  for (const simt::LineAccesses& a : simt::line_accesses()) {
    fprintf(out, "%d %s %s %llu %.17g %.17g\n", a.line, a.is_write ? "write" : "read", a.is_shared ? "shared" : "global",
            static_cast<unsigned long long>(a.requests), a.per_request, a.ideal);
  }
  return fclose(out) == 0 ? 0 : 1;
}
