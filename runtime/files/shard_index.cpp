#include "runtime/files/shard_index.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "kernels/error.h"
#include "runtime/files/json_events.h"
#include "runtime/files/json_file.h"
#include "runtime/files/mapped_file.h"
#include "runtime/files/quote.h"

namespace tenfold {
namespace {

constexpr std::size_t kMaxEntries = 1u << 20;
constexpr std::size_t kMaxShards = 1u << 14;

class IndexReader : public JsonEvents {
 public:
  explicit IndexReader(std::string_view name) : JsonEvents(name) {}
  ShardIndex take_index() {
    if (!seen_map_) throw_file_error(name(), "has no \"weight_map\" object");
    return std::move(index_);
  }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("true or false"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool start_array(std::size_t) override {
    other("an array");
    return enter();
  }
  bool end_array() override { return leave(); }

  bool start_object(std::size_t) override {
    if (in_map_) refuse("an object");
    if (depth_ == 1 && map_is_next_) {
      if (seen_map_) throw_file_error(name(), "has \"weight_map\" twice");
      in_map_ = seen_map_ = true;
    }
    map_is_next_ = false;
    return enter();
  }
  bool end_object() override {
    if (depth_ == 2) in_map_ = false;
    return leave();
  }
  bool key(string_t& text) override {
    if (in_map_) {
      tensor_ = std::move(text);
    } else {
      map_is_next_ = depth_ == 1 && text == "weight_map";
    }
    return true;
  }
  bool string(string_t& text) override {
    if (!in_map_) return other("a string");
    if (index_.entries.size() == kMaxEntries) {
      throw_file_error(name(), "lists more than {} tensors", kMaxEntries);
    }
    const std::uint32_t shard = shard_number(text);
    index_.entries.push_back({std::move(tensor_), shard});
    return true;
  }

 private:
  std::string place() const override {
    return in_map_ || map_is_next_ ? "weight_map" : "shard index";
  }

  bool other(std::string_view what) const {
    if (depth_ == 0 || in_map_ || map_is_next_) refuse(what);
    return true;
  }

  bool enter() {
    if (++depth_ > kMaxJsonDepth) {
      throw_file_error(name(), "JSON nested deeper than {}", kMaxJsonDepth);
    }
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }

  std::uint32_t shard_number(const std::string& shard) {
    using namespace std::string_view_literals;
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of("/\\\0"sv) != std::string::npos) {
      throw_file_error(
          name(), "weight_map: tensor {} in {}, expected the name of a file in the same folder",
          quote(tensor_), quote(shard));
    }
    const auto [place, is_new] =
        numbers_.try_emplace(shard, static_cast<std::uint32_t>(index_.shards.size()));
    if (is_new) {
      if (index_.shards.size() == kMaxShards) {
        throw_file_error(name(), "lists more than {} shards", kMaxShards);
      }
      index_.shards.push_back(shard);
    }
    return place->second;
  }

  ShardIndex index_;
  std::unordered_map<std::string, std::uint32_t> numbers_;
  std::string tensor_;
  int depth_ = 0;
  bool in_map_ = false, seen_map_ = false, map_is_next_ = false;
};

}  // namespace

const ShardIndex::Entry* ShardIndex::find(std::string_view tensor) const noexcept {
  const auto found = std::lower_bound(
      entries.begin(), entries.end(), tensor,
      [](const Entry& entry, std::string_view wanted) { return entry.tensor < wanted; });
  return found == entries.end() || found->tensor != tensor ? nullptr : &*found;
}

ShardIndex read_shard_index(const std::filesystem::path& path) {
  const MappedFile file(path);
  IndexReader reader(file.path());
  const auto bytes = file.bytes();
  if (bytes.size() > kMaxJsonBytes) {
    throw_file_error(file.path(), "{} bytes, expected at most {}", bytes.size(), kMaxJsonBytes);
  }
  read_json_events({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, reader,
                   file.path());
  ShardIndex index = reader.take_index();
  auto& entries = index.entries;
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.tensor < b.tensor; });
  const auto twice =
      std::adjacent_find(entries.begin(), entries.end(),
                         [](const auto& a, const auto& b) { return a.tensor == b.tensor; });
  if (twice != entries.end()) {
    throw_file_error(file.path(), "weight_map lists tensor {} twice", quote(twice->tensor));
  }
  return index;
}

}  // namespace tenfold
