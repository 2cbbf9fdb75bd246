#pragma once
// What every object of an answer repeats.

#include <cstdint>
#include <string>

#include "runtime/generation.h"
#include "server/openai/fields.h"

namespace tenfold {

struct AnswerHead {
  std::string id;            // "chatcmpl-..."
  std::int64_t created = 0;  // seconds since 1970
  std::string model;
};

// A new id, unguessable.
std::string new_id(std::string_view prefix);
std::int64_t seconds_now();  // since 1970
AnswerHead new_head(std::string_view prefix, std::string model);

// "stop" or "length".
const char* finish_text(FinishReason reason);

// Of all generations of one request: a prompt that several answers share counts once.
class UsageSum {
 public:
  UsageSum(std::size_t prompts, std::size_t choices) : choices_(choices), of_(prompts * choices) {}
  void set(std::size_t index, const GenerationUsage& usage) { of_.at(index) = usage; }
  GenerationUsage total() const;
  // {"prompt_tokens","completion_tokens","total_tokens","prompt_tokens_details":{"cached_tokens"}}
  Json json() const;

 private:
  std::size_t choices_;
  std::vector<GenerationUsage> of_;
};

}  // namespace tenfold
