// Memory the executor owns: read-only file mappings for weights, zeroed huge-page regions for arena, KV cache and scratch.
//
// Not an allocator: a region lives as long as its object and is never resized.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace ingot {

// Start of every anonymous region: one huge page, so that the kernel may back it with 2 MB pages from the first byte.
inline constexpr size_t kHugePage = size_t{2} << 20;

// A mapped range of bytes, unmapped when destroyed. Move only; an empty one holds nothing.
class Region {
 public:
  Region() = default;
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    Region moved(std::move(other));
    swap(moved);
    return *this;
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region();

  char* data() const { return data_; }
  size_t size() const { return size_; }

  // `bytes` of zeros, committed page by page on first touch, 2 MB aligned. Throws std::runtime_error naming `what`.
  static Region zeroed(size_t bytes, const char* what);
  // The first `bytes` of a file, read only. Throws std::runtime_error if it cannot be read or is shorter.
  static Region of_file(const std::string& path, size_t bytes);

 private:
  void swap(Region& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapping_, other.mapping_);
    std::swap(mapped_, other.mapped_);
  }

  char* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;  // what munmap wants: the region before alignment
  size_t mapped_ = 0;
};

}  // namespace ingot
