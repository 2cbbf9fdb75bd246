#include "kernels/device.h"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "kernels/cuda/module.h"
#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr const char* kModule = "libtenfold_cuda.so";

// Beside the program, where it was installed, or where it was built.
std::string module_path() {
  namespace fs = std::filesystem;
  if (const char* path = std::getenv("TENFOLD_CUDA_MODULE")) return path;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  for (const char* folder : {".", "../lib", "../kernels"}) {
    fs::path path = program.parent_path() / folder / kModule;
    if (!error && fs::exists(path, error)) return path.string();
  }
  return "";
}

// Loading the module and its libraries takes a while: `auto` looks for the driver first.
std::string why_not_cuda() {
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr) return "";
  return "there is no NVIDIA driver (libcuda.so.1)";
}

template <typename Function>
Function* symbol(void* module, const char* name) {
  void* found = dlsym(module, name);
  if (found == nullptr) {
    throw_error(ErrorCode::device, "{} is not this program's CUDA module: it lacks {}",
                module_path(), name);
  }
  return reinterpret_cast<Function*>(found);
}

// Never closed: what it allocated may outlive every backend.
void* open_module() {
  const std::string path = module_path();
  if (path.empty()) {
    throw_error(ErrorCode::device, "there is no CUDA backend: {} is not beside the program",
                kModule);
  }
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    throw_error(ErrorCode::device, "the CUDA backend cannot be loaded: {}", dlerror());
  }
  const int version = symbol<cuda::ModuleVersion>(module, cuda::kVersionName)();
  if (version != cuda::kModuleVersion) {
    throw_error(ErrorCode::device, "{} is of another build: version {}, expected {}", module_path(),
                version, cuda::kModuleVersion);
  }
  return module;
}

std::unique_ptr<Backend> make_cuda_backend(const DeviceOptions& options) {
  cuda::ModuleOptions module_options{0, options.cpu.activations, options.tuning_folder};
  if (const auto colon = options.device.find(':'); colon != std::string::npos) {
    const char* end = options.device.data() + options.device.size();
    const auto read =
        std::from_chars(options.device.data() + colon + 1, end, module_options.device);
    if (read.ec != std::errc{}) {
      throw_error(ErrorCode::device, "there is no {}", options.device);
    }
  }
  return std::unique_ptr<Backend>(
      symbol<cuda::MakeBackend>(open_module(), cuda::kMakeName)(module_options));
}

}  // namespace

std::unique_ptr<Backend> make_backend(const DeviceOptions& options,
                                      const std::function<void(std::string_view)>& notice) {
  if (options.device != "cpu" && options.device != "auto") return make_cuda_backend(options);
  if (options.device == "auto" && !module_path().empty()) {
    std::string why = why_not_cuda();
    try {
      if (why.empty()) return make_cuda_backend(options);
    } catch (const Error& error) {
      why = error.what();
    }
    if (notice) notice(fmt::format("Running on the CPU: {}.", why));
  }
  return make_cpu_backend(options.cpu);
}

std::string describe_cuda() {
  try {
    std::string text;
    symbol<cuda::DescribeDevices>(open_module(), cuda::kDescribeName)(text);
    return text;
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace tenfold
