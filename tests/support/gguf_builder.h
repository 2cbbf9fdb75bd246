#pragma once
// Writes GGUF files field by field into memory, valid or not: nothing is checked.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold::testing {

class GgufBuilder {
 public:
  // Value types as the file numbers them.
  enum Type : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, str, array, u64, i64, f64 };

  GgufBuilder& header(std::uint64_t n_tensors, std::uint64_t n_keys, std::uint32_t version = 3);
  GgufBuilder& key(std::string_view name, std::uint32_t type);  // its value comes next
  GgufBuilder& array_of(std::uint32_t type, std::uint64_t n);   // after key(name, array)
  GgufBuilder& tensor(std::string_view name, const std::vector<std::uint64_t>& innermost_first,
                      std::uint32_t ggml_type, std::uint64_t offset);
  GgufBuilder& text(std::string_view text);  // with its length
  GgufBuilder& raw(std::string_view bytes);
  GgufBuilder& zeros(std::size_t n);
  GgufBuilder& pad(std::size_t alignment = 32);

  template <typename T>
  GgufBuilder& put(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    return raw({bytes, sizeof value});
  }

  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// A valid file of about 1 KB: one key of each kind, three tensors (F32 [3, 4], Q8_0 [2, 64],
// F16 [5]), and no byte after the last tensor.
std::string small_gguf(std::uint32_t version = 3);
// Where its data section begins.
std::size_t small_gguf_data_begin();

}  // namespace tenfold::testing
