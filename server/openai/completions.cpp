#include "server/openai/completions.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "runtime/utf8.h"
#include "server/openai/logprobs.h"

namespace tenfold {
namespace {

std::vector<TokenId> encoded(const std::string& text, const std::string& where,
                             const RequestLimits& limits, const Tokenizer& tokenizer) {
  check_text(text.size(), limits.most_text_bytes, where);
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos;
  return tokenizer.encode(text, options);
}

std::vector<TokenId> read_ids(const Json& list, const std::string& where) {
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max()) {
      refuse(where, "{} must have token ids, found {}", where, shown(id));
    }
    ids.push_back(id.get<TokenId>());
  }
  return ids;
}

class CompletionWriter : public Writer {
 public:
  CompletionWriter(const CompletionRequest& request, AnswerHead head, const Tokenizer& tokenizer)
      : head_(std::move(head)),
        include_usage_(request.common.include_usage),
        logprobs_(request.top_logprobs.has_value()),
        usage_(request.prompts.size(), static_cast<std::size_t>(request.common.choices)) {
    const auto n = static_cast<std::size_t>(request.common.choices);
    for (std::size_t i = 0; i < request.prompts.size() * n; ++i) {
      const std::vector<TokenId>& prompt = request.prompts[i / n];
      choices_.push_back(
          {"", "", LegacyLogprobs(tokenizer, request.top_logprobs.value_or(0) > 0), Json(), {}});
      if (!request.echo) continue;
      choices_.back().pending = sanitize_utf8(tokenizer.decode(prompt, true));
      choices_.back().logprobs.add_first(prompt.front());
    }
  }

  std::vector<Part> begin() override { return {}; }

  std::vector<Part> add(std::size_t index, const GenerationEvent& event) override {
    Choice& choice = choices_[index];
    usage_.set(index, event.usage);
    for (const TokenLogprob& record : event.prompt_tokens) choice.logprobs.add(record);
    for (const TokenLogprob& record : event.tokens) choice.logprobs.add(record);
    choice.pending += event.text;
    if (event.finish) choice.finish = finish_text(*event.finish);
    // A prompt that is echoed comes whole, with its first token.
    if (event.usage.generated_tokens == 0 && !event.finish) return {};
    const std::string text = std::exchange(choice.pending, {});
    choice.text += text;
    Json records = logprobs_ ? choice.logprobs.take() : Json();
    const bool says = !text.empty() || event.finish || (logprobs_ && !records["tokens"].empty());
    if (!says) return {};
    Json json = object();
    json["choices"] = Json::array({choice_json(index, text, records, choice.finish)});
    if (include_usage_) json["usage"] = nullptr;
    keep(choice.records, std::move(records));
    return {{"", std::move(json)}};
  }

  std::vector<Part> end() override {
    if (!include_usage_) return {};
    Json json = object();
    json["choices"] = Json::array();
    json["usage"] = usage_.json();
    return {{"", std::move(json)}};
  }

  Json whole() override {
    Json json = object();
    json["choices"] = Json::array();
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      json["choices"].push_back(
          choice_json(i, choices_[i].text, choices_[i].records, choices_[i].finish));
    }
    json["usage"] = usage_.json();
    return json;
  }

 private:
  struct Choice {
    std::string text, pending;
    LegacyLogprobs logprobs;
    Json records;
    std::string finish;
  };

  static void keep(Json& all, Json more) {
    if (all.is_null() || more.is_null()) {
      all = std::move(more);
      return;
    }
    for (auto& [name, list] : more.items()) {
      if (list.is_array()) all[name].insert(all[name].end(), list.begin(), list.end());
    }
  }

  static Json choice_json(std::size_t index, const std::string& text, const Json& records,
                          const std::string& finish) {
    return {{"index", index},
            {"text", text},
            {"logprobs", records},
            {"finish_reason", finish.empty() ? Json() : Json(finish)}};
  }

  Json object() const {
    return {{"id", head_.id},
            {"object", "text_completion"},
            {"created", head_.created},
            {"model", head_.model}};
  }

  AnswerHead head_;
  bool include_usage_, logprobs_;
  UsageSum usage_;
  std::vector<Choice> choices_;
};

}  // namespace

std::vector<std::vector<TokenId>> read_prompts(const Json& prompt, const std::string& where,
                                               std::size_t most, const RequestLimits& limits,
                                               const Tokenizer& tokenizer) {
  const auto is_id = [](const Json& json) { return json.is_number(); };
  std::vector<std::vector<TokenId>> prompts;
  if (prompt.is_string()) {
    prompts.push_back(encoded(prompt.get<std::string>(), where, limits, tokenizer));
  } else if (prompt.is_array() && !prompt.empty() &&
             std::all_of(prompt.begin(), prompt.end(), is_id)) {
    prompts.push_back(read_ids(prompt, where));
  } else {
    if (!prompt.is_array() || prompt.empty() || prompt.size() > most) {
      refuse(where, "{} must be a string, a list of token ids, or a list of 1 to {} of these",
             where, most);
    }
    for (std::size_t i = 0; i < prompt.size(); ++i) {
      const std::string at = fmt::format("{}[{}]", where, i);
      if (prompt[i].is_string()) {
        prompts.push_back(encoded(prompt[i].get<std::string>(), at, limits, tokenizer));
      } else if (prompt[i].is_array()) {
        prompts.push_back(read_ids(prompt[i], at));
      } else {
        refuse(at, "{} must be a string or a list of token ids, found {}", at,
               prompt[i].type_name());
      }
    }
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (prompts[i].empty()) refuse(where, "{} {} is empty", where, i);
  }
  return prompts;
}

CompletionRequest read_completion(const Json& body, const RequestLimits& limits,
                                  const Tokenizer& tokenizer) {
  Fields fields(body);
  CompletionRequest request;
  request.common = read_common(fields, limits);
  const Json* prompt = fields.take("prompt");
  if (prompt == nullptr) refuse("prompt", "prompt is missing");
  const auto most = static_cast<std::size_t>(limits.most_prompts / request.common.choices);
  request.prompts = read_prompts(*prompt, "prompt", most, limits, tokenizer);
  request.echo = fields.boolean("echo").value_or(false);
  if (const auto top = fields.integer("logprobs", 0, limits.most_top_logprobs)) {
    request.top_logprobs = static_cast<int>(*top);
  }
  if (request.echo && request.top_logprobs) {
    std::int64_t records = 0;
    for (const auto& ids : request.prompts) records += static_cast<std::int64_t>(ids.size());
    records *= request.common.choices * (*request.top_logprobs + 1);
    if (records > limits.most_logprobs) {
      refuse("logprobs", "echo would give {} logprobs, at most {} are allowed", records,
             limits.most_logprobs);
    }
  }
  request.grammar = read_grammar(fields);
  const auto best_of = fields.integer("best_of", 1, limits.most_choices);
  if (best_of && *best_of != request.common.choices) {
    refuse("best_of", "best_of is not supported beyond n, found {}", *best_of);
  }
  if (const auto suffix = fields.text("suffix"); suffix && !suffix->empty()) {
    refuse("suffix", "suffix is not supported: the models that Tenfold runs only continue");
  }
  fields.finish();
  return request;
}

std::unique_ptr<Writer> completion_writer(const CompletionRequest& request, AnswerHead head,
                                          const Tokenizer& tokenizer) {
  return std::make_unique<CompletionWriter>(request, std::move(head), tokenizer);
}

}  // namespace tenfold
