#include "kernels/cpu/isa.h"
#include "kernels/device.h"
#include "kernels/thread_pool.h"
#include "tools/args.h"
#include "tools/io.h"
#include "tools/memory.h"

namespace tenfold {
namespace {

std::string features_text() {
  const CpuFeatures f = detect_cpu();
  std::string text;
  const auto add = [&](bool present, const char* name) {
    if (present) text += (text.empty() ? "" : ", ") + std::string(name);
  };
  add(f.avx2, "avx2");
  add(f.fma, "fma");
  add(f.f16c, "f16c");
  add(f.avx512, "avx512");
  add(f.avx512_vnni, "avx512-vnni");
  return text.empty() ? "none that Tenfold uses" : text;
}

int run(const CommonOptions& options) {
  const KernelTable& chosen = choose_kernels(options.isa);
  std::string runnable;
  for (const KernelTable* table : runnable_kernels()) {
    runnable += (runnable.empty() ? "" : ", ") + std::string(table->isa);
  }
  print(
      fmt::format("CPU       {}\nfeatures  {}\nkernels   {} (this machine runs {})\nthreads   {}\n"
                  "memory    {}, {} available\nCUDA      {}\n",
                  cpu_name(), features_text(), chosen.isa, runnable,
                  options.threads > 0 ? options.threads : default_thread_count(),
                  megabytes(memory_field("MemTotal")), megabytes(memory_field("MemAvailable")),
                  describe_cuda()));
  return kExitOk;
}

}  // namespace

Command add_devices(CLI::App& app) {
  auto options = std::make_shared<CommonOptions>();
  CLI::App* sub = app.add_subcommand("devices", "Show what Tenfold can run on here");
  add_common_options(*sub, *options, ModelArgument::none);
  sub->footer("Example:\n  tenfold devices");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
