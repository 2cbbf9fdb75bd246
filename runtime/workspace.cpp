#include "runtime/workspace.h"

namespace tenfold {

Workspace make_workspace(const DeviceOptions& options) {
  auto device = make_backend(options);
  auto cpu = device->shares_host_memory() ? nullptr : make_cpu_backend(options.cpu);
  return Workspace(std::move(device), std::move(cpu));
}

}  // namespace tenfold
