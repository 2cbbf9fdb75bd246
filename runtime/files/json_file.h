#pragma once
// Reading JSON that comes from a user: size, depth and number of values capped (a value takes up to
// about 100 bytes of memory), errors name the file and the byte.

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace tenfold {

inline constexpr std::uint64_t kMaxJsonBytes = 256u << 20;
inline constexpr int kMaxJsonDepth = 64;
inline constexpr std::uint64_t kMaxJsonValues = 4u << 20;

// `name` is what messages call the text. Throws bad_file on a syntax error, invalid UTF-8,
// nesting beyond kMaxJsonDepth, a key that an object has twice, and beyond the other limits.
nlohmann::json parse_json(std::string_view text, std::string_view name,
                          std::uint64_t max_values = kMaxJsonValues);
nlohmann::json read_json_file(const std::filesystem::path& path,
                              std::uint64_t max_values = kMaxJsonValues);

// JSON lines: calls use(value, name) for every line that is not blank; name: "FILE, line 3".
void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const nlohmann::json&, const std::string& name)>& use);

// Required/optional fields with one-sentence errors naming `name`, the key, expected and found.
// null counts as absent.
std::int64_t json_int(const nlohmann::json& object, std::string_view key, std::string_view name);
std::int64_t json_int_or(const nlohmann::json& object, std::string_view key, std::int64_t fallback,
                         std::string_view name);
double json_number_or(const nlohmann::json& object, std::string_view key, double fallback,
                      std::string_view name);
bool json_bool_or(const nlohmann::json& object, std::string_view key, bool fallback,
                  std::string_view name);
std::string json_string_or(const nlohmann::json& object, std::string_view key,
                           std::string_view fallback, std::string_view name);

}  // namespace tenfold
