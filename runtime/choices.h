#pragma once
// Multiple-choice tasks scored by log-likelihood, as lm-eval does: `acc` picks the choice of the
// highest log p(choice | context), `acc_norm` of the highest per character of the choice.

#include <functional>
#include <string>
#include <vector>

#include "runtime/model.h"
#include "runtime/tokenizer.h"

namespace tenfold {

// One choice: what is scored and what comes before it.
struct Choice {
  std::string context, scored;
  std::int64_t characters = 1;  // of the choice itself, as Unicode characters
};

struct ChoiceItem {
  std::vector<Choice> choices;
  std::size_t gold = 0;
  std::string shot;  // the item with its answer, as an example before others
};

// JSON lines {"query","choices","gold"} or {"context_options","continuation","gold"}. Throws
// bad_file naming line and field.
std::vector<ChoiceItem> read_choice_items(const std::string& path);

// Puts the first n examples, separated by blank lines, before every context.
void add_shots(std::vector<ChoiceItem>& items, const std::vector<ChoiceItem>& examples,
               std::size_t n);

struct ChoiceResult {
  double acc = 0, acc_norm = 0;
  std::int64_t items = 0;
};

// A context that is too long for the model loses its beginning. progress(done, total, so_far) after
// each batch; false cancels.
ChoiceResult choose(const Model& model, Workspace& ws, const Tokenizer& tokenizer,
                    const std::vector<ChoiceItem>& items, KvType kv,
                    const std::function<bool(std::int64_t done, std::int64_t total,
                                             const ChoiceResult& so_far)>& progress);

}  // namespace tenfold
