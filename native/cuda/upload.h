// Weights on their way from the mapped file to the device.
//
// Not a cache: the mapping is gone when the upload is done.
#pragma once

#include <cstdint>
#include <functional>

#include "../memory.h"
#include "device.h"

namespace ingot::cuda {

using Progress = std::function<void(int64_t done, int64_t total)>;

// Copies `weights` to `to`, through two pinned buffers so that reading the file overlaps copying. All of it has arrived on return.
void upload(const Driver& driver, const Region& weights, const DeviceMemory& to, const Stream& stream, const Progress& progress);

}  // namespace ingot::cuda
