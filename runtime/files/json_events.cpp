#include "runtime/files/json_events.h"

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxTokenBytes = 1u << 20;

// The parser buffers everything since the start of the latest string (or number); a cap on that
// bounds its memory.
void check_token_lengths(std::string_view text, std::string_view name) {
  bool in_string = false;
  std::size_t start = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      ++i;
    } else if (text[i] == '"') {
      in_string = !in_string;
      if (in_string) start = i;
    } else if (i - start > kMaxTokenBytes) {
      throw_file_error(name, "JSON text has a token of more than {} bytes at byte {}",
                       kMaxTokenBytes, start);
    }
  }
}

}  // namespace

bool JsonEvents::parse_error(std::size_t position, const std::string& /*token*/,
                             const nlohmann::json::exception& /*exception*/) {
  throw_file_error(name_, "{}: JSON syntax error or invalid UTF-8 at byte {}", place(), position);
}

void JsonEvents::refuse(std::string_view found) const {
  throw_file_error(name_, "{}: found {}, which does not belong there", place(), found);
}

void read_json_events(std::string_view text, JsonEvents& events, std::string_view name) {
  check_token_lengths(text, name);
  nlohmann::json::sax_parse(text.begin(), text.end(), &events);
}

}  // namespace tenfold
