#pragma once
// Reading JSON without building a tree: for large tables of small entries (safetensors headers,
// shard indexes), where a tree would take many times the memory of the text.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tenfold {

// Every event is refused with an Error unless a subclass overrides it. Overrides return true, or
// throw.
class JsonEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  // `name`: what messages call the text.
  explicit JsonEvents(std::string_view name) : name_(name) {}

  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("true or false"); }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { refuse("a number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a non-integer number"); }
  bool string(string_t&) override { refuse("a string"); }
  bool binary(binary_t&) override { refuse("binary data"); }
  bool start_object(std::size_t) override { refuse("an object"); }
  bool key(string_t&) override { refuse("a key"); }
  bool end_object() override { refuse("an object's end"); }
  bool start_array(std::size_t) override { refuse("an array"); }
  bool end_array() override { refuse("an array's end"); }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& exception) override;

 protected:
  // Where in the text the reader is, for messages: "tensor \"x\"", "weight_map".
  virtual std::string place() const = 0;
  [[noreturn]] void refuse(std::string_view found) const;
  const std::string& name() const noexcept { return name_; }

 private:
  std::string name_;
};

// Throws bad_file on a syntax error, invalid UTF-8, or a single token beyond 1 MiB.
void read_json_events(std::string_view text, JsonEvents& events, std::string_view name);

}  // namespace tenfold
