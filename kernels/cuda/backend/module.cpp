#include "kernels/cuda/module.h"

#include <cuda_runtime_api.h>

#include "kernels/cuda/backend/check.h"
#include "kernels/cuda/backend/cuda_backend.h"

namespace tenfold::cuda {

extern "C" {

ModuleVersion tenfold_cuda_module_version;
MakeBackend tenfold_cuda_make_backend;
DescribeDevices tenfold_cuda_describe_devices;

int tenfold_cuda_module_version() { return kModuleVersion; }

Backend* tenfold_cuda_make_backend(const ModuleOptions& options) {
  return new CudaBackend(options);
}

void tenfold_cuda_describe_devices(std::string& text) {
  const int count = device_count();
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i), "say what it is");
    text += fmt::format("{}cuda:{}  {}, compute {}.{}, {} multiprocessors, {:.1f} GiB",
                        i == 0 ? "" : "\n          ", i, properties.name, properties.major,
                        properties.minor, properties.multiProcessorCount,
                        static_cast<double>(properties.totalGlobalMem) / (1 << 30));
  }
}

}  // extern "C"

}  // namespace tenfold::cuda
