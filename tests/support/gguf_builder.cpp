#include "tests/support/gguf_builder.h"

namespace tenfold::testing {

GgufBuilder& GgufBuilder::header(std::uint64_t n_tensors, std::uint64_t n_keys,
                                 std::uint32_t version) {
  return raw("GGUF").put(version).put(n_tensors).put(n_keys);
}

GgufBuilder& GgufBuilder::key(std::string_view name, std::uint32_t type) {
  return text(name).put(type);
}

GgufBuilder& GgufBuilder::array_of(std::uint32_t type, std::uint64_t n) { return put(type).put(n); }

GgufBuilder& GgufBuilder::tensor(std::string_view name,
                                 const std::vector<std::uint64_t>& innermost_first,
                                 std::uint32_t ggml_type, std::uint64_t offset) {
  text(name).put(static_cast<std::uint32_t>(innermost_first.size()));
  for (const std::uint64_t extent : innermost_first) put(extent);
  return put(ggml_type).put(offset);
}

GgufBuilder& GgufBuilder::text(std::string_view text) {
  return put(std::uint64_t{text.size()}).raw(text);
}

GgufBuilder& GgufBuilder::raw(std::string_view bytes) {
  bytes_ += bytes;
  return *this;
}

GgufBuilder& GgufBuilder::zeros(std::size_t n) {
  bytes_.append(n, '\0');
  return *this;
}

GgufBuilder& GgufBuilder::pad(std::size_t alignment) {
  return zeros((alignment - bytes_.size() % alignment) % alignment);
}

namespace {

GgufBuilder small_gguf_header(std::uint32_t version) {
  using B = GgufBuilder;
  B b;
  b.header(3, 19, version);
  b.key("general.architecture", B::str).text("llama");
  b.key("general.alignment", B::u32).put(std::uint32_t{32});
  b.key("scalar.u8", B::u8).put(std::uint8_t{200});
  b.key("scalar.i8", B::i8).put(std::int8_t{-3});
  b.key("scalar.u16", B::u16).put(std::uint16_t{60000});
  b.key("scalar.i16", B::i16).put(std::int16_t{-300});
  b.key("scalar.i32", B::i32).put(std::int32_t{-70000});
  b.key("scalar.f32", B::f32).put(0.5f);
  b.key("scalar.bool", B::boolean).put(std::uint8_t{1});
  b.key("scalar.u64", B::u64).put(std::uint64_t{1} << 63);
  b.key("scalar.i64", B::i64).put(std::int64_t{-1} << 40);
  b.key("scalar.f64", B::f64).put(0.1);
  b.key("array.str", B::array).array_of(B::str, 3).text("one").text("").text("three");
  b.key("array.i32", B::array).array_of(B::i32, 2).put(std::int32_t{-1}).put(std::int32_t{2});
  b.key("array.u8", B::array).array_of(B::u8, 3).raw("abc");
  b.key("array.f32", B::array).array_of(B::f32, 1).put(1.5f);
  b.key("array.bool", B::array).array_of(B::boolean, 2).put(std::uint8_t{0}).put(std::uint8_t{1});
  b.key("array.u64", B::array).array_of(B::u64, 1).put(~std::uint64_t{0});
  b.key("array.empty", B::array).array_of(B::f64, 0);
  b.tensor("a.weight", {4, 3}, 0, 0).tensor("b.weight", {64, 2}, 8, 64).tensor("c", {5}, 1, 224);
  return b.pad();
}

}  // namespace

std::string small_gguf(std::uint32_t version) {
  GgufBuilder b = small_gguf_header(version);
  for (int i = 0; i < 12; ++i) b.put(static_cast<float>(i));
  b.zeros(16);
  for (int i = 0; i < 136; ++i) b.put(static_cast<std::uint8_t>(i));
  b.zeros(24);
  for (int i = 0; i < 5; ++i) b.put(static_cast<std::uint16_t>(0x3c00 + i));
  return b.bytes();
}

std::size_t small_gguf_data_begin() { return small_gguf_header(3).bytes().size(); }

}  // namespace tenfold::testing
