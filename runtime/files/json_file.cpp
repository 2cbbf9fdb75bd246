#include "runtime/files/json_file.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/error.h"
#include "runtime/files/mapped_file.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

using nlohmann::json;

// The parser's input; tells the builder how far it has read.
class TrackedInput {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackedInput(const char* at, const char** tracked) : at_(at), tracked_(tracked) {}
  const char& operator*() const noexcept { return *at_; }
  TrackedInput& operator++() noexcept {
    *tracked_ = ++at_;
    return *this;
  }
  TrackedInput operator++(int) noexcept {
    const TrackedInput before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackedInput& other) const noexcept { return at_ == other.at_; }
  bool operator!=(const TrackedInput& other) const noexcept { return at_ != other.at_; }

 private:
  const char* at_;
  const char** tracked_;
};

// Builds the value from the parser's events, within the limits.
class Builder final : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, std::string_view name, std::uint64_t max_values)
      : name_(name), begin_(text.data()), at_(begin_), max_values_(max_values) {}

  const char** tracked() noexcept { return &at_; }
  json take() { return std::move(root_); }

  bool null() override { return put(json(nullptr)); }
  bool boolean(bool value) override { return put(json(value)); }
  bool number_integer(std::int64_t value) override { return put(json(value)); }
  bool number_unsigned(std::uint64_t value) override { return put(json(value)); }
  bool number_float(double value, const std::string&) override { return put(json(value)); }
  bool string(std::string& value) override { return put(json(std::move(value))); }
  bool binary(json::binary_t&) override { fail("not JSON"); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& text) override {
    auto& object = stack_.back()->get_ref<json::object_t&>();
    const auto [place, is_new] = object.try_emplace(std::move(text));
    if (!is_new) fail("key {} appears twice in one object", quote(place->first));
    member_ = &place->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ...", and
    // what was read last, which can be as long as the file and hold any bytes.
    constexpr std::size_t kMaxReason = 200;
    std::string reason = error.what();
    reason.erase(0, std::min(reason.find("] ") + 2, reason.size()));
    if (reason.starts_with("parse error")) reason.erase(0, reason.find(": ") + 2);
    if (reason.size() > kMaxReason) reason = reason.substr(0, kMaxReason) + "...";
    std::replace_if(
        reason.begin(), reason.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    throw_file_error(name_, "byte {}: not valid JSON: {}", position, reason);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw_file_error(name_, "byte {}: {}", at_ - begin_,
                     fmt::format(format, std::forward<Args>(args)...));
  }

  json* place(json&& value) {
    if (++n_values_ > max_values_) fail("more than {} values", max_values_);
    json* target = &root_;
    if (!stack_.empty() && stack_.back()->is_array()) {
      target = &stack_.back()->get_ref<json::array_t&>().emplace_back();
    } else if (!stack_.empty()) {
      target = member_;
    }
    *target = std::move(value);
    return target;
  }
  bool put(json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(json&& container) {
    if (stack_.size() == kMaxJsonDepth) fail("nested deeper than {} levels", kMaxJsonDepth);
    stack_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::string_view name_;
  const char* begin_;
  const char* at_;
  json root_;
  std::vector<json*> stack_;  // open containers; none of them moves while it is open
  json* member_ = nullptr;    // where the value of the last key goes
  std::uint64_t n_values_ = 0, max_values_;
};

std::string describe(const json& value) {
  switch (value.type()) {
    case json::value_t::string:
      return "the string " + quote(value.get_ref<const std::string&>());
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "an array";
    default:
      return value.dump();
  }
}

// nullptr where the key is absent or null.
const json* find_field(const json& object, std::string_view key, std::string_view name) {
  if (!object.is_object())
    throw_file_error(name, "expected a JSON object, found {}", describe(object));
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void fail_type(const json& value, std::string_view key, std::string_view expected,
                            std::string_view name) {
  throw_file_error(name, "{} is {}, expected {}", quote(key), describe(value), expected);
}

std::int64_t to_int(const json& value, std::string_view key, std::string_view name) {
  if (!value.is_number_integer()) fail_type(value, key, "an integer", name);
  constexpr auto kLimit = std::numeric_limits<std::int64_t>::max();
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{kLimit})
    fail_type(value, key, "an integer of at most 63 bits", name);
  return value.get<std::int64_t>();
}

}  // namespace

json parse_json(std::string_view text, std::string_view name, std::uint64_t max_values) {
  if (text.size() > kMaxJsonBytes)
    throw_file_error(name, "{} bytes of JSON, at most {} are accepted", text.size(), kMaxJsonBytes);
  Builder builder(text, name, max_values);
  const char* end = text.data() + text.size();
  json::sax_parse(TrackedInput(text.data(), builder.tracked()),
                  TrackedInput(end, builder.tracked()), &builder);
  return builder.take();
}

json read_json_file(const std::filesystem::path& path, std::uint64_t max_values) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, file.path(),
                    max_values);
}

void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const nlohmann::json&, const std::string& name)>& use) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    const std::string name = fmt::format("{}, line {}", file.path(), ++number);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      use(parse_json(line, name), name);
    }
    begin = end + 1;
  }
}

std::int64_t json_int(const json& object, std::string_view key, std::string_view name) {
  const json* value = find_field(object, key, name);
  if (value == nullptr) throw_file_error(name, "{} is missing, expected an integer", quote(key));
  return to_int(*value, key, name);
}

std::int64_t json_int_or(const json& object, std::string_view key, std::int64_t fallback,
                         std::string_view name) {
  const json* value = find_field(object, key, name);
  return value == nullptr ? fallback : to_int(*value, key, name);
}

double json_number_or(const json& object, std::string_view key, double fallback,
                      std::string_view name) {
  const json* value = find_field(object, key, name);
  if (value == nullptr) return fallback;
  if (!value->is_number()) fail_type(*value, key, "a number", name);
  return value->get<double>();
}

bool json_bool_or(const json& object, std::string_view key, bool fallback, std::string_view name) {
  const json* value = find_field(object, key, name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail_type(*value, key, "true or false", name);
  return value->get<bool>();
}

std::string json_string_or(const json& object, std::string_view key, std::string_view fallback,
                           std::string_view name) {
  const json* value = find_field(object, key, name);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) fail_type(*value, key, "a string", name);
  return value->get<std::string>();
}

}  // namespace tenfold
