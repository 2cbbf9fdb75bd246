#pragma once
// What libtenfold_cuda.so exports: C names, so that the program finds them after dlopen().

#include <string>

#include "kernels/backend.h"

namespace tenfold::cuda {

// Program and module are of one build where these agree.
inline constexpr int kModuleVersion = 3;

struct ModuleOptions {
  int device = 0;
  Activations activations = Activations::int8;
  std::string tuning_folder;
};

extern "C" {
using ModuleVersion = int();
using MakeBackend = Backend*(const ModuleOptions& options);  // may throw Error
using DescribeDevices = void(std::string& text);             // a line for each; may throw Error
}

inline constexpr const char* kVersionName = "tenfold_cuda_module_version";
inline constexpr const char* kMakeName = "tenfold_cuda_make_backend";
inline constexpr const char* kDescribeName = "tenfold_cuda_describe_devices";

}  // namespace tenfold::cuda
