#pragma once
// Many short strings in two allocations: a std::string for each would take four times the file's
// size where a hostile file lists millions of empty ones. Elements are views into the array.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenfold {

class StringArray {
 public:
  using value_type = std::string_view;
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = std::string_view;

    Iterator() = default;
    Iterator(const StringArray* array, std::size_t index) : array_(array), index_(index) {}
    std::string_view operator*() const noexcept { return (*array_)[index_]; }
    Iterator& operator++() noexcept {
      ++index_;
      return *this;
    }
    Iterator operator++(int) noexcept { return {array_, index_++}; }
    bool operator==(const Iterator&) const = default;

   private:
    const StringArray* array_ = nullptr;
    std::size_t index_ = 0;
  };

  StringArray() = default;
  explicit StringArray(std::span<const std::string> strings) {
    std::size_t n_bytes = 0;
    for (const std::string& text : strings) n_bytes += text.size();
    reserve(strings.size(), n_bytes);
    for (const std::string& text : strings) push_back(text);
  }

  void reserve(std::size_t n_strings, std::size_t n_bytes) {
    ends_.reserve(n_strings);
    bytes_.reserve(n_bytes);
  }
  void push_back(std::string_view text) {
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    ends_.push_back(bytes_.size());
  }

  std::size_t size() const noexcept { return ends_.size(); }
  bool empty() const noexcept { return ends_.empty(); }
  std::string_view operator[](std::size_t i) const noexcept {
    const std::uint64_t begin = i == 0 ? 0 : ends_[i - 1];
    return {bytes_.data() + begin, ends_[i] - begin};
  }
  Iterator begin() const noexcept { return {this, 0}; }
  Iterator end() const noexcept { return {this, size()}; }
  bool operator==(const StringArray&) const = default;

 private:
  std::vector<char> bytes_;
  std::vector<std::uint64_t> ends_;
};

}  // namespace tenfold
