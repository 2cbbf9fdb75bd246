#pragma once
// model.safetensors.index.json and pytorch_model.bin.index.json: which shard holds which tensor.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

struct ShardIndex {
  struct Entry {
    std::string tensor;
    std::uint32_t shard;  // into `shards`
  };
  std::vector<std::string> shards;  // plain file names, unique, in order of appearance
  std::vector<Entry> entries;       // sorted by tensor, unique

  const Entry* find(std::string_view tensor) const noexcept;  // nullptr: not listed
};

// The "weight_map" of the file; the rest is ignored. A shard that is no plain file name (a path,
// "..") and a tensor listed twice are bad_file.
ShardIndex read_shard_index(const std::filesystem::path& path);

}  // namespace tenfold
