#pragma once
// What is wrong with a request, as OpenAI's API says it.

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace tenfold {

class ApiError : public std::runtime_error {
 public:
  ApiError(int status, std::string type, const std::string& message, std::string param = {},
           std::string code = {})
      : std::runtime_error(message),
        status_(status),
        type_(std::move(type)),
        param_(std::move(param)),
        code_(std::move(code)) {}

  int status() const noexcept { return status_; }
  // {"error":{"message","type","param","code"}}
  nlohmann::ordered_json json() const {
    const auto or_null = [](const std::string& text) {
      return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
    };
    return {{"error",
             {{"message", what()},
              {"type", type_},
              {"param", or_null(param_)},
              {"code", or_null(code_)}}}};
  }

 private:
  int status_;
  std::string type_, param_, code_;
};

// 400: the parameter and a sentence about it.
template <typename... Args>
[[noreturn]] void refuse(const std::string& param, fmt::format_string<Args...> format,
                         Args&&... args) {
  throw ApiError(400, "invalid_request_error", fmt::format(format, std::forward<Args>(args)...),
                 param);
}

}  // namespace tenfold
