#pragma once
// Shared by the tests of file readers: every truncation and many one-byte changes of a good file.

#include <gtest/gtest.h>

#include <cstddef>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/checked.h"
#include "kernels/error.h"
#include "runtime/files/tensor_source.h"

namespace tenfold::testing {

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// What a reader promises for each tensor: its data lies in the file and fits shape and type.
inline void expect_consistent(std::span<const TensorSource> tensors,
                              std::span<const std::byte> file) {
  for (const TensorSource& tensor : tensors) {
    ASSERT_GE(tensor.data.data(), file.data());
    ASSERT_LE(tensor.data.data() + tensor.data.size(), file.data() + file.size());
    const auto elements = checked_product(tensor.shape);
    ASSERT_TRUE(elements.has_value());
    const auto traits = dtype_traits(tensor.dtype);
    ASSERT_EQ(tensor.data.size(), *elements / traits.block * traits.bytes);
  }
}

// parse(span) returns tensors or throws. Copies are of exact size, so that ASan sees over-reads.
template <typename Parse>
bool survives(std::vector<std::byte> file, Parse parse) {
  file.shrink_to_fit();
  try {
    expect_consistent(parse(std::span<const std::byte>(file)), file);
    return true;
  } catch (const Error& error) {
    EXPECT_TRUE(error.code() == ErrorCode::bad_file || error.code() == ErrorCode::unsupported)
        << error.what();
    return false;
  }
}

template <typename Parse>
void expect_error_at_every_truncation(std::string_view good, Parse parse) {
  const auto bytes = as_bytes(good);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_FALSE(
        survives({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}, parse))
        << "accepted " << size << " of " << bytes.size() << " bytes";
  }
}

template <typename Parse>
void expect_error_or_consistency_for_flips(std::string_view good, Parse parse) {
  const auto bytes = as_bytes(good);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const unsigned mask : {0x01u, 0x02u, 0x10u, 0x80u, 0xffu}) {
      std::vector<std::byte> changed(bytes.begin(), bytes.end());
      changed[i] ^= std::byte(mask);
      survives(std::move(changed), parse);
    }
  }
}

}  // namespace tenfold::testing
