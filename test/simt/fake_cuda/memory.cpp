// Device memory, pinned host memory, and the copies between them.
//
// Device memory is the emulator's: poisoned with 0xFF, so that what nobody wrote is NaN, and known to the checker.
#include <string.h>

#include "device.h"
#include "streams.h"

namespace fake_cuda {

namespace {

struct Allocation : Owned {
  char* start = nullptr;
  size_t bytes = 0;
  ~Allocation() { simt::device_free(start); }
};
struct Pinned : Owned {
  std::unique_ptr<char[]> memory;
  size_t bytes = 0;
};

Table<Allocation>& allocations() {
  static auto* table = new Table<Allocation>("allocations of device memory");
  return *table;
}
Table<Pinned>& pinned_blocks() {
  static auto* table = new Table<Pinned>("blocks of pinned memory");
  return *table;
}

size_t used_bytes(int device) {
  size_t bytes = 0;
  allocations().for_each([&](const Allocation& allocation) { bytes += allocation.device == device ? allocation.bytes : 0; });
  return bytes;
}

enum class Where { kPageable, kPinned };

// Where host memory is; refuses a range that begins in a pinned block and ends outside.
Where place_of(const void* start, size_t bytes) {
  const char* const from = static_cast<const char*>(start);
  Where where = Where::kPageable;
  pinned_blocks().for_each([&](const Pinned& block) {
    if (from < block.memory.get() || from >= block.memory.get() + block.bytes) return;
    if (bytes > static_cast<size_t>(block.memory.get() + block.bytes - from)) {
      refuse(kInvalidValue, "a copy of " + std::to_string(bytes) + " bytes leaves its pinned block of " + std::to_string(block.bytes));
    }
    where = Where::kPinned;
  });
  return where;
}

char* device_range(Address address, size_t bytes) {
  char* const start = reinterpret_cast<char*>(address);
  if (bytes == 0) refuse(kInvalidValue, "a copy of 0 bytes");
  if (!simt::is_device_memory(start, bytes)) {
    refuse(kInvalidValue, std::to_string(bytes) + " bytes from here on are not in one allocation of device memory, or it is freed");
  }
  return start;
}

std::string size(size_t bytes) { return "bytes=" + std::to_string(bytes); }

// Copies touch memory when they run, which is when it has to be there.
Operation copy_to_device(Address to, const void* from, size_t bytes, Where where) {
  return {[=] {
    if (where == Where::kPinned && place_of(from, bytes) != where) {
      refuse(kLaunchFailed, "pinned memory was freed before the copy that reads it ran");
    }
    memcpy(device_range(to, bytes), from, bytes);
  }};
}
Operation copy_to_host(void* to, Address from, size_t bytes, Where where) {
  return {[=] {
    if (where == Where::kPinned && place_of(to, bytes) != where) {
      refuse(kLaunchFailed, "pinned memory was freed before the copy that writes it ran");
    }
    memcpy(to, device_range(from, bytes), bytes);
  }};
}

// A copy of pageable memory is done when the call returns.
void enqueue_copy(Stream& stream, Operation operation, Where where) {
  if (where == Where::kPageable && stream.captured) refuse(kCaptureUnsupported, "a copy of pageable memory cannot be captured");
  enqueue(stream, std::move(operation));
  if (where == Where::kPageable) drain(stream);
}

}  // namespace

}  // namespace fake_cuda

using namespace fake_cuda;

FAKE_CUDA_API cuMemGetInfo_v2(size_t* free, size_t* total) {
  return call("cuMemGetInfo_v2", "", [&] {
    require_context();
    *total = model().memory;
    *free = *total - used_bytes(current_device());
  });
}

FAKE_CUDA_API cuMemAlloc_v2(Address* address, size_t bytes) {
  return call("cuMemAlloc_v2", size(bytes), [&] {
    require_context();
    forbid_while_capturing();
    if (bytes == 0) refuse(kInvalidValue, "an allocation of 0 bytes");
    if (bytes > model().memory - used_bytes(current_device())) refuse(kOutOfMemory, "");
    void* const start = simt::device_alloc(bytes, "memory of " + std::to_string(bytes) + " bytes");
    if (start == nullptr) refuse(kOutOfMemory, "");
    auto allocation = std::make_unique<Allocation>();
    allocation->start = static_cast<char*>(start);
    allocation->bytes = bytes;
    Handle handle;
    allocations().add(&handle, std::move(allocation));
    *address = reinterpret_cast<Address>(start);
  });
}

FAKE_CUDA_API cuMemFree_v2(Address address) {
  return call("cuMemFree_v2", "", [&] {
    require_any_context();
    forbid_while_capturing();
    if (!context_of(current_device()).failure) drain_all();  // as documented: freeing waits
    Handle handle = 0;
    allocations().for_each_handle([&](Handle one, const Allocation& allocation) {
      if (reinterpret_cast<Address>(allocation.start) == address) handle = one;
    });
    if (handle == 0) refuse(kInvalidValue, "this is no allocation of device memory, or it is freed");
    allocations().remove(handle);
  });
}

FAKE_CUDA_API cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) {
  return call("cuMemHostAlloc", size(bytes) + " flags=" + std::to_string(flags), [&] {
    require_context();
    if (bytes == 0) refuse(kInvalidValue, "an allocation of 0 bytes");
    auto pinned = std::make_unique<Pinned>();
    pinned->memory.reset(new char[bytes]);
    pinned->bytes = bytes;
    memset(pinned->memory.get(), 0xff, bytes);
    *memory = pinned->memory.get();
    Handle handle;
    pinned_blocks().add(&handle, std::move(pinned));
  });
}

FAKE_CUDA_API cuMemFreeHost(void* memory) {
  return call("cuMemFreeHost", "", [&] {
    require_any_context();
    Handle handle = 0;
    pinned_blocks().for_each_handle([&](Handle one, const Pinned& block) {
      if (block.memory.get() == memory) handle = one;
    });
    if (handle == 0) refuse(kInvalidValue, "this is no block of pinned memory, or it is freed");
    pinned_blocks().remove(handle);
  });
}

FAKE_CUDA_API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, Handle stream) {
  return call("cuMemcpyHtoDAsync_v2", size(bytes), [&] {
    require_context();
    device_range(to, bytes);
    const Where where = place_of(from, bytes);
    enqueue_copy(streams().get(stream), copy_to_device(to, from, bytes, where), where);
  });
}

FAKE_CUDA_API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, Handle stream) {
  return call("cuMemcpyDtoHAsync_v2", size(bytes), [&] {
    require_context();
    device_range(from, bytes);
    const Where where = place_of(to, bytes);
    enqueue_copy(streams().get(stream), copy_to_host(to, from, bytes, where), where);
  });
}

FAKE_CUDA_API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) {
  return call("cuMemcpyDtoDAsync_v2", size(bytes), [&] {
    require_context();
    device_range(to, bytes);
    device_range(from, bytes);
    enqueue(streams().get(stream), {[=] { memmove(device_range(to, bytes), device_range(from, bytes), bytes); }});
  });
}

FAKE_CUDA_API cuMemsetD8Async(Address to, unsigned char value, size_t bytes, Handle stream) {
  return call("cuMemsetD8Async", size(bytes) + " value=" + std::to_string(value), [&] {
    require_context();
    device_range(to, bytes);
    enqueue(streams().get(stream), {[=] { memset(device_range(to, bytes), value, bytes); }});
  });
}
