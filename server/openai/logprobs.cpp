#include "server/openai/logprobs.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr float kLeast = -9999;  // what OpenAI gives for "impossible": JSON has no infinity

float finite(float logprob) { return std::isfinite(logprob) ? logprob : kLeast; }

Json entry(TokenId id, float logprob, const Tokenizer& tokenizer) {
  const std::string piece = tokenizer.piece(id, true);
  Json bytes = Json::array();
  for (const unsigned char byte : piece) bytes.push_back(byte);
  return {
      {"token", sanitize_utf8(piece)}, {"logprob", finite(logprob)}, {"bytes", std::move(bytes)}};
}

std::int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

Json chat_logprob(const TokenLogprob& record, const Tokenizer& tokenizer) {
  Json json = entry(record.token, record.logprob, tokenizer);
  json["top_logprobs"] = Json::array();
  for (const auto& [id, logprob] : record.top) {
    json["top_logprobs"].push_back(entry(id, logprob, tokenizer));
  }
  return json;
}

std::string LegacyLogprobs::append(TokenId token) {
  std::string text = sanitize_utf8(tokenizer_->piece(token, true));
  tokens_.push_back(text);
  offsets_.push_back(offset_);
  offset_ += characters(text);
  return text;
}

void LegacyLogprobs::add_first(TokenId token) {
  append(token);
  logprobs_.push_back(nullptr);
  tops_.push_back(nullptr);
}

void LegacyLogprobs::add(const TokenLogprob& record) {
  const std::string text = append(record.token);
  logprobs_.push_back(finite(record.logprob));
  Json top = Json::object();
  for (const auto& [id, logprob] : record.top) {
    // Tokens that are not whole characters may look alike: the likeliest speaks for them.
    const std::string other = sanitize_utf8(tokenizer_->piece(id, true));
    if (!top.contains(other)) top[other] = finite(logprob);
  }
  if (top_ && !top.contains(text)) top[text] = finite(record.logprob);
  tops_.push_back(std::move(top));
}

Json LegacyLogprobs::take() {
  const auto taken = [](Json& list) { return std::exchange(list, Json::array()); };
  Json json;
  json["tokens"] = taken(tokens_);
  json["token_logprobs"] = taken(logprobs_);
  json["top_logprobs"] = top_ ? taken(tops_) : Json();
  json["text_offset"] = taken(offsets_);
  tops_ = Json::array();
  return json;
}

}  // namespace tenfold
