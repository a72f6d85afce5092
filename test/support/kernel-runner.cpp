// Runs one kernel over jobs read from a file and writes every argument back: no engine, no threads, no JavaScript.
//
// A job: i32 dims[4], i64 scratch bytes, i64 number of ranges, ranges (i64 begin, end), i64 number of arguments, arguments.
// An argument: i64 bytes and the bytes, or −1 − i for "the same memory as argument i". Each argument ends at a page that
// may not be touched, and scratch is filled with NaN before each range.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

struct IngotLaunch {
  void* const* args;
  const int32_t* dims;
  void* scratch;
};

extern "C" void kernel_under_test(const IngotLaunch* launch, int64_t begin, int64_t end);

static FILE* in;

static void read_bytes(void* to, size_t bytes) {
  if (bytes != 0 && fread(to, 1, bytes, in) != bytes) abort();
}

static int64_t read_int() {
  int64_t value;
  read_bytes(&value, sizeof value);
  return value;
}

// Memory whose last byte lies before a guard page; `align` bytes at least at its start where the size allows.
static char* guarded(size_t bytes) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  const size_t whole = (bytes + page - 1) / page * page;
  char* memory = (char*)mmap(0, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + whole, page, PROT_NONE) != 0) abort();
  return memory + whole - bytes;
}

int main(int, char** argv) {
#if defined(__x86_64__)
  syscall(SYS_arch_prctl, 0x1023, 18);  // permission for tile registers; refused where there are none
#endif
  in = fopen(argv[1], "rb");
  FILE* out = fopen(argv[2], "wb");
  if (!in || !out) abort();
  for (int64_t jobs = read_int(); jobs > 0; --jobs) {
    int32_t dims[4];
    read_bytes(dims, sizeof dims);
    const size_t scratch_bytes = size_t(read_int() + 63) / 64 * 64;
    std::vector<int64_t> ranges(size_t(2 * read_int()));
    read_bytes(ranges.data(), ranges.size() * sizeof(int64_t));
    std::vector<void*> args(size_t(read_int() + 0));
    std::vector<size_t> sizes(args.size());
    for (size_t i = 0; i < args.size(); ++i) {
      const int64_t bytes = read_int();
      if (bytes < 0) {
        args[i] = args[size_t(-1 - bytes)];
        sizes[i] = sizes[size_t(-1 - bytes)];
      } else {
        sizes[i] = size_t(bytes);
        args[i] = guarded(sizes[i]);
        read_bytes(args[i], sizes[i]);
      }
    }
    char* scratch = guarded(scratch_bytes);
    const IngotLaunch launch = {args.data(), dims, scratch};
    for (size_t r = 0; r < ranges.size(); r += 2) {
      memset(scratch, 0xff, scratch_bytes);
      kernel_under_test(&launch, ranges[r], ranges[r + 1]);
    }
    for (size_t i = 0; i < args.size(); ++i) fwrite(args[i], 1, sizes[i], out);
  }
  return fclose(out);
}
