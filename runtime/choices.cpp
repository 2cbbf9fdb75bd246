#include "runtime/choices.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/score.h"

namespace tenfold {
namespace {

using nlohmann::json;

constexpr std::int64_t kBatchTokens = 512;  // of the items run together

// One line of a task file.
class Line {
 public:
  Line(const json& object, std::string name) : name_(std::move(name)), json_(object) {
    if (!json_.is_object()) throw_file_error(name_, "is not a JSON object");
  }

  bool has(const char* field) const { return json_.contains(field); }

  std::string text(const char* field) const {
    const auto found = json_.find(field);
    if (found == json_.end() || !found->is_string()) fail_field(field, "a string");
    return found->get<std::string>();
  }

  std::vector<std::string> texts(const char* field) const {
    const auto found = json_.find(field);
    const bool good = found != json_.end() && found->is_array() && found->size() >= 2 &&
                      std::all_of(found->begin(), found->end(),
                                  [](const json& text) { return text.is_string(); });
    if (!good) fail_field(field, "an array of two or more strings");
    return found->get<std::vector<std::string>>();
  }

  std::size_t gold(std::size_t n) const {
    const auto found = json_.find("gold");
    if (found == json_.end() || !found->is_number_unsigned() || *found >= n) {
      fail_field("gold", fmt::format("the number of a choice, 0 to {}", n - 1));
    }
    return found->get<std::size_t>();
  }

 private:
  [[noreturn]] void fail_field(const char* field, std::string_view expected) const {
    throw_file_error(name_, "has no field \"{}\" that is {}", field, expected);
  }

  std::string name_;
  const json& json_;
};

std::string right_stripped(std::string text) {
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

std::int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

ChoiceItem to_item(const Line& line) {
  ChoiceItem item;
  if (line.has("context_options")) {
    const std::string continuation = line.text("continuation");
    for (std::string& context : line.texts("context_options")) {
      item.choices.push_back({context, " " + continuation, count_characters(continuation)});
    }
  } else {
    const std::string context = right_stripped(line.text("query")) + "\nAnswer:";
    for (const std::string& choice : line.texts("choices")) {
      item.choices.push_back({context, " " + choice, count_characters(choice)});
    }
  }
  for (Choice& choice : item.choices) {
    choice.characters = std::max<std::int64_t>(1, choice.characters);
  }
  item.gold = line.gold(item.choices.size());
  item.shot = item.choices[item.gold].context + item.choices[item.gold].scored;
  return item;
}

// A choice as tokens: those from `first` on are scored.
struct Encoded {
  std::vector<TokenId> ids;
  std::int64_t first = 0;
};

// Cut where the context's own tokens end, as lm-eval does, at least one token being scored.
Encoded encode(const Tokenizer& tokenizer, const Choice& choice, std::int64_t max_context) {
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos;
  options.parse_special = false;
  Encoded result;
  result.ids = tokenizer.encode(choice.context + choice.scored, options);
  auto context = static_cast<std::int64_t>(tokenizer.encode(choice.context, options).size());
  if (context == 0) {  // the first scored token has to follow something
    const std::optional<TokenId> start = tokenizer.bos ? tokenizer.bos : tokenizer.eos;
    if (!start) throw_error(ErrorCode::bad_request, "a choice without context needs a BOS token");
    result.ids.insert(result.ids.begin(), *start);
    context = 1;
  }
  const auto size = static_cast<std::int64_t>(result.ids.size());
  result.first = std::clamp<std::int64_t>(context, 1, std::max<std::int64_t>(1, size - 1));
  // The last token is only ever predicted.
  if (const std::int64_t excess = size - 1 - max_context; excess > 0) {
    result.ids.erase(result.ids.begin(), result.ids.begin() + excess);
    result.first = std::max<std::int64_t>(1, result.first - excess);
  }
  return result;
}

// Log-likelihood of each choice, all in one step.
std::vector<double> score(const Model& model, Workspace& ws, KvCache& kv,
                          const std::vector<Encoded>& choices) {
  Batch batch;
  std::vector<std::int32_t> rows;
  std::vector<std::int32_t> targets;
  std::vector<std::size_t> owner;
  for (std::size_t s = 0; s < choices.size(); ++s) {
    const Encoded& choice = choices[s];
    const auto size = static_cast<std::int64_t>(choice.ids.size());
    for (std::int64_t i = 0; i + 1 < size; ++i) {
      if (i + 1 >= choice.first) {
        rows.push_back(static_cast<std::int32_t>(batch.size()));
        targets.push_back(choice.ids[static_cast<std::size_t>(i + 1)]);
        owner.push_back(s);
      }
      batch.add(choice.ids[static_cast<std::size_t>(i)], static_cast<std::int32_t>(i),
                static_cast<std::int32_t>(s));
    }
  }
  forward(model, batch, kv, ws);
  std::vector<double> sums(choices.size());
  std::vector<double> nll(rows.size());
  score_rows(model, batch, ws, rows, targets, nll.data());
  for (std::size_t i = 0; i < nll.size(); ++i) sums[owner[i]] -= nll[i];
  return sums;
}

// The first of the highest.
std::size_t best(std::span<const double> scores) {
  return static_cast<std::size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

}  // namespace

std::vector<ChoiceItem> read_choice_items(const std::string& path) {
  std::vector<ChoiceItem> items;
  for_each_json_line(path, [&](const json& object, const std::string& name) {
    items.push_back(to_item(Line(object, name)));
  });
  if (items.empty()) throw_file_error(path, "holds no items");
  return items;
}

void add_shots(std::vector<ChoiceItem>& items, const std::vector<ChoiceItem>& examples,
               std::size_t n) {
  if (n > examples.size()) {
    throw_error(ErrorCode::bad_request, "--shots {}: the file of examples has only {}", n,
                examples.size());
  }
  std::string before;
  for (std::size_t i = 0; i < n; ++i) before += examples[i].shot + "\n\n";
  for (ChoiceItem& item : items) {
    for (Choice& choice : item.choices) choice.context.insert(0, before);
  }
}

ChoiceResult choose(
    const Model& model, Workspace& ws, const Tokenizer& tokenizer,
    const std::vector<ChoiceItem>& items, KvType kv_type,
    const std::function<bool(std::int64_t, std::int64_t, const ChoiceResult&)>& progress) {
  const std::int64_t max_context = model.info().max_context;
  std::int64_t right = 0;
  std::int64_t right_norm = 0;
  ChoiceResult result;
  for (std::size_t i = 0; i < items.size();) {
    std::vector<Encoded> choices;
    std::int64_t tokens = 0;
    const std::size_t begin = i;
    while (i < items.size() && (i == begin || tokens < kBatchTokens)) {
      for (const Choice& choice : items[i].choices) {
        choices.push_back(encode(tokenizer, choice, max_context));
        tokens += static_cast<std::int64_t>(choices.back().ids.size());
      }
      ++i;
    }
    KvCache kv(kv_shape(model.info(), kv_type),
               tokens + static_cast<std::int64_t>(choices.size()) * kPageTokens,
               static_cast<std::int32_t>(choices.size()));
    const std::vector<double> scores = score(model, ws, kv, choices);
    std::size_t at = 0;
    for (std::size_t k = begin; k < i; ++k) {
      const std::vector<Choice>& all = items[k].choices;
      const std::span<const double> sums = std::span(scores).subspan(at, all.size());
      std::vector<double> normalized;
      for (std::size_t c = 0; c < all.size(); ++c) {
        normalized.push_back(sums[c] / static_cast<double>(all[c].characters));
      }
      right += best(sums) == items[k].gold ? 1 : 0;
      right_norm += best(normalized) == items[k].gold ? 1 : 0;
      at += all.size();
    }
    result.items = static_cast<std::int64_t>(i);
    result.acc = static_cast<double>(right) / static_cast<double>(i);
    result.acc_norm = static_cast<double>(right_norm) / static_cast<double>(i);
    if (progress && !progress(result.items, static_cast<std::int64_t>(items.size()), result)) {
      throw_error(ErrorCode::cancelled, "interrupted");
    }
  }
  return result;
}

}  // namespace tenfold
