#include "runtime/files/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/byte_cursor.h"
#include "runtime/files/json_events.h"
#include "runtime/files/output_file.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

constexpr std::array kReadableTypes{DType::f32, DType::f16, DType::bf16, DType::i32, DType::i64};

// For these types safetensors and GGML use the same names.
std::optional<DType> parse_dtype(std::string_view text) {
  for (const DType type : kReadableTypes) {
    if (dtype_traits(type).name == text) return type;
  }
  return std::nullopt;
}

// {"__metadata__": {"k": "v"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
class HeaderReader : public JsonEvents {
 public:
  HeaderReader(std::span<const std::byte> data, std::string_view name, std::size_t reserve)
      : JsonEvents(name), data_(data) {
    tensors_.reserve(reserve);
  }
  std::vector<TensorSource> take_tensors() { return std::move(tensors_); }

  bool start_object(std::size_t) override {
    if (depth_ >= 2 || field_ != Field::none) refuse("an object");
    ++depth_;
    return true;
  }
  bool key(string_t& text) override {
    if (depth_ == 1) {
      start_entry(std::move(text));
    } else if (!in_metadata_) {
      start_field(text);
    }
    return true;
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) finish_tensor();
    --depth_;
    in_tensor_ = in_metadata_ = false;
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (field_ != Field::dtype) refuse("a string");
    const auto type = parse_dtype(text);
    if (!type) {
      throw_error(ErrorCode::unsupported,
                  "{}: {} has dtype {}; Tenfold reads F32, F16, BF16, I32 and I64", name(), place(),
                  quote(text));
    }
    tensor_.dtype = *type;
    field_ = Field::none;
    return true;
  }
  bool start_array(std::size_t) override {
    if (in_array_ || (field_ != Field::shape && field_ != Field::offsets)) refuse("an array");
    in_array_ = true;
    n_numbers_ = 0;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) refuse("a number");
    const std::size_t limit = field_ == Field::shape ? kMaxTensorRank : 2;
    if (n_numbers_ == limit) {
      throw_file_error(name(), "{}: {} has more than {} numbers", place(),
                       field_ == Field::shape ? "shape" : "data_offsets", limit);
    }
    numbers_[n_numbers_++] = value;
    return true;
  }
  bool end_array() override {
    if (field_ == Field::shape) {
      store_shape();
    } else {
      if (n_numbers_ != 2) {
        throw_file_error(name(), "{}: data_offsets has {} numbers, expected 2", place(),
                         n_numbers_);
      }
      begin_ = numbers_[0];
      end_ = numbers_[1];
    }
    in_array_ = false;
    field_ = Field::none;
    return true;
  }

 private:
  enum class Field : unsigned { none = 0, dtype = 1, shape = 2, offsets = 4 };
  static constexpr unsigned kAllFields = 7;

  std::string place() const override {
    if (in_tensor_) return "tensor " + quote(tensor_.name);
    return in_metadata_ ? "safetensors __metadata__" : "safetensors header";
  }

  void start_entry(std::string text) {
    tensor_ = TensorSource{};
    seen_ = 0;
    in_metadata_ = text == "__metadata__";
    in_tensor_ = !in_metadata_;
    if (in_tensor_) tensor_.name = std::move(text);
  }

  void start_field(std::string_view text) {
    field_ = text == "dtype"          ? Field::dtype
             : text == "shape"        ? Field::shape
             : text == "data_offsets" ? Field::offsets
                                      : Field::none;
    const auto bit = static_cast<unsigned>(field_);
    if (bit == 0) {
      throw_file_error(name(), "{}: unknown field {}", place(), quote(text));
    }
    if ((seen_ & bit) != 0) throw_file_error(name(), "{}: field {} twice", place(), text);
    seen_ |= bit;
  }

  void store_shape() {
    tensor_.shape.reserve(n_numbers_);
    for (const std::uint64_t extent : std::span(numbers_).first(n_numbers_)) {
      if (extent == 0) throw_file_error(name(), "{}: shape has a 0; it holds no data", place());
      if (!std::in_range<std::int64_t>(extent)) {
        throw_file_error(name(), "{}: shape has {}, which is too large", place(), extent);
      }
      tensor_.shape.push_back(static_cast<std::int64_t>(extent));
    }
  }

  void finish_tensor() {
    if (seen_ != kAllFields) {
      throw_file_error(name(), "{}: needs dtype, shape and data_offsets", place());
    }
    if (begin_ > end_ || end_ > data_.size()) {
      throw_file_error(name(),
                       "{}: data_offsets [{}, {}] do not lie in the {} bytes of data; the file is "
                       "truncated or damaged",
                       place(), begin_, end_, data_.size());
    }
    const auto elements = checked_product(tensor_.shape);
    const auto bytes =
        elements ? checked_mul(*elements, dtype_traits(tensor_.dtype).bytes) : std::nullopt;
    if (!bytes || *bytes != end_ - begin_) {
      throw_file_error(name(), "{}: {} bytes of data, expected {} for its shape and dtype {}",
                       place(), end_ - begin_, bytes ? std::to_string(*bytes) : "over 2^64",
                       dtype_traits(tensor_.dtype).name);
    }
    if (tensors_.size() == kMaxFileTensors) {
      throw_file_error(name(), "more than {} tensors", kMaxFileTensors);
    }
    tensor_.data = data_.subspan(begin_, end_ - begin_);
    tensors_.push_back(std::move(tensor_));
  }

  std::span<const std::byte> data_;
  std::vector<TensorSource> tensors_;
  TensorSource tensor_;  // the one being read
  std::uint64_t begin_ = 0, end_ = 0;
  std::array<std::uint64_t, kMaxTensorRank> numbers_{};
  std::size_t n_numbers_ = 0;
  int depth_ = 0;
  unsigned seen_ = 0;
  Field field_ = Field::none;
  bool in_tensor_ = false, in_metadata_ = false, in_array_ = false;
};

void check_unique_and_disjoint(const std::vector<TensorSource>& tensors, std::string_view name) {
  std::vector<std::uint32_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](auto a, auto b) { return tensors[a].name < tensors[b].name; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::string& tensor = tensors[order[i]].name;
    if (tensor == tensors[order[i - 1]].name) {
      throw_file_error(name, "tensor {} is listed twice", quote(tensor));
    }
  }
  std::sort(order.begin(), order.end(),
            [&](auto a, auto b) { return tensors[a].data.data() < tensors[b].data.data(); });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorSource& before = tensors[order[i - 1]];
    const TensorSource& after = tensors[order[i]];
    if (before.data.data() + before.data.size() > after.data.data()) {
      throw_file_error(name, "tensors {} and {} overlap", quote(before.name), quote(after.name));
    }
  }
}

}  // namespace

std::vector<TensorSource> parse_safetensors(std::span<const std::byte> file,
                                            std::string_view name) {
  ByteCursor cursor(file, name);
  const auto length = cursor.read<std::uint64_t>("the safetensors header length");
  if (length > cursor.remaining() || length > kMaxSafetensorsHeader) {
    throw_file_error(name,
                     "safetensors header of {} bytes, expected at most {} ({} bytes are left); "
                     "the file is truncated or not safetensors",
                     length, kMaxSafetensorsHeader, cursor.remaining());
  }
  const std::string_view header = cursor.take_text(length, "the safetensors header");
  if (!header.starts_with('{')) {
    throw_file_error(name, "the safetensors header does not start with \"{{\"; not safetensors");
  }
  // An upper bound on the entries, so that the table is allocated once: each needs a brace, and
  // {"dtype":"F32","shape":[],"data_offsets":[0,4]} with a key and a comma has 50 bytes.
  const auto braces = static_cast<std::size_t>(std::count(header.begin(), header.end(), '{'));
  const std::size_t reserve = std::min({braces, header.size() / 50, kMaxFileTensors});
  HeaderReader reader(file.subspan(cursor.position()), name, reserve);
  read_json_events(header, reader, name);
  std::vector<TensorSource> tensors = reader.take_tensors();
  check_unique_and_disjoint(tensors, name);
  return tensors;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path), tensors_(parse_safetensors(file_.bytes(), file_.path())) {}

const TensorSource* SafetensorsFile::find(std::string_view name) const noexcept {
  const auto found = std::find_if(tensors_.begin(), tensors_.end(),
                                  [&](const TensorSource& tensor) { return tensor.name == name; });
  return found == tensors_.end() ? nullptr : &*found;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, bool overwrite,
                                     std::span<const SafetensorsDecl> tensors)
    : file_(path, overwrite) {
  std::string text = R"({"__metadata__":{"format":"pt"})";  // transformers insists
  std::uint64_t offset = 0;
  for (const SafetensorsDecl& tensor : tensors) {
    const auto traits = dtype_traits(tensor.dtype);
    if (!parse_dtype(traits.name)) {
      throw_error(ErrorCode::unsupported, "{}: tensor {} has type {}, which safetensors lacks",
                  path.string(), quote(tensor.name), traits.name);
    }
    const std::string quoted_name =
        nlohmann::json(tensor.name).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
    std::uint64_t bytes = traits.bytes;
    for (const std::int64_t extent : tensor.shape) bytes *= static_cast<std::uint64_t>(extent);
    fmt::format_to(std::back_inserter(text),
                   R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted_name,
                   traits.name, fmt::join(tensor.shape, ","), offset, offset + bytes);
    offset += bytes;
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the format wants the data aligned
  const std::uint64_t length = text.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(text);
  end_ = file_.position() + offset;
}

void SafetensorsWriter::write(std::span<const std::byte> data) { file_.write(data); }

void SafetensorsWriter::finish() {
  if (file_.position() != end_) {
    throw_error(ErrorCode::bad_request, "{}: {} bytes were written, expected {}", file_.path(),
                file_.position(), end_);
  }
  file_.commit();
}

void write_safetensors(const std::filesystem::path& path, bool overwrite,
                       std::span<const TensorSource> tensors) {
  std::vector<SafetensorsDecl> decls;
  for (const TensorSource& tensor : tensors) {
    decls.push_back({tensor.name, tensor.shape, tensor.dtype});
  }
  SafetensorsWriter writer(path, overwrite, decls);
  for (const TensorSource& tensor : tensors) writer.write(tensor.data);
  writer.finish();
}

}  // namespace tenfold
