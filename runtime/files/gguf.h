#pragma once
// GGUF v2/v3, little endian: reader (mapped, nothing copied but metadata) and streaming writer.
// The reader checks every length, count, offset and shape before use; a bad file is one
// ErrorCode::bad_file that names the file, the field, what was expected and what was found
// (ErrorCode::unsupported: big-endian files, other versions, ggml types Tenfold does not read).
// Parsed metadata takes less than twice the file's size and a few MiB.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/files/mapped_file.h"
#include "runtime/files/output_file.h"
#include "runtime/files/string_array.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {

// Hostile files must not make small entries grow into large ones; real files stay far below.
inline constexpr std::uint64_t kMaxGgufKeys = 1u << 16;
inline constexpr std::uint64_t kMaxGgufTensors = 1u << 16;
inline constexpr std::uint64_t kMaxGgufInts = 1u << 22;  // of one array, through get_ints

// Every value type of the format at its own width, so that what is read is written back the same.
using GgufValue =
    std::variant<bool, std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t,
                 std::int32_t, std::uint64_t, std::int64_t, float, double, std::string, StringArray,
                 std::vector<bool>, std::vector<std::uint8_t>, std::vector<std::int8_t>,
                 std::vector<std::uint16_t>, std::vector<std::int16_t>, std::vector<std::uint32_t>,
                 std::vector<std::int32_t>, std::vector<std::uint64_t>, std::vector<std::int64_t>,
                 std::vector<float>, std::vector<double>>;

struct GgufMetadata {
  std::vector<std::pair<std::string, GgufValue>> entries;  // in file order, keys unique

  const GgufValue* find(std::string_view key) const noexcept;
  // Typed look-ups. Absent: nullopt. Present with another type or out of range: Error bad_file
  // naming `path` and the key. Any integer type is accepted for get_int, and integers for
  // get_float.
  std::optional<std::int64_t> get_int(std::string_view key) const;
  std::optional<double> get_float(std::string_view key) const;
  std::optional<bool> get_bool(std::string_view key) const;
  const std::string* get_string(std::string_view key) const;
  const StringArray* get_strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> get_ints(std::string_view key) const;  // any int array
  const std::vector<float>* get_floats(std::string_view key) const;
  void set(std::string key, GgufValue value);  // replaces
  void set(std::string key, const std::vector<std::string>& value);

  std::string path;  // for messages
};

struct GgufContents {
  GgufMetadata metadata;
  std::vector<TensorSource> tensors;  // data points into the bytes that were parsed
};
// A whole file that is in memory; `path` is what messages call it.
GgufContents parse_gguf(std::span<const std::byte> bytes, std::string_view path);

class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);
  const GgufMetadata& metadata() const noexcept { return contents_.metadata; }
  const std::vector<TensorSource>& tensors() const noexcept { return contents_.tensors; }
  const std::string& path() const noexcept { return file_.path(); }
  std::uint64_t file_bytes() const noexcept { return file_.bytes().size(); }

 private:
  MappedFile file_;
  GgufContents contents_;
};

struct GgufTensorDecl {
  std::string name;
  std::vector<std::int64_t> shape;  // row-major, outermost first, as in TensorSource
  DType dtype = DType::f32;
};

// Writes version 3: header, metadata and tensor table at once, then tensor data in the declared
// order, each tensor padded to the alignment. Same input, same bytes. The file appears under its
// name only when finish() returns (OutputFile). What the reader would refuse is an Error here.
class GgufWriter {
 public:
  // general.alignment in `metadata` sets the alignment; absent: 64 is used and written.
  GgufWriter(const std::filesystem::path& path, bool overwrite, GgufMetadata metadata,
             std::vector<GgufTensorDecl> tensors);
  // Bytes of the next tensor; may be called several times for one tensor. Error if it overruns.
  void write(std::span<const std::byte> data);
  // Error if a tensor is incomplete. Syncs and renames.
  void finish();

 private:
  void pad_to_alignment();

  OutputFile file_;
  std::vector<GgufTensorDecl> tensors_;
  std::vector<std::uint64_t> sizes_;
  std::uint64_t alignment_ = 0;
  std::size_t current_ = 0;    // the tensor being written
  std::uint64_t written_ = 0;  // its bytes so far
};

// Of the file that a GgufWriter of these leaves.
std::uint64_t gguf_bytes(GgufMetadata metadata, const std::vector<GgufTensorDecl>& tensors);

}  // namespace tenfold
