#pragma once
// The CUDA backend as the program opens it; tests skip aloud where there is no device.

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "kernels/device.h"
#include "kernels/error.h"
#include "tests/support/scratch_folder.h"

namespace tenfold::testing {

inline std::unique_ptr<Backend> on_device(Activations activations = Activations::int8) {
  return make_backend({"cuda", {1, "", activations}});
}

// The names of the kernels that are launched between begin() and end(); nothing but on the
// interpreter.
class LaunchLog {
 public:
  explicit LaunchLog(const ScratchFolder& folder) : path_(folder / "launches") {}
  ~LaunchLog() { unsetenv("PTXSIM_PROF_JSON"); }
  void begin() const { setenv("PTXSIM_PROF_JSON", path_.c_str(), 1); }
  std::string end() const {
    unsetenv("PTXSIM_PROF_JSON");
    if (!std::filesystem::exists(path_)) return {};
    std::string names = read_file(path_);
    std::filesystem::remove(path_);
    return names;
  }

 private:
  std::filesystem::path path_;
};

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      on_device();
    } catch (const Error& error) {
      GTEST_SKIP() << "NOT TESTED: " << error.what();
    }
  }
};

}  // namespace tenfold::testing
