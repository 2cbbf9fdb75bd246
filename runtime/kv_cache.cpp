#include "runtime/kv_cache.h"

#include <cstring>

#include "kernels/checked.h"
#include "kernels/error.h"

namespace tenfold {

KvCache::KvCache(const KvShape& shape, std::int64_t capacity, std::int32_t max_sequences)
    : shape_(shape),
      n_pages_((capacity + kPageTokens - 1) / kPageTokens),
      page_bytes_(static_cast<std::size_t>(shape.kv_heads) *
                  kv_share_bytes(shape.type, shape.head_dim)),
      sequences_(static_cast<std::size_t>(max_sequences)) {
  const auto bytes =
      checked_mul(static_cast<std::uint64_t>(n_pages_ * 2 * shape.layers), page_bytes_);
  if (capacity <= 0 || n_pages_ > (std::int64_t{1} << 24) || !bytes) {
    throw_error(ErrorCode::bad_request, "a KV cache of {} tokens is out of range", capacity);
  }
  memory_ = Buffer(*bytes);
  free_.reserve(static_cast<std::size_t>(n_pages_));
  for (std::int64_t page = n_pages_; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
  for (Sequence& sequence : sequences_) sequence.pages.reserve(static_cast<std::size_t>(n_pages_));
}

std::int64_t KvCache::length(std::int32_t sequence) const noexcept {
  return sequences_[static_cast<std::size_t>(sequence)].length;
}

void KvCache::resize(std::int32_t sequence, std::int64_t length) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  const auto pages = static_cast<std::size_t>((length + kPageTokens - 1) / kPageTokens);
  if (pages > s.pages.size() + free_.size()) {
    throw_error(ErrorCode::bad_request, "{} tokens do not fit in the KV cache of {} tokens", length,
                capacity());
  }
  while (s.pages.size() < pages) {
    s.pages.push_back(free_.back());
    free_.pop_back();
  }
  while (s.pages.size() > pages) {
    free_.push_back(s.pages.back());
    s.pages.pop_back();
  }
  s.length = length;
}

void KvCache::copy(const KvCache& other, std::int32_t from, std::int32_t to, std::int64_t length) {
  resize(to, length);
  const std::int32_t* source = other.page_table(from);
  const std::vector<std::int32_t>& target = sequences_[static_cast<std::size_t>(to)].pages;
  for (std::int64_t half = 0; half < 2 * shape_.layers; ++half) {
    const auto page_at = [&](const KvCache& cache, std::int32_t page) {
      return cache.memory_.data() +
             static_cast<std::size_t>(half * cache.n_pages_ + page) * page_bytes_;
    };
    for (std::size_t i = 0; i < target.size(); ++i) {
      std::memcpy(page_at(*this, target[i]), page_at(other, source[i]), page_bytes_);
    }
  }
}

KvLayer KvCache::layer(std::int64_t index) const noexcept {
  const std::size_t half = page_bytes_ * static_cast<std::size_t>(n_pages_);
  std::byte* k = memory_.data() + static_cast<std::size_t>(2 * index) * half;
  return {k, k + half, page_bytes_, shape_.kv_heads, shape_.head_dim, shape_.type};
}

const std::int32_t* KvCache::page_table(std::int32_t sequence) const noexcept {
  return sequences_[static_cast<std::size_t>(sequence)].pages.data();
}

}  // namespace tenfold
