// Pages of the checker's memory of accesses.
#include "shadow.hpp"

#include <algorithm>

namespace simt {

Shadow::Cells Shadow::cells(const char* p, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p), number = address / kPageBytes;
  if (number != last_number_ || !last_page_) {
    Page& page = pages_[number];
    if (page.cells.empty()) {
      if (!spare_.empty()) {
        page.cells = std::move(spare_.back());
        spare_.pop_back();
      }
      page.cells.assign(kPageBytes >> page.shift, Cell());
    }
    last_number_ = number;
    last_page_ = &page;
  }
  Page* page = last_page_;
  const int shift = std::min(2, __builtin_ctzll(address | bytes));
  if (shift < page->shift) split(page, shift);
  const size_t offset = address % kPageBytes;
  return {&page->cells[offset >> page->shift], std::max<size_t>(bytes >> page->shift, 1)};
}

void Shadow::split(Page* page, int shift) {
  std::vector<Cell> finer(kPageBytes >> shift);
  for (size_t i = 0; i < finer.size(); ++i) finer[i] = page->cells[i << shift >> page->shift];
  page->cells = std::move(finer);
  page->shift = shift;
}

namespace {

constexpr size_t kPageWords = Shadow::kPageBytes / 4;
static_assert(kPageWords == 64, "a page's words are the bits of one integer");

// Calls visit(page, bit) for each word until it returns true; whether it did.
template <class Visit>
bool visit_words(const char* p, size_t bytes, Visit visit) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(p) / 4, last = (reinterpret_cast<uintptr_t>(p) + bytes - 1) / 4;
  for (uintptr_t word = first; word <= last; ++word) {
    if (visit(word / kPageWords, uint64_t{1} << word % kPageWords)) return true;
  }
  return false;
}

}  // namespace

void WrittenWords::add(const char* p, size_t bytes) {
  visit_words(p, bytes, [this](uintptr_t page, uint64_t bit) {
    pages_[page] |= bit;
    return false;
  });
}

bool WrittenWords::has_any(const char* p, size_t bytes) const {
  return visit_words(p, bytes, [this](uintptr_t page, uint64_t bit) {
    const auto found = pages_.find(page);
    return found != pages_.end() && (found->second & bit) != 0;
  });
}

void Shadow::forget_all() {
  for (auto& [number, page] : pages_) {
    if (page.shift == 2) spare_.push_back(std::move(page.cells));
  }
  pages_.clear();
  last_page_ = nullptr;
}

}  // namespace simt
