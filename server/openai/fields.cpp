#include "server/openai/fields.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxMembers = 1024;  // of one object: they are searched one by one
constexpr std::size_t kMaxMembersInAll = 1u << 16;

// Passes over a text before a tree is made of it.
class Limits : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t&) override {
    if (++members_.back() > kMaxMembers || ++in_all_ > kMaxMembersInAll) {
      refuse({}, "the body has more than {} members in an object, or {} in all", kMaxMembers,
             kMaxMembersInAll);
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    refuse({}, "the body is not JSON: {}", e.what());
  }

 private:
  bool open() {
    members_.push_back(0);
    if (members_.size() > kMaxDepth) {
      refuse({}, "the body is nested deeper than {} levels", kMaxDepth);
    }
    return true;
  }
  bool close() {
    members_.pop_back();
    return true;
  }

  std::vector<std::size_t> members_;  // so far, of each object or array around
  std::size_t in_all_ = 0;
};

}  // namespace

Json parse_body(std::string_view body) {
  Limits limits;
  Json::sax_parse(body, &limits);
  return Json::parse(body);
}

std::optional<Json> parse_within(std::string_view text) {
  try {
    return parse_body(text);
  } catch (const ApiError&) {
    return std::nullopt;
  }
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string shown(const Json& json) {
  constexpr std::size_t kMost = 80;
  const std::string text = dump(json);
  return text.size() <= kMost
             ? text
             : text.substr(0, complete_utf8_prefix(text.substr(0, kMost))) + " ...";
}

Fields::Fields(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) {
    refuse(where_, "{} must be an object, found {}", where_.empty() ? "the body" : where_,
           object.type_name());
  }
}

std::string Fields::path(const char* name) const {
  return where_.empty() ? name : where_ + "." + name;
}

const Json* Fields::take(const char* name) {
  taken_.insert(name);
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::optional<double> Fields::number(const char* name, double low, double high) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  const double x = value->is_number() ? value->get<double>() : std::nan("");
  if (!(x >= low && x <= high)) {
    refuse(path(name), "{} must be a number from {} to {}, found {}", path(name), low, high,
           shown(*value));
  }
  return x;
}

std::optional<std::int64_t> Fields::integer(const char* name, std::int64_t low, std::int64_t high) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  constexpr double kExact = 9007199254740992.0;  // 2^53
  bool whole = value->is_number_integer();
  if (value->is_number_float()) {  // 64.0 is a whole number to some clients
    const auto x = value->get<double>();
    whole = std::fabs(x) <= kExact && x == std::floor(x);
  }
  whole = whole && !(value->is_number_unsigned() &&
                     value->get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX));
  const std::int64_t x = whole ? value->get<std::int64_t>() : 0;
  if (!whole || x < low || x > high) {
    refuse(path(name), "{} must be a whole number from {} to {}, found {}", path(name), low, high,
           shown(*value));
  }
  return x;
}

std::optional<bool> Fields::boolean(const char* name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    refuse(path(name), "{} must be true or false, found {}", path(name), shown(*value));
  }
  return value->get<bool>();
}

std::optional<std::string> Fields::text(const char* name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    refuse(path(name), "{} must be a string, found {}", path(name), value->type_name());
  }
  return value->get<std::string>();
}

std::string Fields::required_text(const char* name) {
  std::optional<std::string> value = text(name);
  if (!value) refuse(path(name), "{} is missing", path(name));
  return std::move(*value);
}

std::vector<std::string> Fields::texts(const char* name, std::size_t most) {
  const Json* value = take(name);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  const bool strings =
      value->is_array() &&
      std::all_of(value->begin(), value->end(), [](const Json& j) { return j.is_string(); });
  if (!strings || value->size() > most) {
    refuse(path(name), "{} must be a string or a list of at most {} strings", path(name), most);
  }
  return value->get<std::vector<std::string>>();
}

void Fields::ignore(std::initializer_list<const char*> names) {
  for (const char* name : names) taken_.insert(name);
}

void Fields::finish() const {
  for (const auto& [name, value] : object_->items()) {
    if (value.is_null() || taken_.contains(name)) continue;
    refuse(path(name.c_str()), "{} is not supported", path(name.c_str()));
  }
}

}  // namespace tenfold
