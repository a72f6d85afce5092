#include "upload.h"

#include <algorithm>
#include <cstring>

namespace ingot::cuda {

namespace {

constexpr size_t kStagingBytes = size_t{32} << 20;

}  // namespace

void upload(const Driver& driver, const Region& weights, const DeviceMemory& to, const Stream& stream, const Progress& progress) {
  struct Staging {
    PinnedMemory memory;
    Event copied;
    bool is_used = false;
  };
  const size_t total = weights.size();
  if (total == 0) return;
  Staging staging[2];
  for (Staging& one : staging) one = {allocate_pinned(driver, std::min(kStagingBytes, total)), create_event(driver), false};
  size_t turn = 0;
  try {
    for (size_t at = 0; at < total; at += kStagingBytes) {
      Staging& one = staging[turn ^= 1];
      if (one.is_used) driver(driver.event_synchronize, one.copied.get());
      const size_t bytes = std::min(kStagingBytes, total - at);
      std::memcpy(one.memory.get(), weights.data() + at, bytes);
      driver(driver.memcpy_htod, to.get() + at, one.memory.get(), bytes, stream.get());
      driver(driver.event_record, one.copied.get(), stream.get());
      one.is_used = true;
      if (progress) progress(static_cast<int64_t>(at + bytes), static_cast<int64_t>(total));
    }
    driver(driver.stream_synchronize, stream.get());
  } catch (...) {
    driver.stream_synchronize.function(stream.get());  // copies may still read the staging buffers
    throw;
  }
}

}  // namespace ingot::cuda
