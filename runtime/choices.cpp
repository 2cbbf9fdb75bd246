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

constexpr std::int64_t kBatchTokens = 512;    // of the items run together
constexpr std::int64_t kCachedTokens = 4096;  // of their choices, with what they share

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

// Of both from the start, but for the token that predicts the first scored one.
std::int64_t common_tokens(std::span<const TokenId> a, const Encoded& b) {
  const std::size_t most = std::min(a.size(), static_cast<std::size_t>(b.first - 1));
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(most);
  return std::mismatch(a.begin(), end, b.ids.begin()).first - a.begin();
}

// What an item's choices share is run once, and so is what all items begin with (the examples of
// few-shot tasks). Attention does not depend on how tokens are split into steps, so scores do not
// either.
struct Item {
  std::vector<Encoded> choices;
  std::int64_t root = 0, shared = 0;  // tokens in common with the first items, and of its choices
  std::int64_t run = 0;               // tokens left to run
  std::int64_t cached = 0;            // tokens of all choices

  Item(std::vector<Encoded> encoded, std::span<const TokenId> all_begin_with)
      : choices(std::move(encoded)) {
    const Encoded& first = choices.front();
    shared = first.first - 1;
    for (const Encoded& choice : choices) {
      shared = std::min(shared, common_tokens(first.ids, choice));
    }
    root = std::min(shared, common_tokens(all_begin_with, first));
    run = shared - root;
    for (const Encoded& choice : choices) {
      run += static_cast<std::int64_t>(choice.ids.size()) - 1 - shared;
      cached += static_cast<std::int64_t>(choice.ids.size());
    }
  }
};

class Scorer {
 public:
  // all_begin_with: run at once, and kept.
  Scorer(const Model& model, Workspace& ws, KvType kv_type, std::vector<TokenId> all_begin_with)
      : model_(model),
        ws_(ws),
        kv_type_(kv_type),
        root_(std::move(all_begin_with)),
        root_kv_(kv_shape(model.info(), kv_type),
                 std::max<std::int64_t>(1, static_cast<std::int64_t>(root_.size())), 1,
                 *ws.backend) {
    Batch batch;
    for (const TokenId id : root_) batch.add(id, static_cast<std::int32_t>(batch.size()), 0);
    if (!root_.empty()) forward(model, batch, root_kv_, ws);
  }

  std::span<const TokenId> root() const noexcept { return root_; }

  // Log-likelihood of each choice of each item.
  std::vector<std::vector<double>> score(const std::vector<Item>& items) {
    std::int64_t capacity = 0;
    std::int32_t sequences = 0;
    for (const Item& item : items) {
      const auto choices = static_cast<std::int32_t>(item.choices.size());
      capacity += item.cached + choices * kPageTokens;
      sequences += choices;
    }
    KvCache kv(kv_shape(model_.info(), kv_type_), capacity, sequences, *ws_.backend);
    run_shared(items, kv);
    return run_choices(items, kv);
  }

 private:
  // In the sequence of each item's first choice.
  void run_shared(const std::vector<Item>& items, KvCache& kv) {
    Batch batch;
    std::int32_t sequence = 0;
    for (const Item& item : items) {
      if (item.root > 0) kv.copy(root_kv_, 0, sequence, item.root);
      for (std::int64_t i = item.root; i < item.shared; ++i) {
        batch.add(item.choices.front().ids[static_cast<std::size_t>(i)],
                  static_cast<std::int32_t>(i), sequence);
      }
      sequence += static_cast<std::int32_t>(item.choices.size());
    }
    if (batch.size() > 0) forward(model_, batch, kv, ws_);
  }

  std::vector<std::vector<double>> run_choices(const std::vector<Item>& items, KvCache& kv) {
    Batch batch;
    std::vector<std::int32_t> rows;
    std::vector<std::int32_t> targets;
    std::vector<double*> sum_of;
    std::vector<std::vector<double>> sums;
    std::int32_t sequence = 0;
    for (const Item& item : items) {
      sums.emplace_back(item.choices.size());
      const std::int32_t first = sequence;
      for (std::size_t c = 0; c < item.choices.size(); ++c, ++sequence) {
        if (sequence > first && item.shared > 0) kv.fork(first, sequence, item.shared);
        const Encoded& choice = item.choices[c];
        for (auto i = static_cast<std::size_t>(item.shared); i + 1 < choice.ids.size(); ++i) {
          if (i + 1 >= static_cast<std::size_t>(choice.first)) {
            rows.push_back(static_cast<std::int32_t>(batch.size()));
            targets.push_back(choice.ids[i + 1]);
            sum_of.push_back(&sums.back()[c]);
          }
          batch.add(choice.ids[i], static_cast<std::int32_t>(i), sequence);
        }
      }
    }
    forward(model_, batch, kv, ws_);
    std::vector<double> nll(rows.size());
    score_rows(model_, batch, ws_, rows, targets, nll.data());
    for (std::size_t i = 0; i < nll.size(); ++i) *sum_of[i] -= nll[i];
    return sums;
  }

  const Model& model_;
  Workspace& ws_;
  KvType kv_type_;
  std::vector<TokenId> root_;
  KvCache root_kv_;
};

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
  const auto encoded = [&](const ChoiceItem& item) {
    std::vector<Encoded> choices;
    for (const Choice& choice : item.choices) {
      choices.push_back(encode(tokenizer, choice, model.info().max_context));
    }
    return choices;
  };
  std::vector<TokenId> root;
  if (items.size() > 1) {
    root = encoded(items[0]).front().ids;
    root.resize(static_cast<std::size_t>(common_tokens(root, encoded(items[1]).front())));
  }
  Scorer scorer(model, ws, kv_type, std::move(root));
  std::int64_t right = 0;
  std::int64_t right_norm = 0;
  ChoiceResult result;
  for (std::size_t i = 0; i < items.size();) {
    std::vector<Item> together;
    std::int64_t tokens = 0;
    std::int64_t cached = 0;
    const std::size_t begin = i;
    for (; i < items.size() && (i == begin || (tokens < kBatchTokens && cached < kCachedTokens));
         ++i) {
      together.emplace_back(encoded(items[i]), scorer.root());
      tokens += together.back().run;
      cached += together.back().cached;
    }
    const std::vector<std::vector<double>> sums = scorer.score(together);
    for (std::size_t k = begin; k < i; ++k) {
      const std::vector<Choice>& all = items[k].choices;
      const std::vector<double>& of_item = sums[k - begin];
      std::vector<double> normalized;
      for (std::size_t c = 0; c < all.size(); ++c) {
        normalized.push_back(of_item[c] / static_cast<double>(all[c].characters));
      }
      right += best(of_item) == items[k].gold ? 1 : 0;
      right_norm += best(normalized) == items[k].gold ? 1 : 0;
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
