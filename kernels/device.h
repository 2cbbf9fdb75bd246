#pragma once
// The backend that --device names.

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"

namespace tenfold {

struct DeviceOptions {
  std::string device = "cpu";  // cpu, cuda, cuda:N, or auto: cuda where there is a GPU, else cpu
  CpuOptions cpu;              // activations: of either
  // Of what tune() found, a file for each kind of GPU; "": nothing is read or kept.
  std::string tuning_folder = {};
};

// CUDA is a module of its own, libtenfold_cuda.so, looked for beside the program and then as the
// loader looks for libraries (TENFOLD_CUDA_MODULE names another file). Throws device where the
// device asked for is not there, naming what is missing; `auto` takes the CPU then, and tells
// notice() where there is a module.
std::unique_ptr<Backend> make_backend(const DeviceOptions& options,
                                      const std::function<void(std::string_view)>& notice = {});

// The GPUs of this machine, a line each, or one that says why there are none.
std::string describe_cuda();

}  // namespace tenfold
