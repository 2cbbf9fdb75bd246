#include "runtime/tokenizer/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <span>
#include <utility>

#include "kernels/error.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

// PCRE2's \s holds U+180E, which Unicode (and so Hugging Face) does not count as white space;
// [\p{Z}\t-\r\x{85}] is White_Space exactly.
constexpr const char* kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{Z}\t-\r\x{85}\p{L}\p{N}]+)"
    R"(|[\p{Z}\t-\r\x{85}]+(?![^\p{Z}\t-\r\x{85}])|[\p{Z}\t-\r\x{85}]+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\p{Z}\t-\r\x{85}\p{L}\p{N}]+[\r\n]*|[\p{Z}\t-\r\x{85}]*[\r\n]+)"
    R"(|[\p{Z}\t-\r\x{85}]+(?![^\p{Z}\t-\r\x{85}])|[\p{Z}\t-\r\x{85}]+)";
constexpr const char* kOneNumeral = R"(\p{N})";

// What llama.cpp does for a GGUF without tokenizer.ggml.pre.
constexpr const char* kDefaultPunctuation = R"([\p{P}$+<=>^~|]+)";
constexpr const char* kDefaultWords =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{Z}\t-\r\x{85}\p{L}\p{N}]+)"
    R"(|[\p{Z}\t-\r\x{85}]+(?![^\p{Z}\t-\r\x{85}]))";
constexpr const char* kNumerals = R"(\p{N}+)";
constexpr const char* kThreeDigits = R"([0-9][0-9][0-9])";

constexpr const char* kDefaultStages[] = {kDefaultPunctuation, kDefaultWords, kNumerals,
                                          kThreeDigits};
constexpr const char* kGpt2Stages[] = {kGpt2};
constexpr const char* kLlama3Stages[] = {kLlama3};
constexpr const char* kSmollmStages[] = {kOneNumeral, kGpt2};

struct Known {
  std::string_view name;
  std::span<const char* const> stages;
  std::string_view hugging_face_regex;
};

constexpr Known kKnown[] = {
    {"gpt-2", kGpt2Stages,
     R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"},
    {"llama-bpe", kLlama3Stages,
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
    {"smollm", kSmollmStages, ""},
    {"default", kDefaultStages, ""},
    {"none", {}, ""},
};

}  // namespace

struct PreTokenizer::Regex {
  struct FreeCode {
    void operator()(pcre2_code* compiled) const noexcept { pcre2_code_free(compiled); }
  };
  std::unique_ptr<pcre2_code, FreeCode> code;

  explicit Regex(const char* pattern);
  // Appends the pieces of a text that is valid UTF-8.
  void split(std::string_view text, pcre2_match_data* match,
             std::vector<std::string_view>& pieces) const;
};

PreTokenizer::Regex::Regex(const char* pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                           PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (!code) {
    throw_error(ErrorCode::unsupported, "PCRE2 cannot compile \"{}\": error {} at {}", pattern,
                error, offset);
  }
  // Where the system forbids executable memory, matching is interpreted: the same, but slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
}

void PreTokenizer::Regex::split(std::string_view text, pcre2_match_data* match,
                                std::vector<std::string_view>& pieces) const {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t position = 0;
  while (position < text.size()) {
    int rc =
        pcre2_match(code.get(), subject, text.size(), position, PCRE2_NO_UTF_CHECK, match, nullptr);
    if (rc < PCRE2_ERROR_NOMATCH) {  // a limit of the JIT code's stack; the interpreter has more
      rc = pcre2_match(code.get(), subject, text.size(), position,
                       PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, nullptr);
    }
    if (rc < 0) break;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
    if (bounds[1] <= position) break;
    if (bounds[0] > position) pieces.push_back(text.substr(position, bounds[0] - position));
    pieces.push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
    position = bounds[1];
  }
  if (position < text.size()) pieces.push_back(text.substr(position));
}

PreTokenizer::PreTokenizer(std::string_view name) : name_(name) {
  const auto known = std::ranges::find(kKnown, name, &Known::name);
  if (known == std::end(kKnown)) {
    throw_error(ErrorCode::unsupported,
                "pre-tokenizer \"{}\" is not supported (known: gpt-2, llama-bpe, smollm, default)",
                name);
  }
  for (const char* pattern : known->stages) stages_.emplace_back(pattern);
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  struct FreeMatch {
    void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
  };
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(pcre2_match_data_create(1, nullptr));
  if (!match) throw std::bad_alloc();

  std::vector<std::string_view> pieces, next;
  while (!text.empty()) {
    const std::size_t valid = std::min(first_invalid_utf8(text), text.size());
    next.clear();
    if (valid > 0) next.push_back(text.substr(0, valid));
    for (const Regex& stage : stages_) {
      const std::vector<std::string_view> whole = std::exchange(next, {});
      for (const std::string_view piece : whole) stage.split(piece, match.get(), next);
    }
    pieces.insert(pieces.end(), next.begin(), next.end());
    text.remove_prefix(valid);
    if (text.empty()) break;
    const std::size_t broken = decode_utf8(text, 0).length;
    pieces.push_back(text.substr(0, broken));
    text.remove_prefix(broken);
  }
  return pieces;
}

std::string_view hugging_face_regex(std::string_view name) noexcept {
  const auto known = std::ranges::find(kKnown, name, &Known::name);
  return known == std::end(kKnown) ? std::string_view{} : known->hugging_face_regex;
}

std::string_view pre_tokenizer_for_regex(std::string_view regex) noexcept {
  const auto known = std::ranges::find(kKnown, regex, &Known::hugging_face_regex);
  return regex.empty() || known == std::end(kKnown) ? std::string_view{} : known->name;
}

}  // namespace tenfold
