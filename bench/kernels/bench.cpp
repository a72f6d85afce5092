// Times one kernel, linked in as `kernel_under_test`; prints one JSON line.
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

// On huge pages, as the engine's own memory.
char* allocate(size_t bytes) {
  const size_t page = size_t(2) << 20;
  const size_t whole = (bytes + page - 1) / page * page + page;
  char* memory = (char*)mmap(0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) abort();
  memory += (page - uintptr_t(memory) % page) % page;
  madvise(memory, whole - page, MADV_HUGEPAGE);
  return memory;
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
  std::vector<double> launches;
  std::atomic<bool> stop{false};
  const auto work = [&](int thread) {
    pin(thread);
    char* scratch = allocate(scratch_bytes);
    std::vector<void*> args(arguments.size());
    const double begin = now();
    for (int64_t round = 0; !stop.load(); ++round) {
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
      if (thread == 0 && round > 0 && now() - begin > seconds) stop.store(true);
      team.barrier();
    }
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < team.threads; ++t) threads.emplace_back(work, t);
  for (std::thread& t : threads) t.join();
  printf("{\"ms\": %.5f, \"launches\": %zu}\n", 1e3 * median(launches), launches.size());
}
