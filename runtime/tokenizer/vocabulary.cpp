#include "runtime/tokenizer/vocabulary.h"

#include "kernels/error.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

// Real vocabularies leave small gaps before their added tokens; a huge id would only cost memory.
constexpr std::size_t kMaxHole = 65536;

}  // namespace

void Entries::set(TokenId id, std::string text, TokenKind kind, std::string_view path) {
  if (id < 0 || static_cast<std::size_t>(id) > texts.size() + kMaxHole) {
    throw_file_error(path, "token {} has id {}, far outside a vocabulary of {}", quote(text), id,
                     texts.size());
  }
  const auto index = static_cast<std::size_t>(id);
  if (index >= kMaxVocabulary) {
    throw_error(ErrorCode::unsupported, "{}: more than {} tokens", path, kMaxVocabulary);
  }
  if (index >= texts.size()) {
    texts.resize(index + 1);
    kinds.resize(index + 1, TokenKind::unused);
  }
  texts[index] = std::move(text);
  kinds[index] = kind;
}

void Entries::add(const AddedToken& token, std::string_view path) {
  set(token.id, token.text, token.special ? TokenKind::control : TokenKind::user_defined, path);
}

std::pair<std::string_view, std::string_view> split_merge(std::string_view merge,
                                                          std::string_view path) {
  // Tokens hold no spaces, but a lone space as the first token is not worth a crash.
  const std::size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size() ||
      merge.find(' ', space + 1) != std::string_view::npos) {
    throw_file_error(path, "merge {} is not two tokens separated by a space", quote(merge));
  }
  return {merge.substr(0, space), merge.substr(space + 1)};
}

}  // namespace tenfold
