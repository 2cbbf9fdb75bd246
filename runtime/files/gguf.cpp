#include "runtime/files/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/gguf_format.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace gguf {

std::uint64_t checked_alignment(std::int64_t stated, std::string_view path) {
  if (stated < kMinAlignment || stated > kMaxAlignment || (stated & (stated - 1)) != 0)
    throw_file_error(path, "{} is {}, expected a power of two from {} to {}", kAlignmentKey, stated,
                     kMinAlignment, kMaxAlignment);
  return static_cast<std::uint64_t>(stated);
}

std::uint64_t tensor_bytes(std::span<const std::int64_t> shape, DType dtype, std::string_view path,
                           std::string_view name) {
  if (shape.empty() || shape.size() > kMaxDims)
    throw_file_error(path, "tensor {} has {} dimensions, expected 1 to {}", quote(name),
                     shape.size(), kMaxDims);
  for (const std::int64_t extent : shape) {
    if (extent <= 0)
      throw_file_error(path, "tensor {} has an extent of {}, expected 1 or more", quote(name),
                       extent);
  }
  const DTypeTraits traits = dtype_traits(dtype);
  if (shape.back() % traits.block != 0)
    throw_file_error(path, "tensor {} has rows of {} elements, expected a multiple of {} for {}",
                     quote(name), shape.back(), traits.block, traits.name);
  const auto elements = checked_product(shape);
  const auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const auto bytes = elements && *elements <= limit
                         ? checked_mul(*elements / traits.block, traits.bytes)
                         : std::nullopt;
  if (!bytes || *bytes > limit)
    throw_file_error(path, "tensor {} has a shape whose size overflows 63 bits", quote(name));
  return *bytes;
}

namespace {

// Walks the file; knows which field is being read, so that every message can name it.
class Cursor {
 public:
  Cursor(std::span<const std::byte> file, std::string_view path)
      : bytes_(file.first(std::min<std::uint64_t>(file.size(), kMaxHeaderBytes))),
        path_(path),
        end_(bytes_.size() == file.size() ? "file" : "first GiB, which holds all metadata,") {}

  // The field is `kind` "name", or `kind` index while the name is not known.
  void set_field(std::string_view kind, std::uint64_t index, std::string_view name = {}) {
    kind_ = kind;
    index_ = index;
    name_ = name;
  }

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw_file_error(path_, "{}: {}", field(), fmt::format(format, std::forward<Args>(args)...));
  }
  std::string field() const {
    if (!name_.empty()) return fmt::format("{} {}", kind_, quote(name_));
    return index_ == kNoIndex ? std::string(kind_) : fmt::format("{} {}", kind_, index_);
  }

  std::uint64_t position() const noexcept { return position_; }
  std::uint64_t remaining() const noexcept { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t size) {
    if (size > remaining())
      fail("{} bytes expected at byte {}, found {} before the {} ends", size, position_,
           remaining(), end_);
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  template <typename T>
  T number() {
    T value{};
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view text() {
    const auto size = number<std::uint64_t>();
    const auto taken = take(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  // A count of things that take at least `min_bytes` each.
  std::uint64_t count(std::string_view what, std::uint64_t min_bytes, std::uint64_t limit) {
    const auto n = number<std::uint64_t>();
    if (n > limit) fail("{} {}, at most {} are accepted", n, what, limit);
    return n_fitting(n, what, min_bytes);
  }
  std::uint64_t n_fitting(std::uint64_t n, std::string_view what, std::uint64_t min_bytes) const {
    if (n > remaining() / min_bytes)
      fail("{} {} cannot fit in the {} bytes that are left", n, what, remaining());
    return n;
  }

  static constexpr std::uint64_t kNoIndex = std::numeric_limits<std::uint64_t>::max();

 private:
  std::span<const std::byte> bytes_;
  std::string_view path_;
  std::string_view end_;
  std::uint64_t position_ = 0;
  std::string_view kind_;
  std::uint64_t index_ = kNoIndex;
  std::string_view name_;
};

bool read_bool(Cursor& cursor) {
  const auto byte = cursor.number<std::uint8_t>();
  if (byte > 1) cursor.fail("a bool is {}, expected 0 or 1", byte);
  return byte != 0;
}

template <typename T>
GgufValue read_scalar(Cursor& cursor) {
  if constexpr (std::is_same_v<T, bool>) {
    return read_bool(cursor);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return std::string(cursor.text());
  } else {
    return cursor.number<T>();
  }
}

// Two walks over the strings: the first checks and sums them, so that the second can fill exactly
// allocated memory.
StringArray read_strings(Cursor& cursor, std::uint64_t n) {
  Cursor ahead = cursor;
  std::uint64_t n_bytes = 0;
  for (std::uint64_t i = 0; i < n; ++i) n_bytes += ahead.text().size();
  StringArray strings;
  strings.reserve(n, n_bytes);
  for (std::uint64_t i = 0; i < n; ++i) strings.push_back(cursor.text());
  return strings;
}

template <typename T>
GgufValue read_array(Cursor& cursor, std::uint64_t n) {
  constexpr std::uint64_t kMinBytes = std::is_same_v<T, std::string> ? 8 : sizeof(T);
  cursor.n_fitting(n, "array elements", kMinBytes);
  if constexpr (std::is_same_v<T, std::string>) {
    return read_strings(cursor, n);
  } else if constexpr (std::is_same_v<T, bool>) {
    std::vector<bool> values(n);
    for (std::uint64_t i = 0; i < n; ++i) values[i] = read_bool(cursor);
    return values;
  } else {
    std::vector<T> values(n);
    const auto taken = cursor.take(n * sizeof(T));
    if (n != 0) std::memcpy(values.data(), taken.data(), taken.size());
    return values;
  }
}

GgufValue read_value(Cursor& cursor) {
  const auto type = static_cast<gguf::ValueType>(cursor.number<std::uint32_t>());
  GgufValue value;
  if (type != gguf::ValueType::array) {
    const bool known = gguf::visit_type(
        type, [&](auto tag) { value = read_scalar<typename decltype(tag)::type>(cursor); });
    if (!known) cursor.fail("value type {} is not known", static_cast<std::uint32_t>(type));
    return value;
  }
  const auto element = static_cast<gguf::ValueType>(cursor.number<std::uint32_t>());
  const auto n = cursor.number<std::uint64_t>();
  if (element == gguf::ValueType::array) cursor.fail("an array of arrays is not accepted");
  const bool known = gguf::visit_type(
      element, [&](auto tag) { value = read_array<typename decltype(tag)::type>(cursor, n); });
  if (!known)
    cursor.fail("array element type {} is not known", static_cast<std::uint32_t>(element));
  return value;
}

void read_version(Cursor& cursor, std::string_view path) {
  const auto magic = cursor.take(4);
  if (std::memcmp(magic.data(), gguf::kMagic.data(), 4) != 0)
    cursor.fail("the file begins with {}, expected \"GGUF\": this is not a GGUF file",
                quote({reinterpret_cast<const char*>(magic.data()), magic.size()}));
  const auto version = cursor.number<std::uint32_t>();
  if (version == 2 || version == 3) return;
  if (version != 0 && (version & 0xffffu) == 0)
    throw_error(ErrorCode::unsupported,
                "{}: a big-endian GGUF file; only little-endian ones can be read", path);
  if (version == 1)
    throw_error(ErrorCode::unsupported,
                "{}: GGUF version 1, from before October 2023, is not supported; convert the model "
                "again for version 3",
                path);
  throw_error(ErrorCode::unsupported, "{}: GGUF version {}, expected 2 or 3", path, version);
}

std::size_t first_duplicate(std::size_t n, const auto& name_of) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  const auto less = [&](auto a, auto b) { return name_of(a) < name_of(b); };
  const auto same = [&](auto a, auto b) { return name_of(a) == name_of(b); };
  std::sort(order.begin(), order.end(), less);
  const auto found = std::adjacent_find(order.begin(), order.end(), same);
  return found == order.end() ? n : *found;
}

void read_metadata(Cursor& cursor, std::uint64_t n_keys, GgufMetadata& metadata) {
  metadata.entries.reserve(n_keys);
  for (std::uint64_t i = 0; i < n_keys; ++i) {
    cursor.set_field("key", i);
    const std::string_view key = cursor.text();
    if (key.empty()) cursor.fail("the key is empty");
    cursor.set_field("key", i, key);
    metadata.entries.emplace_back(std::string(key), read_value(cursor));
  }
  const auto& entries = metadata.entries;
  const auto duplicate = first_duplicate(
      entries.size(), [&](std::size_t i) -> const std::string& { return entries[i].first; });
  if (duplicate != entries.size())
    throw_file_error(metadata.path, "key {} appears twice", quote(entries[duplicate].first));
}

// ggml's types by id, also those that Tenfold does not read: an id beyond them is taken for damage.
constexpr std::array<std::string_view, 43> kGgmlTypes = {
    "F32",   "F16",        "Q4_0",       "Q4_1",       "Q4_2",     "Q4_3",     "Q5_0",
    "Q5_1",  "Q8_0",       "Q8_1",       "Q2_K",       "Q3_K",     "Q4_K",     "Q5_K",
    "Q6_K",  "Q8_K",       "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",  "IQ1_S",    "IQ4_NL",
    "IQ3_S", "IQ2_S",      "IQ4_XS",     "I8",         "I16",      "I32",      "I64",
    "F64",   "IQ1_M",      "BF16",       "Q4_0_4_4",   "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
    "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",    "Q1_0",
    "Q2_0"};

DType read_dtype(Cursor& cursor, std::string_view path) {
  const auto id = cursor.number<std::uint32_t>();
  if (dtype_traits(id)) return static_cast<DType>(id);
  if (id < kGgmlTypes.size())
    throw_error(ErrorCode::unsupported, "{}: {} has type {} (ggml type {}), which is not supported",
                path, cursor.field(), kGgmlTypes[id], id);
  cursor.fail("type {} is not known", id);
}

struct TensorPlace {
  std::uint64_t offset, size;  // in the data section
};

TensorPlace read_tensor_info(Cursor& cursor, std::uint64_t index, std::string_view path,
                             TensorSource& tensor) {
  cursor.set_field("tensor", index);
  const std::string_view name = cursor.text();
  if (name.empty()) cursor.fail("the name is empty");
  cursor.set_field("tensor", index, name);
  tensor.name = name;
  const auto n_dims = cursor.number<std::uint32_t>();
  if (n_dims < 1 || n_dims > gguf::kMaxDims)
    cursor.fail("{} dimensions, expected 1 to {}", n_dims, gguf::kMaxDims);
  tensor.shape.resize(n_dims);
  // The file has the innermost extent first.
  for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) {
    const auto value = cursor.number<std::uint64_t>();
    if (value == 0 || value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      cursor.fail("an extent of {}, expected 1 to 2^63 - 1", value);
    *extent = static_cast<std::int64_t>(value);
  }
  tensor.dtype = read_dtype(cursor, path);
  const auto offset = cursor.number<std::uint64_t>();
  return {offset, gguf::tensor_bytes(tensor.shape, tensor.dtype, path, name)};
}

void check_places(const std::vector<TensorSource>& tensors, std::string_view path) {
  const auto duplicate = first_duplicate(
      tensors.size(), [&](std::size_t i) -> const std::string& { return tensors[i].name; });
  if (duplicate != tensors.size())
    throw_file_error(path, "tensor {} appears twice", quote(tensors[duplicate].name));

  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto begin = [&](std::uint32_t i) { return tensors[i].data.data(); };
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return begin(a) < begin(b); });
  const auto overlap = [&](auto a, auto b) { return begin(a) + tensors[a].data.size() > begin(b); };
  const auto found = std::adjacent_find(order.begin(), order.end(), overlap);
  if (found != order.end())
    throw_file_error(path, "the data of tensors {} and {} overlap", quote(tensors[*found].name),
                     quote(tensors[*std::next(found)].name));
}

void place_tensors(std::span<const std::byte> data, const std::vector<TensorPlace>& places,
                   std::uint64_t alignment, std::string_view path,
                   std::vector<TensorSource>& tensors) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto [offset, size] = places[i];
    if (offset % alignment != 0)
      throw_file_error(path, "tensor {} is at offset {}, expected a multiple of {}",
                       quote(tensors[i].name), offset, alignment);
    if (offset > data.size() || size > data.size() - offset)
      throw_file_error(path,
                       "tensor {} needs {} bytes at offset {}, but the data section has {} bytes: "
                       "the file is truncated or damaged",
                       quote(tensors[i].name), size, offset, data.size());
    tensors[i].data = data.subspan(offset, size);
  }
  check_places(tensors, path);
}

}  // namespace
}  // namespace gguf

GgufContents parse_gguf(std::span<const std::byte> bytes, std::string_view path) {
  // The least a key (length, one character, type, one byte) and a tensor (length, one character,
  // rank, one extent, type, offset) take.
  constexpr std::uint64_t kMinKeyBytes = 14;
  constexpr std::uint64_t kMinTensorBytes = 33;

  GgufContents contents;
  contents.metadata.path = path;
  gguf::Cursor cursor(bytes, path);
  cursor.set_field("header", gguf::Cursor::kNoIndex);
  gguf::read_version(cursor, path);
  const auto n_tensors = cursor.count("tensors", kMinTensorBytes, kMaxGgufTensors);
  const auto n_keys = cursor.count("keys", kMinKeyBytes, kMaxGgufKeys);
  gguf::read_metadata(cursor, n_keys, contents.metadata);

  const std::uint64_t alignment = gguf::checked_alignment(
      contents.metadata.get_int(gguf::kAlignmentKey).value_or(gguf::kDefaultAlignment), path);

  cursor.set_field("tensor table", gguf::Cursor::kNoIndex);
  cursor.n_fitting(n_tensors, "tensors", kMinTensorBytes);
  contents.tensors.resize(n_tensors);
  std::vector<gguf::TensorPlace> places(n_tensors);
  for (std::uint64_t i = 0; i < n_tensors; ++i)
    places[i] = gguf::read_tensor_info(cursor, i, path, contents.tensors[i]);

  const auto data_begin =
      std::min<std::uint64_t>(gguf::align_up(cursor.position(), alignment), bytes.size());
  gguf::place_tensors(bytes.subspan(data_begin), places, alignment, path, contents.tensors);
  return contents;
}

GgufFile::GgufFile(const std::filesystem::path& path)
    : file_(path), contents_(parse_gguf(file_.bytes(), file_.path())) {}

}  // namespace tenfold
