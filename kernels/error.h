#pragma once
// The one exception type. Every message is a plain sentence that names what, where, and what was
// expected and found; tools/ turns the code into an exit status, server/ into an HTTP status.

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace tenfold {

enum class ErrorCode {
  io,             // the operating system refused: disk full, permission, output exists
  bad_file,       // an input file is missing, truncated or inconsistent
  unsupported,    // well-formed, but not something Tenfold runs
  bad_request,    // a flag, prompt or parameter is out of range
  out_of_memory,  // an allocation failed or would exceed a stated limit
  device,         // CUDA or another device failed
  cancelled,      // the user interrupted
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// throw_error(ErrorCode::bad_request, "--top-k must be at least 0, found {}", k);
template <typename... Args>
[[noreturn]] void throw_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// throw_file_error(path, "tensor \"{}\": {} bytes, expected {}", name, found, expected);
// The message starts with the path; the code is bad_file.
template <typename... Args>
[[noreturn]] void throw_file_error(std::string_view path, fmt::format_string<Args...> format,
                                   Args&&... args) {
  throw Error(ErrorCode::bad_file,
              fmt::format("{}: {}", path, fmt::format(format, std::forward<Args>(args)...)));
}

}  // namespace tenfold
