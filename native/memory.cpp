#include "memory.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ingot {

namespace {

std::string reason() { return std::strerror(errno); }

#ifndef MAP_NORESERVE
constexpr int kNoReserve = 0;
#else
constexpr int kNoReserve = MAP_NORESERVE;
#endif

}  // namespace

Region::~Region() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

Region Region::zeroed(size_t bytes, const char* what) {
  Region region;
  if (bytes == 0) return region;
  if (bytes > SIZE_MAX - 2 * kHugePage) throw std::runtime_error(std::string(what) + " of " + std::to_string(bytes) + " bytes cannot be addressed");
  // Whole huge pages plus one to align the start; the untouched rest costs address space only.
  const size_t mapped = (bytes + kHugePage - 1) / kHugePage * kHugePage + kHugePage;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | kNoReserve, -1, 0);
  if (mapping == MAP_FAILED) {
    throw std::runtime_error(std::string("cannot map ") + std::to_string(bytes) + " bytes for " + what + ": " + reason());
  }
  region.mapping_ = mapping;
  region.mapped_ = mapped;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(mapping) + kHugePage - 1) / kHugePage * kHugePage;
  region.data_ = reinterpret_cast<char*>(start);
  region.size_ = bytes;
#ifdef MADV_HUGEPAGE
  // Advice only: where huge pages are off the region works with small ones.
  madvise(region.data_, mapped - kHugePage, MADV_HUGEPAGE);
#endif
  return region;
}

Region Region::of_file(const std::string& path, size_t bytes) {
  Region region;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw std::runtime_error("cannot open " + path + ": " + reason());
  struct stat info {};
  if (fstat(fd, &info) != 0) {
    const std::string why = reason();
    close(fd);
    throw std::runtime_error("cannot read the size of " + path + ": " + why);
  }
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) < bytes) {
    close(fd);
    throw std::runtime_error(path + " has " + std::to_string(info.st_size) + " bytes, expected a file of at least " + std::to_string(bytes));
  }
  if (bytes == 0) {
    close(fd);
    return region;
  }
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  const std::string why = reason();
  close(fd);  // the mapping keeps the file
  if (mapping == MAP_FAILED) throw std::runtime_error("cannot map " + path + ": " + why);
  region.mapping_ = mapping;
  region.mapped_ = bytes;
  region.data_ = static_cast<char*>(mapping);
  region.size_ = bytes;
  // Start reading ahead now; every step walks all weights, so none of it is wasted.
  madvise(mapping, bytes, MADV_WILLNEED);
#ifdef MADV_HUGEPAGE
  madvise(mapping, bytes, MADV_HUGEPAGE);  // takes effect on file systems with huge pages in the page cache
#endif
  return region;
}

}  // namespace ingot
