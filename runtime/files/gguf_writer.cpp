#include <algorithm>
#include <array>
#include <set>

#include "kernels/error.h"
#include "runtime/files/gguf.h"
#include "runtime/files/gguf_format.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

// Where bytes go: a file, or only their count.
struct Counter {
  std::uint64_t bytes = 0;
  void write(std::span<const std::byte> data) { bytes += data.size(); }
  void write(std::string_view text) { bytes += text.size(); }
};

template <typename T>
void put(auto& file, T value) {
  file.write(std::as_bytes(std::span(&value, 1)));
}

void put_text(auto& file, std::string_view text) {
  put<std::uint64_t>(file, text.size());
  file.write(text);
}

void put_type(auto& file, gguf::ValueType type) { put(file, static_cast<std::uint32_t>(type)); }

template <typename T>
void put_elements(auto& file, const std::vector<T>& values) {
  file.write(std::as_bytes(std::span(values)));
}
void put_elements(auto& file, const std::vector<bool>& values) {
  for (const bool value : values) put<std::uint8_t>(file, value ? 1 : 0);
}
void put_elements(auto& file, const StringArray& values) {
  for (const std::string_view value : values) put_text(file, value);
}

void put_value(auto& file, const GgufValue& value) {
  std::visit(
      [&](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        using Traits = gguf::ValueTraits<T>;
        constexpr auto type = gguf::value_type<typename Traits::element>();
        if constexpr (Traits::is_array) {
          put_type(file, gguf::ValueType::array);
          put_type(file, type);
          put<std::uint64_t>(file, held.size());
          put_elements(file, held);
        } else {
          put_type(file, type);
          if constexpr (std::is_same_v<T, std::string>) {
            put_text(file, held);
          } else if constexpr (std::is_same_v<T, bool>) {
            put<std::uint8_t>(file, held ? 1 : 0);
          } else {
            put(file, held);
          }
        }
      },
      value);
}

template <typename Range>
void check_names(const Range& range, std::string_view kind, std::string_view path,
                 std::uint64_t limit, const auto& name_of) {
  if (range.size() > limit)
    throw_file_error(path, "{} {}s to write, at most {} are accepted", range.size(), kind, limit);
  std::set<std::string_view> seen;
  for (const auto& item : range) {
    const std::string_view name = name_of(item);
    if (name.empty()) throw_file_error(path, "a {} to write has an empty name", kind);
    if (!seen.insert(name).second)
      throw_file_error(path, "{} {} is to be written twice", kind, quote(name));
  }
}

std::uint64_t settle_alignment(GgufMetadata& metadata) {
  const std::uint64_t alignment = gguf::checked_alignment(
      metadata.get_int(gguf::kAlignmentKey).value_or(gguf::kWrittenAlignment), metadata.path);
  metadata.set(std::string(gguf::kAlignmentKey), static_cast<std::uint32_t>(alignment));
  return alignment;
}

// All before the tensors' bytes. Returns where those end, counted from where they begin.
std::uint64_t put_header(auto& file, const GgufMetadata& metadata,
                         const std::vector<GgufTensorDecl>& tensors,
                         const std::vector<std::uint64_t>& sizes, std::uint64_t alignment) {
  file.write(gguf::kMagic);
  put(file, gguf::kWrittenVersion);
  put<std::uint64_t>(file, tensors.size());
  put<std::uint64_t>(file, metadata.entries.size());
  for (const auto& [key, value] : metadata.entries) {
    put_text(file, key);
    put_value(file, value);
  }
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensorDecl& tensor = tensors[i];
    put_text(file, tensor.name);
    put(file, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent)
      put(file, *extent);
    put(file, static_cast<std::uint32_t>(tensor.dtype));
    put(file, offset);
    offset = gguf::align_up(offset + sizes[i], alignment);
  }
  return offset;
}

}  // namespace

std::uint64_t gguf_bytes(GgufMetadata metadata, const std::vector<GgufTensorDecl>& tensors) {
  const std::uint64_t alignment = settle_alignment(metadata);
  std::vector<std::uint64_t> sizes;
  for (const GgufTensorDecl& tensor : tensors) {
    sizes.push_back(gguf::tensor_bytes(tensor.shape, tensor.dtype, metadata.path, tensor.name));
  }
  Counter counter;
  const std::uint64_t data = put_header(counter, metadata, tensors, sizes, alignment);
  return gguf::align_up(counter.bytes, alignment) + data;
}

GgufWriter::GgufWriter(const std::filesystem::path& path, bool overwrite, GgufMetadata metadata,
                       std::vector<GgufTensorDecl> tensors)
    : file_(path, overwrite), tensors_(std::move(tensors)) {
  metadata.path = file_.path();
  alignment_ = settle_alignment(metadata);
  check_names(metadata.entries, "key", file_.path(), kMaxGgufKeys,
              [](const auto& entry) -> std::string_view { return entry.first; });
  check_names(tensors_, "tensor", file_.path(), kMaxGgufTensors,
              [](const auto& tensor) -> std::string_view { return tensor.name; });
  for (const GgufTensorDecl& tensor : tensors_)
    sizes_.push_back(gguf::tensor_bytes(tensor.shape, tensor.dtype, file_.path(), tensor.name));

  put_header(file_, metadata, tensors_, sizes_, alignment_);
  pad_to_alignment();
}

void GgufWriter::write(std::span<const std::byte> data) {
  if (data.empty()) return;
  if (current_ == sizes_.size())
    throw_file_error(file_.path(), "{} bytes to write after the last tensor", data.size());
  if (data.size() > sizes_[current_] - written_)
    throw_file_error(file_.path(), "tensor {}: {} bytes to write, but {} of its {} are left",
                     quote(tensors_[current_].name), data.size(), sizes_[current_] - written_,
                     sizes_[current_]);
  file_.write(data);
  written_ += data.size();
  if (written_ < sizes_[current_]) return;
  pad_to_alignment();
  ++current_;
  written_ = 0;
}

void GgufWriter::finish() {
  if (current_ < sizes_.size())
    throw_file_error(file_.path(), "tensor {}: {} of {} bytes were written",
                     quote(tensors_[current_].name), written_, sizes_[current_]);
  file_.commit();
}

void GgufWriter::pad_to_alignment() {
  static constexpr std::array<std::byte, 256> kZeros{};
  std::uint64_t n = gguf::align_up(file_.position(), alignment_) - file_.position();
  while (n > 0) {
    const auto step = std::min<std::uint64_t>(n, kZeros.size());
    file_.write(std::span(kZeros).first(step));
    n -= step;
  }
}

}  // namespace tenfold
