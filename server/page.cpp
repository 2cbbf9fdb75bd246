#include "server/page.h"

#include <fmt/core.h>
#include <openssl/sha.h>

#include <array>

#include "server/base64.h"

namespace tenfold {
namespace {

// 'sha256-...' of what is between the tags.
std::string hash_of(std::string_view page, std::string_view open, std::string_view close) {
  const std::size_t begin = page.find(open) + open.size();
  const std::string_view body = page.substr(begin, page.find(close, begin) - begin);
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(body.data()), body.size(), digest.data());
  return "'sha256-" + base64({reinterpret_cast<const char*>(digest.data()), digest.size()}) + "'";
}

}  // namespace

std::string chat_page_policy() {
  const std::string_view page = chat_page();
  return fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; "
      "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
      "require-trusted-types-for 'script'",
      hash_of(page, "<script>", "</script>"), hash_of(page, "<style>", "</style>"));
}

}  // namespace tenfold
