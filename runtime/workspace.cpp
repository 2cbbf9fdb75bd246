#include "runtime/workspace.h"

namespace tenfold {

Workspace make_workspace(const DeviceOptions& options) {
  auto device = make_backend(options);
  if (device->shares_host_memory()) return Workspace(std::move(device));
  auto cpu = make_cpu_backend(options.cpu, device.get());
  return Workspace(std::move(device), std::move(cpu));
}

}  // namespace tenfold
