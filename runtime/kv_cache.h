#pragma once
// Keys and values of all layers in pages of kPageTokens tokens. A sequence is a page table; pages
// come from one pool and return to it. Memory is reserved at once; the host's costs only what is
// touched.
// Sequences that fork() from one another share whole pages, which nobody writes: a sequence's last
// page, where it is not full, is always its own.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"

namespace tenfold {

struct KvShape {
  std::int64_t layers = 0, kv_heads = 0, head_dim = 0;
  KvType type = KvType::f16;

  std::size_t bytes_per_token() const noexcept {
    return static_cast<std::size_t>(2 * layers * kv_heads) * kv_share_bytes(type, head_dim) /
           static_cast<std::size_t>(kPageTokens);
  }
};

class KvCache {
 public:
  // Room for `capacity` tokens over all sequences, rounded up to whole pages; at most
  // `max_sequences` sequences, named 0 ... max_sequences - 1.
  // The backend, whose memory it is in, outlives it.
  KvCache(const KvShape& shape, std::int64_t capacity, std::int32_t max_sequences,
          Backend& backend);

  std::int64_t length(std::int32_t sequence) const noexcept;
  std::int64_t capacity() const noexcept { return n_pages_ * kPageTokens; }
  // Makes the sequence `length` tokens long: takes pages to grow, returns them to shrink. Throws
  // bad_request, naming both numbers, where the pool is exhausted; nothing has changed then.
  void resize(std::int32_t sequence, std::int64_t length);
  // Pages that no sequence has.
  std::int64_t free_pages() const noexcept { return static_cast<std::int64_t>(free_.size()); }
  // Pages that at least one of the sequences has.
  std::int64_t distinct_pages(std::span<const std::int32_t> sequences) const;
  // Makes `to` the first `length` tokens of `from`, another sequence that has them, without copying
  // but for the last page. Throws as resize() does; `to` is empty then.
  void fork(std::int32_t from, std::int32_t to, std::int64_t length);
  // Makes `to` the first `length` tokens of sequence `from` of another cache of the same shape.
  // Throws as resize() does; `to` is empty then.
  void copy(const KvCache& other, std::int32_t from, std::int32_t to, std::int64_t length);

  KvLayer layer(std::int64_t index) const noexcept;
  const std::int32_t* page_table(std::int32_t sequence) const noexcept;
  const KvShape& shape() const noexcept { return shape_; }

 private:
  struct Sequence {
    std::vector<std::int32_t> pages;
    std::int64_t length = 0;
  };
  std::int32_t take_page();
  void drop_page(std::int32_t page);
  void copy_page(const KvCache& other, std::int32_t from, std::int32_t to);

  Backend* backend_;
  KvShape shape_;
  std::int64_t n_pages_ = 0;
  std::size_t page_bytes_ = 0;  // of one layer's K (or V)
  Buffer memory_;               // [layers][K, V][pages, kv_heads] shares: see kv_page.h
  std::vector<std::int32_t> free_;
  std::vector<std::int32_t> owners_;  // sequences that have the page
  std::vector<Sequence> sequences_;
};

}  // namespace tenfold
