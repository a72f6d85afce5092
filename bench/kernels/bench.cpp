// Times one kernel, linked in as `kernel_under_test`, or the machine's read bandwidth beside it; prints one JSON line.
//
//   bench <threads> <seconds> <T> <B> <S> <P> <units> <chunk> <scratch bytes> argument…
//
// Arguments: f32:N, bf16:N random numbers; iota:N:first 0, 1, …; i32:N:value. `:xC` after them makes C copies, one used per
// launch in turn, so that weights come from memory as they do in a model. Chunks go to whichever pinned thread is free.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

struct IngotLaunch {
  void* const* args;
  const int32_t* dims;
  void* scratch;
};

extern "C" void kernel_under_test(const IngotLaunch* launch, int64_t begin, int64_t end);

namespace {

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

char* allocate(size_t bytes) {
  const size_t whole = (bytes + 4096 + (2 << 20)) >> 21 << 21;
  void* memory = mmap(0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  madvise(memory, whole, MADV_HUGEPAGE);
  return (char*)memory;
}

struct Argument {
  char* data;
  size_t bytes;  // of one copy
  int copies;
};

Argument parse(const std::string& text) {
  const std::string kind = text.substr(0, text.find(':'));
  const size_t mark = text.find(":x");
  const int copies = mark == std::string::npos ? 1 : atoi(text.c_str() + mark + 2);
  const int64_t count = atoll(text.c_str() + kind.size() + 1);
  const size_t after = text.find(':', kind.size() + 1);
  const int32_t value = after == std::string::npos || after == mark ? 0 : atoi(text.c_str() + after + 1);
  const size_t bytes = size_t(count) * (kind == "bf16" ? 2 : 4);
  char* data = allocate(bytes * size_t(copies));
  uint32_t state = 12345;
  const auto random = [&] { return float(int32_t(state = state * 1664525u + 1013904223u)) * 0x1p-33f; };
  for (int64_t i = 0; i < count; ++i) {
    if (kind == "f32") ((float*)data)[i] = random();
    if (kind == "bf16") {
      const float x = random();
      memcpy(data + 2 * i, (const char*)&x + 2, 2);
    }
    if (kind == "iota") ((int32_t*)data)[i] = value + int32_t(i);
    if (kind == "i32") ((int32_t*)data)[i] = value;
  }
  for (int c = 1; c < copies; ++c) memcpy(data + size_t(c) * bytes, data, bytes);
  return {data, bytes, copies};
}

struct Team {
  int threads;
  std::atomic<int64_t> next{0};
  std::atomic<int> arrived{0};
  std::atomic<int> phase{0};

  void barrier() {
    const int mine = phase.load();
    if (arrived.fetch_add(1) + 1 == threads) {
      arrived.store(0);
      next.store(0);
      phase.store(mine + 1);
    } else {
      while (phase.load(std::memory_order_acquire) == mine) __builtin_ia32_pause();
    }
  }
};

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

typedef uint64_t HalfLine __attribute__((vector_size(32)));

// Four streams per thread over one thread's share of `bytes`.
uint64_t read_streams(const char* data, size_t bytes, int thread, int threads) {
  const size_t stream = bytes / size_t(threads) / 4 / 64 * 64;
  const char* base = data + size_t(thread) * 4 * stream;
  HalfLine sums[4] = {};
  for (size_t at = 0; at < stream; at += 64) {
#pragma GCC unroll 4
    for (size_t s = 0; s < 4; ++s) {
      __builtin_prefetch(base + s * stream + at + 1024);
      HalfLine value[2];
      memcpy(value, base + s * stream + at, 64);
      sums[s] += value[0] ^ value[1];
    }
  }
  const HalfLine sum = sums[0] + sums[1] + sums[2] + sums[3];
  return sum[0] + sum[3];
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x.empty() ? 0 : x[x.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 11) return 2;
  syscall(SYS_arch_prctl, 0x1023, 18);
  Team team;
  team.threads = atoi(argv[1]);
  const double seconds = atof(argv[2]);
  int32_t dims[4];
  for (int i = 0; i < 4; ++i) dims[i] = atoi(argv[3 + i]);
  const int64_t units = atoll(argv[7]), chunk = atoll(argv[8]);
  const size_t scratch_bytes = size_t(atoll(argv[9])) + 64;
  std::vector<Argument> arguments;
  for (int i = 10; i < argc; ++i) arguments.push_back(parse(argv[i]));
  size_t probe_bytes = 0;
  const char* probe_data = 0;
  for (const Argument& a : arguments) {
    if (a.bytes * size_t(a.copies) > probe_bytes) probe_bytes = a.bytes * size_t(a.copies), probe_data = a.data;
  }
  std::vector<double> launches, probes;
  std::atomic<uint64_t> sink{0};
  std::atomic<bool> stop{false};
  const auto work = [&](int thread) {
    pin(thread);
    char* scratch = allocate(scratch_bytes);
    std::vector<void*> args(arguments.size());
    const double begin = now();
    for (int64_t round = 0; !stop.load(); ++round) {
      // A launch over every copy once, then one pass of the probe over the same memory.
      int copies = 1;
      for (const Argument& a : arguments) copies = std::max(copies, a.copies);
      for (int c = 0; c < copies; ++c) {
        for (size_t i = 0; i < args.size(); ++i) args[i] = arguments[i].data + arguments[i].bytes * size_t(c % arguments[i].copies);
        const IngotLaunch launch = {args.data(), dims, scratch};
        team.barrier();
        const double start = now();
        for (int64_t u; (u = team.next.fetch_add(chunk)) < units;) kernel_under_test(&launch, u, std::min(u + chunk, units));
        team.barrier();
        if (thread == 0 && round > 0) launches.push_back(now() - start);
      }
      if (copies > 1) {
        team.barrier();
        const double start = now();
        sink += read_streams(probe_data, probe_bytes, thread, team.threads);
        team.barrier();
        if (thread == 0) probes.push_back(now() - start);
      }
      if (thread == 0 && round > 0 && now() - begin > seconds) stop.store(true);
      team.barrier();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < team.threads; ++t) threads.emplace_back(work, t);
  for (std::thread& t : threads) t.join();
  const double probe = median(probes);
  printf("{\"ms\": %.5f, \"launches\": %zu, \"probeGBs\": %.2f}\n", 1e3 * median(launches), launches.size(),
         probe > 0 ? double(probe_bytes) / probe / 1e9 : 0.0);
}
