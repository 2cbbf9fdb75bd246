#include "runtime/grammar/string_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "kernels/error.h"
#include "runtime/files/quote.h"
#include "runtime/grammar/regex.h"

namespace tenfold {
namespace {

using Expr = GrammarBuilder::Expr;

constexpr std::uint64_t kEndless = std::numeric_limits<std::uint64_t>::max();

struct Lengths {
  std::uint64_t least = 0, most = 0;  // kEndless: no bound
};

std::uint64_t add(std::uint64_t a, std::uint64_t b) { return a > kEndless - b ? kEndless : a + b; }

std::uint64_t multiply(std::uint64_t a, std::uint64_t b) {
  if (a == 0 || b == 0) return 0;
  return a > kEndless / b ? kEndless : a * b;
}

Lengths lengths(const RegexNode& node) {
  switch (node.kind) {
    case RegexNode::Kind::set:
      return {1, 1};
    case RegexNode::Kind::sequence: {
      Lengths sum;
      for (const RegexNode& child : node.children) {
        const Lengths part = lengths(child);
        sum = {add(sum.least, part.least), add(sum.most, part.most)};
      }
      return sum;
    }
    case RegexNode::Kind::choice: {
      Lengths all{kEndless, 0};
      for (const RegexNode& child : node.children) {
        const Lengths part = lengths(child);
        all = {std::min(all.least, part.least), std::max(all.most, part.most)};
      }
      return all;
    }
    case RegexNode::Kind::repeat: {
      const Lengths body = lengths(node.children[0]);
      const std::uint64_t most = node.most ? *node.most : kEndless;
      return {multiply(body.least, node.least), multiply(body.most, most)};
    }
  }
  return {};
}

Expr emit(JsonRules& rules, const RegexNode& node) {
  GrammarBuilder& b = rules.builder();
  if (node.kind == RegexNode::Kind::set) return rules.canonical_character(node.set);
  std::vector<Expr> parts;
  parts.reserve(node.children.size());
  for (const RegexNode& child : node.children) parts.push_back(emit(rules, child));
  if (node.kind == RegexNode::Kind::repeat) return b.repeat(parts[0], node.least, node.most);
  return node.kind == RegexNode::Kind::choice ? b.choice(parts) : b.sequence(parts);
}

Expr emit(JsonRules& rules, const std::vector<RegexBranch>& branches) {
  GrammarBuilder& b = rules.builder();
  std::vector<Expr> alternatives;
  for (const RegexBranch& branch : branches) {
    const Expr anything = b.repeat(rules.canonical_character(CodePointSet::all()), 0, std::nullopt);
    std::vector<Expr> parts;
    if (!branch.from_start) parts.push_back(anything);
    parts.push_back(emit(rules, branch.body));
    if (!branch.to_end) parts.push_back(anything);
    alternatives.push_back(b.sequence(parts));
  }
  return b.named("a pattern",
                 b.sequence({b.literal("\""), b.choice(alternatives), b.literal("\"")}));
}

bool within(const RegexBranch& branch, const StringLimits& limits) {
  Lengths found = lengths(branch.body);
  if (!branch.from_start || !branch.to_end) found.most = kEndless;
  return found.least >= limits.min_length && found.most <= limits.max_length.value_or(kEndless);
}

// Narrows ^[class]{m,n}$ to the limits.
void narrow(std::vector<RegexBranch>& branches, const StringLimits& limits,
            std::string_view where) {
  if (std::ranges::all_of(branches, [&](const auto& b) { return within(b, limits); })) return;
  RegexBranch& branch = branches[0];
  RegexNode* node = &branch.body;
  while (node->kind == RegexNode::Kind::sequence && node->children.size() == 1) {
    node = &node->children[0];
  }
  const bool narrows = branches.size() == 1 && branch.from_start && branch.to_end &&
                       node->kind == RegexNode::Kind::repeat &&
                       node->children[0].kind == RegexNode::Kind::set;
  if (!narrows) {
    throw_error(ErrorCode::bad_request,
                "{}: minLength and maxLength beside a pattern or format are supported where it "
                "keeps within them, or is one repeated class such as ^[a-z]+$",
                where);
  }
  const std::uint64_t least = std::max<std::uint64_t>(node->least, limits.min_length);
  const std::uint64_t most =
      std::min<std::uint64_t>({node->most.value_or(kMaxRepetitions),
                               limits.max_length.value_or(kEndless), kMaxRepetitions});
  if (least > most) {
    throw_error(ErrorCode::bad_request, "{}: no string has this pattern and length", where);
  }
  node->least = static_cast<std::uint32_t>(least);
  if (node->most || limits.max_length) node->most = static_cast<std::uint32_t>(most);
}

// Each of its texts is valid; what RFC 3339 and 5321 allow beyond it is left out.
std::string pattern_of(std::string_view format, std::string_view where) {
  const std::string date =
      R"((([1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|)"
      R"((0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))|)"
      R"((\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29))";
  const std::string time =
      R"(([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))";
  const std::string byte = R"((25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))";
  const auto whole = [](const std::string& text) { return "^" + text + "$"; };
  if (format == "date") return whole(date);
  if (format == "time") return whole(time);
  if (format == "date-time") return whole(date + "T" + time);
  if (format == "uuid") return whole("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}");
  if (format == "ipv4") return whole(byte + R"((\.)" + byte + "){3}");
  if (format == "email") {
    const std::string local = R"([A-Za-z0-9_+-]{1,32}(\.[A-Za-z0-9_+-]{1,31})?)";
    return whole(local + R"(@([A-Za-z0-9]([A-Za-z0-9-]{0,38}[A-Za-z0-9])?\.){1,3}[A-Za-z]{2,20})");
  }
  throw_error(ErrorCode::bad_request,
              "{}: the format {} is not supported; expected date, time, date-time, uuid, ipv4 or "
              "email",
              where, quote(format));
}

std::uint32_t repetitions(std::uint64_t n, std::string_view where) {
  if (n <= kMaxRepetitions) return static_cast<std::uint32_t>(n);
  throw_error(ErrorCode::bad_request, "{}: minLength must be at most {}, found {}", where,
              kMaxRepetitions, n);
}

}  // namespace

Expr string_within(JsonRules& rules, const StringLimits& limits, std::string_view where) {
  if (limits.max_length && *limits.max_length < limits.min_length) {
    throw_error(ErrorCode::bad_request, "{}: maxLength {} is below minLength {}", where,
                *limits.max_length, limits.min_length);
  }
  if (limits.pattern && limits.format) {
    throw_error(ErrorCode::bad_request, "{}: pattern and format together are not supported", where);
  }
  if (limits.pattern || limits.format) {
    const std::string pattern =
        limits.pattern ? *limits.pattern : pattern_of(*limits.format, where);
    std::vector<RegexBranch> branches = parse_regex(pattern, where);
    narrow(branches, limits, where);
    return emit(rules, branches);
  }
  if (limits.min_length == 0 && !limits.max_length) return rules.string();
  GrammarBuilder& b = rules.builder();
  const std::uint32_t least = repetitions(limits.min_length, where);
  std::optional<std::uint32_t> most;
  if (limits.max_length) {
    most = static_cast<std::uint32_t>(std::min<std::uint64_t>(*limits.max_length, kMaxRepetitions));
  }
  return b.sequence(
      {b.literal("\""), b.repeat(rules.string_character(), least, most), b.literal("\"")});
}

}  // namespace tenfold
