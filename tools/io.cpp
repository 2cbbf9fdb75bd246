#include "tools/io.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/files/json_file.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

std::string read_all(int fd, std::string_view name, ErrorCode code) {
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (true) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n == 0) return text;
    if (n < 0) {
      if (errno == EINTR) continue;
      throw_error(code, "{}: cannot be read: {}", name, std::strerror(errno));
    }
    text.append(buffer.data(), static_cast<std::size_t>(n));
    if (text.size() > kMaxTextBytes) {
      throw_error(code, "{}: longer than the limit of 1 GiB of text", name);
    }
  }
}

TokenId to_id(const nlohmann::json& value, std::string_view name) {
  if (value.is_number_integer()) {
    const auto id = value.get<std::int64_t>();
    if (id >= 0 && id <= std::numeric_limits<TokenId>::max()) return static_cast<TokenId>(id);
  }
  throw_file_error(name, "a token id must be an integer of at least 0, found {}",
                   value.dump().substr(0, 40));
}

std::vector<TokenId> to_ids(const nlohmann::json& value, std::string_view name) {
  if (!value.is_array()) {
    throw_file_error(name, "expected an array of token ids, found {}", value.type_name());
  }
  std::vector<TokenId> ids;
  ids.reserve(value.size());
  for (const nlohmann::json& id : value) ids.push_back(to_id(id, name));
  return ids;
}

}  // namespace

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<std::size_t>(n));
    } else if (errno != EINTR) {
      throw_error(ErrorCode::io, "standard output cannot be written: {}", std::strerror(errno));
    }
  }
}

void print_model_text(std::string_view text) {
  if (::isatty(STDOUT_FILENO) == 0) {
    print(text);
    return;
  }
  std::string safe;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const bool control =
        (c.code < 0x20 && c.code != '\n' && c.code != '\t') || (c.code >= 0x7f && c.code < 0xa0);
    append_utf8(safe, control ? kReplacementChar : c.code);
    at += c.length;
  }
  print(safe);
}

void note(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fputc('\n', stderr);
}

void check_utf8(std::string_view text, std::string_view name, ErrorCode code) {
  const std::size_t at = first_invalid_utf8(text);
  if (at == std::string_view::npos) return;
  throw_error(code, "{} is not UTF-8 text: byte 0x{:02x} at offset {}", name,
              static_cast<unsigned char>(text[at]), at);
}

void note_clipped(std::int64_t count, std::string_view way_out) {
  if (count == 0) return;
  note(fmt::format("{} values lie outside F16's range and were written as +-65504{}{}.", count,
                   way_out.empty() ? "" : "; ", way_out));
}

std::filesystem::path user_folder(const char* variable, const char* in_home) {
  const auto value_of = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value ? value : "");
  };
  const std::filesystem::path folder = value_of(variable);
  if (folder.is_absolute()) return folder / "tenfold";
  const std::filesystem::path home = value_of("HOME");
  return home.empty() ? home : home / in_home / "tenfold";
}

std::string read_text(const std::string& path) {
  if (path == "-") {
    std::string text = read_all(STDIN_FILENO, "standard input", ErrorCode::bad_request);
    check_utf8(text, "standard input", ErrorCode::bad_request);
    return text;
  }
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_file_error(path, "cannot be opened: {}", std::strerror(errno));
  std::string text;
  try {
    text = read_all(fd, path, ErrorCode::bad_file);
  } catch (...) {
    ::close(fd);
    throw;
  }
  ::close(fd);
  check_utf8(text, path, ErrorCode::bad_file);
  return text;
}

std::vector<TokenId> read_ids(const std::filesystem::path& path) {
  return to_ids(read_json_file(path), path.string());
}

std::vector<std::vector<TokenId>> read_id_batch(const std::filesystem::path& path) {
  const nlohmann::json json = read_json_file(path);
  const std::string name = path.string();
  if (!json.is_array() || json.empty()) {
    throw_file_error(name, "expected an array of equally long arrays of token ids, found {}",
                     json.is_array() ? "an empty array" : json.type_name());
  }
  std::vector<std::vector<TokenId>> batch;
  for (const nlohmann::json& row : json) {
    batch.push_back(to_ids(row, name));
    if (batch.back().empty() || batch.back().size() != batch.front().size()) {
      throw_file_error(name,
                       "row {} has {} token ids; all rows must have the same number, row 0 "
                       "has {}",
                       batch.size() - 1, batch.back().size(), batch.front().size());
    }
  }
  return batch;
}

std::string megabytes(std::uint64_t bytes) {
  const double mib = static_cast<double>(bytes) / (1 << 20);
  if (mib >= 1024) return fmt::format("{:.1f} GiB", mib / 1024);
  return fmt::format("{:.{}f} MiB", mib, mib >= 10 ? 0 : 1);
}

std::string count_text(std::int64_t n) {
  const auto value = static_cast<double>(n);
  if (value >= 1e9) return fmt::format("{:.2f} B", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
  return fmt::format("{}", n);
}

double per_second(std::int64_t n, double seconds) {
  return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
}

}  // namespace tenfold
