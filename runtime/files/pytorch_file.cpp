#include "runtime/files/pytorch_file.h"

#include <algorithm>
#include <optional>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/memory_budget.h"
#include "runtime/files/quote.h"
#include "runtime/files/unpickler.h"
#include "runtime/files/zip_archive.h"
#include "runtime/utf8.h"

namespace tenfold {
namespace {

using Bytes = std::span<const std::byte>;
using Kind = PickleValue::Kind;

constexpr std::uint64_t kFixedMemory = 8u << 20;
constexpr std::size_t kMaxNameBytes = 1024;  // of a tensor or a storage key
constexpr std::size_t kMaxRank = 8;
constexpr unsigned kMaxArchiveVersion = 10;  // the newest that torch reads

std::string_view as_text(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The legacy format starts with a pickle of the number 0x1950a86a20f9469cfc6c.
void check_magic(Bytes file, std::string_view name) {
  using namespace std::string_view_literals;
  const std::string_view start = as_text(file.first(std::min<std::size_t>(file.size(), 16)));
  if (start.starts_with("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv)) {
    throw_error(ErrorCode::unsupported,
                "{}: the legacy torch format (before 1.6); load it with torch and save it again, "
                "best as safetensors",
                name);
  }
  if (!start.starts_with("PK\x03\x04"sv)) {
    throw_file_error(name, "does not start like a zip archive, which torch.save writes");
  }
}

struct StorageTraits {
  std::optional<DType> dtype;  // of weights; none: a buffer, or not readable
  std::uint64_t bytes;
};

StorageTraits storage_traits(StorageType type) {
  switch (type) {
    case StorageType::f32:
      return {DType::f32, 4};
    case StorageType::f16:
      return {DType::f16, 2};
    case StorageType::bf16:
      return {DType::bf16, 2};
    case StorageType::f64:
    case StorageType::i64:
      return {std::nullopt, 8};
    case StorageType::i32:
      return {std::nullopt, 4};
    case StorageType::i16:
      return {std::nullopt, 2};
    case StorageType::i8:
    case StorageType::u8:
    case StorageType::boolean:
      break;
  }
  return {std::nullopt, 1};
}

class ArchiveReader {
 public:
  ArchiveReader(Bytes file, std::string_view name)
      : name_(name), budget_(2 * file.size() + kFixedMemory, name), zip_(file, name, &budget_) {
    const std::string_view first = zip_.first_name();
    prefix_ = std::string(first.substr(0, std::min(first.find('/'), kMaxNameBytes))) + "/";
    check_version();
    check_byte_order();
  }

  PytorchTensors read() {
    const auto pickle_bytes = zip_.find(prefix_ + "data.pkl");
    if (!pickle_bytes) {
      throw_file_error(name_, "a zip archive without {}, which torch.save writes",
                       quote(prefix_ + "data.pkl"));
    }
    const std::string pickle_name = name_ + ": data.pkl";
    const Pickle pickle(*pickle_bytes, pickle_name, &budget_);
    return read_tensors(pickle, find_state_dict(pickle));
  }

 private:
  void check_version() const {
    const auto version = zip_.find(prefix_ + "version");
    if (!version) return;
    const std::string_view text = as_text(*version);
    unsigned value = 0;
    for (const char c : text.substr(0, text.find('\n'))) {
      if (c < '0' || c > '9') throw_file_error(name_, "archive version {}", quote(text));
      value = std::min(value * 10 + static_cast<unsigned>(c - '0'), 1000u);
    }
    if (value > kMaxArchiveVersion) {
      throw_error(ErrorCode::unsupported, "{}: torch archive version {}, expected at most {}",
                  name_, quote(text), kMaxArchiveVersion);
    }
  }

  void check_byte_order() const {
    const auto order = zip_.find(prefix_ + "byteorder");
    if (order && as_text(*order) != "little") {
      throw_error(ErrorCode::unsupported, "{}: byte order {}, expected \"little\"", name_,
                  quote(as_text(*order)));
    }
  }

  PickleValue find_state_dict(const Pickle& pickle) const {
    const PickleValue root = pickle.root();
    if (root.kind != Kind::dict) {
      throw_file_error(name_, "the pickle holds no dict, expected one of tensors by name");
    }
    const auto items = pickle.items(root);
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (items[i].kind != Kind::string || items[i + 1].kind != Kind::dict) continue;
      const std::string_view key = pickle.text(items[i]);
      if (key == "state_dict" || key == "model") return items[i + 1];
    }
    return root;
  }

  // Values that are not tensors (an epoch number, optimizer state) are not weights either.
  PytorchTensors read_tensors(const Pickle& pickle, PickleValue state_dict) {
    const auto items = pickle.items(state_dict);
    std::pmr::vector<std::string_view> names(&budget_);
    std::size_t n_tensors = 0;
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (items[i + 1].kind != Kind::tensor) continue;
      names.push_back(checked_name(pickle, items[i]));
      ++n_tensors;
    }
    if (n_tensors == 0) throw_file_error(name_, "the pickle's dict holds no tensors");
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) {
      throw_file_error(name_, "tensor {} is there twice", quote(*twice));
    }

    PytorchTensors result;
    budget_.charge(n_tensors * sizeof(TensorSource));
    result.tensors.reserve(n_tensors);
    for (std::size_t i = 0; i < items.size(); i += 2) {
      if (items[i + 1].kind != Kind::tensor) continue;
      add_tensor(pickle.text(items[i]), pickle, pickle.tensor(items[i + 1]), result);
    }
    return result;
  }

  std::string_view checked_name(const Pickle& pickle, PickleValue key) const {
    if (key.kind != Kind::string) {
      throw_file_error(name_, "a tensor whose key in the dict is not a string");
    }
    const std::string_view text = pickle.text(key);
    if (text.empty() || text.size() > kMaxNameBytes || !is_valid_utf8(text)) {
      throw_file_error(name_, "tensor name {}: expected 1 to {} bytes of UTF-8", quote(text),
                       kMaxNameBytes);
    }
    return text;
  }

  void add_tensor(std::string_view tensor, const Pickle& pickle, const PickledTensor& source,
                  PytorchTensors& result) {
    const StorageTraits traits = storage_traits(source.storage.type);
    if (source.storage.type == StorageType::f64) {
      throw_error(ErrorCode::unsupported,
                  "{}: tensor {} is float64; Tenfold reads float32, float16 and bfloat16", name_,
                  quote(tensor));
    }
    constexpr std::size_t kSmallAllocation = 32;
    budget_.charge(tensor.size() + 2 * kSmallAllocation + kMaxRank * sizeof(std::int64_t));
    if (!traits.dtype) {
      result.skipped.emplace_back(tensor);
      return;
    }
    TensorSource& target = result.tensors.emplace_back();
    target.name = tensor;
    target.dtype = *traits.dtype;
    const std::uint64_t elements = read_shape(pickle, source, target);
    target.data = tensor_data(tensor, source, elements, traits.bytes);
  }

  // Returns the number of elements.
  std::uint64_t read_shape(const Pickle& pickle, const PickledTensor& source,
                           TensorSource& target) const {
    const auto size = pickle.items(source.size);
    const auto stride = pickle.items(source.stride);
    if (size.size() > kMaxRank || stride.size() != size.size()) {
      throw_file_error(name_, "tensor {}: {} dimensions and {} strides, expected at most {}",
                       quote(target.name), size.size(), stride.size(), kMaxRank);
    }
    for (std::size_t i = 0; i < size.size(); ++i) {
      if (size[i].kind != Kind::integer || stride[i].kind != Kind::integer || size[i].integer < 1) {
        throw_file_error(name_, "tensor {}: size and stride are not positive integers",
                         quote(target.name));
      }
      target.shape.push_back(size[i].integer);
    }
    const auto elements = checked_product(target.shape);
    if (!elements) {
      throw_file_error(name_, "tensor {}: its shape overflows", quote(target.name));
    }
    std::uint64_t expected = 1;
    for (std::size_t i = size.size(); i-- > 0;) {
      if (size[i].integer > 1 && static_cast<std::uint64_t>(stride[i].integer) != expected) {
        throw_error(ErrorCode::unsupported,
                    "{}: tensor {} is not contiguous: stride {} in dimension {}, expected {}",
                    name_, quote(target.name), stride[i].integer, i, expected);
      }
      expected *= static_cast<std::uint64_t>(size[i].integer);
    }
    return *elements;
  }

  Bytes tensor_data(std::string_view tensor, const PickledTensor& source, std::uint64_t elements,
                    std::uint64_t element_bytes) const {
    const PickledStorage& storage = source.storage;
    const std::string_view key = storage.key;
    std::optional<Bytes> entry;
    if (key.size() <= kMaxNameBytes) entry = zip_.find(prefix_ + "data/" + std::string(key));
    if (!entry) {
      throw_file_error(name_, "tensor {}: the archive has no storage {}", quote(tensor),
                       quote(key));
    }
    const auto storage_elements = static_cast<std::uint64_t>(storage.elements);
    if (storage.elements < 0 || storage_elements > entry->size() / element_bytes) {
      throw_file_error(name_, "tensor {}: storage {} has {} bytes, expected {} elements of {}",
                       quote(tensor), quote(key), entry->size(), storage.elements, element_bytes);
    }
    const auto offset = static_cast<std::uint64_t>(source.offset);
    if (source.offset < 0 || offset > storage_elements || elements > storage_elements - offset) {
      throw_file_error(name_, "tensor {}: {} elements at {} do not fit in a storage of {}",
                       quote(tensor), elements, source.offset, storage_elements);
    }
    return entry->subspan(offset * element_bytes, elements * element_bytes);
  }

  std::string name_;
  MemoryBudget budget_;
  ZipArchive zip_;
  std::string prefix_;
};

}  // namespace

PytorchTensors parse_pytorch(Bytes file, std::string_view name) {
  check_magic(file, name);
  return ArchiveReader(file, name).read();
}

PytorchFile::PytorchFile(const std::filesystem::path& path)
    : file_(path), contents_(parse_pytorch(file_.bytes(), file_.path())) {}

}  // namespace tenfold
