#include <algorithm>
#include <limits>

#include "kernels/error.h"
#include "runtime/files/gguf.h"
#include "runtime/files/gguf_format.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

template <typename T>
constexpr bool is_integer = std::is_integral_v<T> && !std::is_same_v<T, bool>;

std::string type_name(const GgufValue& value) {
  return std::visit(
      [](const auto& held) -> std::string {
        using Traits = gguf::ValueTraits<std::decay_t<decltype(held)>>;
        using T = typename Traits::element;
        std::string name;
        if constexpr (std::is_same_v<T, bool>) {
          name = "bool";
        } else if constexpr (std::is_same_v<T, std::string>) {
          name = "string";
        } else if constexpr (std::is_integral_v<T>) {
          name = fmt::format("{}int{}", std::is_signed_v<T> ? "" : "u", 8 * sizeof(T));
        } else {
          name = fmt::format("float{}", 8 * sizeof(T));
        }
        return Traits::is_array ? "array of " + name : name;
      },
      value);
}

[[noreturn]] void fail_type(const GgufMetadata& metadata, std::string_view key,
                            const GgufValue& value, std::string_view expected) {
  throw_file_error(metadata.path, "key {} has type {}, expected {}", quote(key), type_name(value),
                   expected);
}

template <typename T>
std::int64_t to_int64(const GgufMetadata& metadata, std::string_view key, T value) {
  if constexpr (std::is_same_v<T, std::uint64_t>) {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      throw_file_error(metadata.path, "key {} is {}, beyond 64 signed bits", quote(key), value);
  }
  return static_cast<std::int64_t>(value);
}

template <typename T>
const T* get_exact(const GgufMetadata& metadata, std::string_view key, std::string_view expected) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return nullptr;
  const T* held = std::get_if<T>(value);
  if (held == nullptr) fail_type(metadata, key, *value, expected);
  return held;
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const noexcept {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  return found == entries.end() ? nullptr : &found->second;
}

std::optional<std::int64_t> GgufMetadata::get_int(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> std::int64_t {
        if constexpr (is_integer<std::decay_t<decltype(held)>>) return to_int64(*this, key, held);
        fail_type(*this, key, *value, "an integer");
      },
      *value);
}

std::optional<double> GgufMetadata::get_float(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> double {
        using T = std::decay_t<decltype(held)>;
        if constexpr (is_integer<T> || std::is_floating_point_v<T>)
          return static_cast<double>(held);
        fail_type(*this, key, *value, "a number");
      },
      *value);
}

std::optional<bool> GgufMetadata::get_bool(std::string_view key) const {
  const bool* value = get_exact<bool>(*this, key, "bool");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

const std::string* GgufMetadata::get_string(std::string_view key) const {
  return get_exact<std::string>(*this, key, "string");
}

const StringArray* GgufMetadata::get_strings(std::string_view key) const {
  return get_exact<StringArray>(*this, key, "array of string");
}

const std::vector<float>* GgufMetadata::get_floats(std::string_view key) const {
  return get_exact<std::vector<float>>(*this, key, "array of float32");
}

std::optional<std::vector<std::int64_t>> GgufMetadata::get_ints(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  return std::visit(
      [&](const auto& held) -> std::vector<std::int64_t> {
        using Traits = gguf::ValueTraits<std::decay_t<decltype(held)>>;
        if constexpr (Traits::is_array && is_integer<typename Traits::element>) {
          if (held.size() > kMaxGgufInts)
            throw_file_error(path, "key {} has {} elements, at most {} are accepted", quote(key),
                             held.size(), kMaxGgufInts);
          std::vector<std::int64_t> result;
          result.reserve(held.size());
          for (const auto element : held) result.push_back(to_int64(*this, key, element));
          return result;
        }
        fail_type(*this, key, *value, "an array of integers");
      },
      *value);
}

void GgufMetadata::set(std::string key, GgufValue value) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const auto& entry) { return entry.first == key; });
  if (found == entries.end()) {
    entries.emplace_back(std::move(key), std::move(value));
  } else {
    found->second = std::move(value);
  }
}

void GgufMetadata::set(std::string key, const std::vector<std::string>& value) {
  set(std::move(key), GgufValue(StringArray(value)));
}

}  // namespace tenfold
