// What a kernel image was built for, read from its bytes; only error messages ask.
//
// Not a loader: the driver loads images, and alone decides whether they fit.
#pragma once

#include <cstddef>
#include <string>

namespace ingot::cuda {

// "sm_80, sm_90a, compute_80" of a fat binary, a cubin or PTX text; "" of anything else.
std::string architectures_of(const char* image, size_t bytes);

}  // namespace ingot::cuda
