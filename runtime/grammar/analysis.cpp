#include "runtime/grammar/analysis.h"

#include <algorithm>

#include "kernels/error.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

struct Place {
  std::uint32_t rule, node;
};

// Which rules have a path from start to end; with_bytes: also over bytes, else only empty text. A
// walk that meets a call waits until the called rule is known to have one: each node once.
std::vector<bool> rules_that_end(const Grammar& grammar, bool with_bytes) {
  std::vector<bool> ends(grammar.rules.size()), visited(grammar.nodes.size());
  std::vector<std::vector<Place>> waiting(grammar.rules.size());
  std::vector<Place> open;
  for (std::uint32_t r = 0; r < grammar.rules.size(); ++r) {
    open.push_back({r, grammar.rules[r].start});
  }
  while (!open.empty()) {
    const Place at = open.back();
    open.pop_back();
    const Grammar::Node& node = grammar.nodes[at.node];
    if (node.op == Grammar::Op::end) {
      if (ends[at.rule]) continue;
      ends[at.rule] = true;
      open.insert(open.end(), waiting[at.rule].begin(), waiting[at.rule].end());
      continue;
    }
    if (visited[at.node]) continue;
    visited[at.node] = true;
    const Place next{at.rule, node.next};
    if (node.op == Grammar::Op::split) {
      open.push_back({at.rule, node.target});
      open.push_back(next);
    } else if (node.op == Grammar::Op::call) {
      if (ends[node.target]) {
        open.push_back(next);
      } else {
        waiting[node.target].push_back(next);
      }
    } else if (with_bytes) {
      open.push_back(next);
    }
  }
  return ends;
}

// For each rule those it can call before any byte.
std::vector<std::vector<std::uint32_t>> first_calls(const Grammar& grammar) {
  std::vector<std::vector<std::uint32_t>> calls(grammar.rules.size());
  std::vector<bool> visited(grammar.nodes.size());
  std::vector<std::uint32_t> open;
  for (std::size_t r = 0; r < grammar.rules.size(); ++r) {
    open.push_back(grammar.rules[r].start);
    while (!open.empty()) {
      const std::uint32_t at = open.back();
      open.pop_back();
      if (visited[at]) continue;
      visited[at] = at != 0;  // the end is shared
      const Grammar::Node& node = grammar.nodes[at];
      if (node.op == Grammar::Op::split) open.push_back(node.target);
      if (node.op == Grammar::Op::call) calls[r].push_back(node.target);
      if (node.op == Grammar::Op::split ||
          (node.op == Grammar::Op::call && grammar.rules[node.target].nullable)) {
        open.push_back(node.next);
      }
    }
    std::sort(calls[r].begin(), calls[r].end());
    calls[r].erase(std::unique(calls[r].begin(), calls[r].end()), calls[r].end());
  }
  return calls;
}

struct Visit {
  std::uint32_t rule;
  std::size_t next_call;
};

// A rule that a person wrote, of the circle that ends where it began.
const std::string& name_in_circle(const Grammar& grammar, const std::vector<Visit>& path,
                                  std::uint32_t again) {
  std::size_t i = path.size();
  while (path[i - 1].rule != again) --i;
  for (--i; i + 1 < path.size() && grammar.rules[path[i].rule].name.empty(); ++i) {
  }
  return grammar.rules[path[i].rule].name;
}

// Ranks from a depth-first walk: a rule gets its rank, counted down, after all it begins with.
void rank_rules(Grammar& grammar) {
  const auto calls = first_calls(grammar);
  enum class Mark : std::uint8_t { untouched, on_path, done };
  std::vector<Mark> marks(grammar.rules.size(), Mark::untouched);
  auto rank = static_cast<std::uint32_t>(grammar.rules.size());
  std::vector<Visit> path;
  for (std::uint32_t r = 0; r < grammar.rules.size(); ++r) {
    if (marks[r] != Mark::untouched) continue;
    path.push_back({r, 0});
    marks[r] = Mark::on_path;
    while (!path.empty()) {
      Visit& visit = path.back();
      if (visit.next_call == calls[visit.rule].size()) {
        grammar.rules[visit.rule].rank = --rank;
        marks[visit.rule] = Mark::done;
        path.pop_back();
        continue;
      }
      const std::uint32_t called = calls[visit.rule][visit.next_call++];
      if (marks[called] == Mark::on_path) {
        throw_error(ErrorCode::bad_request,
                    "the rule {} begins with itself (left recursion); write it as a repetition or "
                    "with itself at the end",
                    quote(name_in_circle(grammar, path, called)));
      }
      if (marks[called] == Mark::done) continue;
      marks[called] = Mark::on_path;
      path.push_back({called, 0});
    }
  }
}

}  // namespace

void analyse(Grammar& grammar) {
  const std::vector<bool> nullable = rules_that_end(grammar, false);
  for (std::size_t r = 0; r < grammar.rules.size(); ++r) grammar.rules[r].nullable = nullable[r];
  rank_rules(grammar);
  const std::vector<bool> ends = rules_that_end(grammar, true);
  for (std::size_t r = grammar.rules.size(); r-- > 0;) {  // callers tend to come first
    if (ends[r] || grammar.rules[r].name.empty()) continue;
    throw_error(ErrorCode::bad_request,
                "the rule {} can never end: each of its alternatives needs a text without end",
                quote(grammar.rules[r].name));
  }
}

}  // namespace tenfold
