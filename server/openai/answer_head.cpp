#include "server/openai/answer_head.h"

#include <fmt/format.h>

#include <chrono>
#include <random>
#include <utility>

namespace tenfold {

std::string new_id(std::string_view prefix) {
  std::random_device device;
  std::string id(prefix);
  for (int i = 0; i < 4; ++i) id += fmt::format("{:08x}", device());
  return id;
}

AnswerHead new_head(std::string_view prefix, std::string model) {
  return {new_id(prefix), seconds_now(), std::move(model)};
}

std::int64_t seconds_now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

const char* finish_text(FinishReason reason) {
  return reason == FinishReason::stop ? "stop" : "length";
}

GenerationUsage UsageSum::total() const {
  GenerationUsage sum;
  for (std::size_t i = 0; i < of_.size(); ++i) {
    sum.generated_tokens += of_[i].generated_tokens;
    if (i % choices_ != 0) continue;
    sum.prompt_tokens += of_[i].prompt_tokens;
    sum.cached_tokens += of_[i].cached_tokens;
  }
  return sum;
}

Json UsageSum::json() const {
  const GenerationUsage sum = total();
  return {{"prompt_tokens", sum.prompt_tokens},
          {"completion_tokens", sum.generated_tokens},
          {"total_tokens", sum.prompt_tokens + sum.generated_tokens},
          {"prompt_tokens_details", {{"cached_tokens", sum.cached_tokens}}}};
}

}  // namespace tenfold
