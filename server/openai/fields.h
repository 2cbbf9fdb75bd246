#pragma once
// The fields of a JSON object of a request, each read once and checked; what nobody read is refused
// by name, so that no option is ignored in silence. null counts as absent.

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/openai/error.h"

namespace tenfold {

using Json = nlohmann::ordered_json;

// Throws ApiError (400) for what is not JSON, or beyond the limits: nested 64 deep, an object of
// 1024 members, 64 Ki members in all. Keeps trees shallow, which copying walks, and their making
// linear.
Json parse_body(std::string_view body);
// The same for JSON within a string; nothing where it is none.
std::optional<Json> parse_within(std::string_view text);
// Text for people: strings that are not UTF-8 are mended.
std::string dump(const Json& json);
// For messages: the beginning, where it is long.
std::string shown(const Json& json);

class Fields {
 public:
  // where: "messages[2]" for an object within another; empty at the top. The object outlives it.
  explicit Fields(const Json& object, std::string where = {});

  const Json* take(const char* name);
  std::optional<double> number(const char* name, double low, double high);
  std::optional<std::int64_t> integer(const char* name, std::int64_t low, std::int64_t high);
  std::optional<bool> boolean(const char* name);
  std::optional<std::string> text(const char* name);
  std::string required_text(const char* name);
  // A string or a list of them.
  std::vector<std::string> texts(const char* name, std::size_t most);

  // Fields that change nothing here.
  void ignore(std::initializer_list<const char*> names);
  // Throws where a field is left.
  void finish() const;
  std::string path(const char* name) const;

 private:
  const Json* object_;
  std::string where_;
  std::set<std::string, std::less<>> taken_;
};

}  // namespace tenfold
