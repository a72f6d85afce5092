// What the checker remembers of memory: for each cell who wrote it last and who read it since. Pages come into being where kernels touch
// memory, with cells of 4 bytes that are split to 2 or 1 where narrower accesses come: 18 bytes a byte of what was touched by words.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <unordered_map>
#include <vector>

namespace simt {

// An access by one lane, or reads by several lanes of a warp between the same barriers.
struct Record {
  uint32_t block = 0;
  uint32_t barriers = 0;  // block barriers the block had passed
  uint32_t syncs = 0;     // sync_warps the warp had passed
  uint32_t lanes = 0;     // none: nothing recorded
  uint32_t site = 0;
  uint16_t warp = 0;
  bool is_atomic = false;
  bool is_open_copy = false;
};

struct Cell {
  Record write;
  Record reads[2];  // the last, and the last of another warp
};

class Shadow {
 public:
  // The cells of [p, p + bytes), which lie in one page of kPageBytes.
  struct Cells {
    Cell* first;
    size_t count;
  };
  static constexpr size_t kPageBytes = 256;
  Cells cells(const char* p, size_t bytes);
  void forget_all();

 private:
  struct Page {
    int shift = 2;  // log2 of a cell's bytes
    std::vector<Cell> cells;
  };
  void split(Page* page, int shift);

  std::unordered_map<uintptr_t, Page> pages_;
  std::vector<std::vector<Cell>> spare_;
  uintptr_t last_number_ = 0;
  Page* last_page_ = nullptr;
};

// Words of global memory that kernels have written, over all launches: one bit each.
class WrittenWords {
 public:
  void add(const char* p, size_t bytes);
  bool has_any(const char* p, size_t bytes) const;
  void forget_all() { pages_.clear(); }

 private:
  std::unordered_map<uintptr_t, uint64_t> pages_;  // of Shadow::kPageBytes
};

}  // namespace simt
