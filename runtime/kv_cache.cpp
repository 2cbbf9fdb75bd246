#include "runtime/kv_cache.h"

#include <algorithm>

#include "kernels/checked.h"
#include "kernels/error.h"

namespace tenfold {

KvCache::KvCache(const KvShape& shape, std::int64_t capacity, std::int32_t max_sequences,
                 Backend& backend)
    : backend_(&backend),
      shape_(shape),
      n_pages_((capacity + kPageTokens - 1) / kPageTokens),
      page_bytes_(static_cast<std::size_t>(shape.kv_heads) *
                  kv_share_bytes(shape.type, shape.head_dim)),
      sequences_(static_cast<std::size_t>(max_sequences)) {
  const auto bytes =
      checked_mul(static_cast<std::uint64_t>(n_pages_ * 2 * shape.layers), page_bytes_);
  if (capacity <= 0 || n_pages_ > (std::int64_t{1} << 24) || !bytes) {
    throw_error(ErrorCode::bad_request, "a KV cache of {} tokens is out of range", capacity);
  }
  memory_ = backend.allocate(*bytes);
  owners_.resize(static_cast<std::size_t>(n_pages_));
  free_.reserve(static_cast<std::size_t>(n_pages_));
  for (std::int64_t page = n_pages_; page-- > 0;) free_.push_back(static_cast<std::int32_t>(page));
  for (Sequence& sequence : sequences_) sequence.pages.reserve(static_cast<std::size_t>(n_pages_));
}

std::int64_t KvCache::length(std::int32_t sequence) const noexcept {
  return sequences_[static_cast<std::size_t>(sequence)].length;
}

std::int32_t KvCache::take_page() {
  const std::int32_t page = free_.back();
  free_.pop_back();
  owners_[static_cast<std::size_t>(page)] = 1;
  return page;
}

void KvCache::drop_page(std::int32_t page) {
  if (--owners_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
}

void KvCache::copy_page(const KvCache& other, std::int32_t from, std::int32_t to) {
  const auto at = [&](const KvCache& cache, std::int64_t half, std::int32_t page) {
    return cache.memory_.data() +
           static_cast<std::size_t>(half * cache.n_pages_ + page) * page_bytes_;
  };
  for (std::int64_t half = 0; half < 2 * shape_.layers; ++half) {
    backend_->copy(at(*this, half, to), at(other, half, from), page_bytes_);
  }
}

void KvCache::resize(std::int32_t sequence, std::int64_t length) {
  Sequence& s = sequences_[static_cast<std::size_t>(sequence)];
  const auto pages = static_cast<std::size_t>((length + kPageTokens - 1) / kPageTokens);
  // Cut inside a page that others read: what follows needs a page of its own.
  const bool splits = length % kPageTokens != 0 && pages <= s.pages.size() &&
                      owners_[static_cast<std::size_t>(s.pages[pages - 1])] > 1;
  std::size_t within_reach = free_.size();
  for (std::size_t i = pages; i < s.pages.size(); ++i) {
    if (owners_[static_cast<std::size_t>(s.pages[i])] == 1) ++within_reach;
  }
  if (std::max(pages, s.pages.size()) - s.pages.size() + (splits ? 1 : 0) > within_reach) {
    throw_error(ErrorCode::bad_request, "{} tokens do not fit in the KV cache of {} tokens", length,
                capacity());
  }
  while (s.pages.size() < pages) s.pages.push_back(take_page());
  while (s.pages.size() > pages) {
    drop_page(s.pages.back());
    s.pages.pop_back();
  }
  if (splits) {
    const std::int32_t own = take_page();
    copy_page(*this, s.pages.back(), own);
    drop_page(s.pages.back());
    s.pages.back() = own;
  }
  s.length = length;
}

std::int64_t KvCache::distinct_pages(std::span<const std::int32_t> sequences) const {
  std::vector<bool> held(static_cast<std::size_t>(n_pages_));
  for (const std::int32_t sequence : sequences) {
    for (const std::int32_t page : sequences_[static_cast<std::size_t>(sequence)].pages) {
      held[static_cast<std::size_t>(page)] = true;
    }
  }
  return std::count(held.begin(), held.end(), true);
}

void KvCache::fork(std::int32_t from, std::int32_t to, std::int64_t length) {
  resize(to, 0);
  const auto whole = static_cast<std::size_t>(length / kPageTokens);
  const bool copies = length % kPageTokens != 0;
  if (copies && free_.empty()) resize(to, capacity() + 1);  // says that the pool is exhausted
  const Sequence& source = sequences_[static_cast<std::size_t>(from)];
  Sequence& target = sequences_[static_cast<std::size_t>(to)];
  target.pages.assign(source.pages.begin(),
                      source.pages.begin() + static_cast<std::ptrdiff_t>(whole));
  for (const std::int32_t page : target.pages) ++owners_[static_cast<std::size_t>(page)];
  if (copies) {
    target.pages.push_back(take_page());
    copy_page(*this, source.pages[whole], target.pages.back());
  }
  target.length = length;
}

void KvCache::copy(const KvCache& other, std::int32_t from, std::int32_t to, std::int64_t length) {
  resize(to, 0);
  resize(to, length);
  const std::int32_t* source = other.page_table(from);
  const std::vector<std::int32_t>& target = sequences_[static_cast<std::size_t>(to)].pages;
  for (std::size_t i = 0; i < target.size(); ++i) copy_page(other, source[i], target[i]);
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
