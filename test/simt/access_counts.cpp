// Counts how well the lanes of a warp share memory's units: 32-byte sectors of global memory, wavefronts of shared memory.
//
// A request is the n-th visit of each lane of a warp to one place in code. Blocks are counted one by one; sums are kept by line.
#include <algorithm>
#include <deque>
#include <map>
#include <unordered_map>

#include "check.hpp"
#include "memory.hpp"
#include "simt.hpp"
#include "source_lines.hpp"

namespace simt {

namespace {

struct Request {
  uintptr_t starts[kLanes];
  uint8_t bytes[kLanes];
  uint32_t lanes = 0;
  bool is_shared = false;
};

// Requests of one warp at one place that still miss lanes; `folded` before them are done.
struct Stream {
  uint32_t visits[kLanes] = {};
  uint32_t folded = 0;
  std::deque<Request> open;
};

struct Sum {
  uint64_t requests = 0, units = 0, ideal = 0;
  bool is_shared = false;
};

struct Site {
  const void* pc;
  bool is_write;
};
std::vector<Site> sites;
std::unordered_map<uintptr_t, uint32_t> numbers;  // of pc · 2 + is_write
std::vector<Sum> sums;                            // by 2 · site + is_shared
std::vector<std::vector<Stream>> streams;         // by warp and site

uint64_t distinct(std::vector<uintptr_t>* units) {
  std::sort(units->begin(), units->end());
  units->erase(std::unique(units->begin(), units->end()), units->end());
  return units->size();
}

void fold_global(const Request& request, Sum* sum) {
  std::vector<uintptr_t> sectors;
  uint64_t bytes = 0;
  for (int l = 0; l < kLanes; ++l) {
    if (!(request.lanes >> l & 1)) continue;
    bytes += request.bytes[l];
    const uintptr_t last = (request.starts[l] + request.bytes[l] - 1) / 32;
    for (uintptr_t s = request.starts[l] / 32; s <= last; ++s) sectors.push_back(s);
  }
  const uint64_t count = distinct(&sectors);
  sum->units += count;
  sum->ideal += std::min((bytes + 31) / 32, count);  // lanes that read the same bytes need fewer
}

// A wavefront takes a word from each of 32 banks: accesses of 8 bytes go by half warps, those of 16 by quarters.
void fold_shared(const Request& request, Sum* sum) {
  int width = 4;
  for (int l = 0; l < kLanes; ++l) {
    if (request.lanes >> l & 1) width = std::max(width, int(request.bytes[l]));
  }
  const int lanes_at_once = kLanes * 4 / width;
  for (int first = 0; first < kLanes; first += lanes_at_once) {
    std::vector<uintptr_t> words;
    for (int l = first; l < first + lanes_at_once; ++l) {
      if (!(request.lanes >> l & 1)) continue;
      for (int b = 0; b < request.bytes[l]; b += 4) words.push_back((request.starts[l] + uintptr_t(b)) / 4);
    }
    if (words.empty()) continue;
    distinct(&words);
    uint64_t banks[32] = {}, most = 0;
    for (const uintptr_t word : words) most = std::max(most, ++banks[word % 32]);
    sum->units += most;
    sum->ideal++;
  }
}

void fold(uint32_t site, const Request& request) {
  Sum& sum = sums[2 * site + request.is_shared];
  sum.is_shared = request.is_shared;
  sum.requests++;
  if (request.is_shared) {
    fold_shared(request, &sum);
  } else {
    fold_global(request, &sum);
  }
}

}  // namespace

uint32_t site_of(const void* pc, bool is_write) {
  const auto [found, is_new] = numbers.insert({reinterpret_cast<uintptr_t>(pc) * 2 + is_write, uint32_t(sites.size())});
  if (is_new) {
    sites.push_back({pc, is_write});
    sums.resize(2 * sites.size());
  }
  return found->second;
}
const void* pc_of_site(uint32_t site) { return sites[site].pc; }

void count_access(uint32_t site, const void* p, size_t bytes, bool is_shared) {
  const size_t warp = size_t(self->warp);
  if (streams.size() <= warp) streams.resize(warp + 1);
  if (streams[warp].size() <= site) streams[warp].resize(sites.size());
  Stream& stream = streams[warp][site];
  const uint32_t place = stream.visits[self->lane]++ - stream.folded;
  while (stream.open.size() <= place) stream.open.emplace_back();
  Request& request = stream.open[place];
  request.starts[self->lane] = reinterpret_cast<uintptr_t>(p);
  request.bytes[self->lane] = uint8_t(bytes);
  request.lanes |= 1u << self->lane;
  request.is_shared = is_shared;
  while (!stream.open.empty() && stream.open.front().lanes == ~0u) {
    fold(site, stream.open.front());
    stream.open.pop_front();
    stream.folded++;
  }
}

void count_block_ends() {
  for (auto& warp : streams) {
    for (size_t site = 0; site < warp.size(); ++site) {
      for (const Request& request : warp[site].open) fold(uint32_t(site), request);
    }
  }
  streams.clear();
}

std::vector<LineAccesses> line_accesses() {
  const std::lock_guard<std::mutex> lock(one_call);
  std::vector<const void*> pcs;
  for (const Site& site : sites) pcs.push_back(site.pc);
  find_places(pcs);
  struct Key {
    std::string file;
    int line;
    bool is_write, is_shared;
    bool operator<(const Key& b) const {
      return std::tie(file, line, is_write, is_shared) < std::tie(b.file, b.line, b.is_write, b.is_shared);
    }
  };
  std::map<Key, Sum> lines;
  for (size_t i = 0; i < sums.size(); ++i) {
    if (sums[i].requests == 0) continue;
    const Place& place = place_of(sites[i / 2].pc);
    Sum& line = lines[{place.file, place.line, sites[i / 2].is_write, sums[i].is_shared}];
    line.requests += sums[i].requests;
    line.units += sums[i].units;
    line.ideal += sums[i].ideal;
  }
  std::vector<LineAccesses> result;
  for (const auto& [key, sum] : lines) {
    result.push_back({key.file, key.line, key.is_write, key.is_shared, sum.requests, double(sum.units) / double(sum.requests),
                      double(sum.ideal) / double(sum.requests)});
  }
  return result;
}

void forget_accesses() {
  const std::lock_guard<std::mutex> lock(one_call);
  sites.clear();
  numbers.clear();
  sums.clear();
  streams.clear();
  forget_places();
}

}  // namespace simt
