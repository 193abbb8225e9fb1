#include "cache/pages.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "quant/arena.hpp"

namespace martlet {

Cache::Cache(int num_heads, int head_dim, KvDtype dtype, int64_t max_pages)
    : num_heads_(num_heads), head_dim_(head_dim), dtype_(dtype), max_pages_(max_pages) {
  constexpr size_t kMostBeside = 8, kMostBytes = 4 << 20;
  auto fits = [&](size_t count) { return count * page_bytes() <= kMostBytes && size_t(max_pages) % count == 0; };
  while (beside_ < kMostBeside && fits(2 * beside_)) beside_ *= 2;
}

Cache::~Cache() = default;

Cache::Slab& Cache::slab_of(const uint8_t* page) {
  auto after = std::upper_bound(slabs_.begin(), slabs_.end(), page,
                                [](const uint8_t* at, const Slab& slab) { return at < slab.memory.get(); });
  return *std::prev(after);
}

void Cache::trim() {
  for (Slab& slab : slabs_) slab.num_free = 0;
  for (uint8_t* page : free_) ++slab_of(page).num_free;
  auto is_unused = [](const Slab& slab) { return slab.num_free == slab.num_pages; };
  std::erase_if(free_, [&](uint8_t* page) { return is_unused(slab_of(page)); });
  std::erase_if(slabs_, is_unused);
}

// As large as all slabs before, from a quarter of a megabyte to 32, and not beyond the limit.
void Cache::add_slab() {
  const size_t there = free_.size() + holders_.size(), bundle = beside_ * page_bytes();
  size_t bundles = std::clamp(there * page_bytes(), size_t(256) << 10, size_t(32) << 20) / bundle;
  if (max_pages_) bundles = std::min(bundles, (size_t(max_pages_) - there) / beside_);
  bundles = std::max<size_t>(bundles, 1);
  const size_t count = bundles * beside_;
  free_.reserve(there + count);  // giving a page up must not fail
  Slab slab{map_memory(bundles * bundle), count, 0};
  auto after = std::upper_bound(slabs_.begin(), slabs_.end(), slab, [](const Slab& l, const Slab& r) {
    return l.memory.get() < r.memory.get();
  });
  uint8_t* first = slab.memory.get();
  slabs_.insert(after, std::move(slab));
  for (size_t i = count; i-- > 0;) free_.push_back(first + i / beside_ * bundle + i % beside_ * block_bytes());
}

const Cache::Sequence& Cache::at(int sequence) const {
  auto found = sequences_.find(sequence);
  if (found == sequences_.end()) throw std::out_of_range("no row " + std::to_string(sequence));
  return found->second;
}
Cache::Sequence& Cache::at(int sequence) { return const_cast<Sequence&>(std::as_const(*this).at(sequence)); }

int Cache::add() { return keep({}); }

int Cache::fork(int sequence) {
  int row = keep(at(sequence));
  for (uint8_t* page : at(row).pages) ++holders_.at(page);
  return row;
}

int Cache::keep(Sequence sequence) {
  while (has(next_)) next_ = next_ == INT32_MAX ? 0 : next_ + 1;
  sequences_.emplace(next_, std::move(sequence));
  return next_;
}

void Cache::truncate(int sequence, int64_t length) {
  Sequence& s = at(sequence);
  if (length >= s.length) return;
  s.length = length < 0 ? 0 : length;
  s.is_cut = s.length % kPage != 0;
  size_t kept = size_t((s.length + kPage - 1) / kPage);
  while (s.pages.size() > kept) drop(s.pages.back()), s.pages.pop_back();
}

void Cache::release(int sequence) {
  std::vector<uint8_t*>& pages = at(sequence).pages;
  while (!pages.empty()) drop(pages.back()), pages.pop_back();  // so that the next takes the first first
  sequences_.erase(sequence);
}

int64_t Cache::pages_needed(int sequence, int64_t count) const {
  const Sequence& s = at(sequence);
  if (count == 0) return 0;
  int64_t needed = (s.length + count + kPage - 1) / kPage - int64_t(s.pages.size());
  bool copies = s.length % kPage && holders_.at(s.pages.back()) > 1;
  return needed + (copies ? 1 : 0);
}

int64_t Cache::pages_free() const { return max_pages_ ? max_pages_ - pages_held() : INT64_MAX; }

void Cache::extend(int sequence, int64_t count) {
  Sequence& s = at(sequence);
  if (pages_needed(sequence, count) > pages_free()) throw std::bad_alloc();
  if (count && s.length % kPage && holders_.at(s.pages.back()) > 1) {
    uint8_t* own = acquire();
    each_block([&](size_t at) { std::memcpy(own + at, s.pages.back() + at, block_bytes()); });
    drop(s.pages.back());
    s.pages.back() = own;
  }
  if (count && s.is_cut) clear(s.pages.back(), int(s.length % kPage));
  s.is_cut &= count == 0;
  size_t before = s.pages.size();
  try {
    while (int64_t(s.pages.size()) * kPage < s.length + count) s.pages.push_back(acquire());
  } catch (...) {
    while (s.pages.size() > before) drop(s.pages.back()), s.pages.pop_back();
    throw;
  }
  s.length += count;
}

template <class F> void Cache::each_block(F&& f) const {
  for (int h = 0; h < num_heads_; ++h) f(key_offset(h)), f(value_offset(h));
}

// What was forgotten of a page may be NaN, and is multiplied by zero.
void Cache::clear(uint8_t* page, int slot) const {
  const size_t bytes = info(dtype_).bytes, left = size_t(kPage - slot);
  for (int h = 0; h < num_heads_; ++h) {
    uint8_t *keys = page + key_offset(h), *values = page + value_offset(h);
    for (size_t d = 0; d < size_t(head_dim_); ++d) std::memset(keys + (d * kPage + size_t(slot)) * bytes, 0, left * bytes);
    std::memset(values + size_t(slot) * size_t(head_dim_) * bytes, 0, left * size_t(head_dim_) * bytes);
  }
}

uint8_t* Cache::acquire() {
  if (free_.empty()) add_slab();
  uint8_t* page = free_.back();
  holders_.emplace(page, 1);
  free_.pop_back();
  // positions not yet written are multiplied by zero, so they must be finite
  each_block([&](size_t at) { std::memset(page + at, 0, block_bytes()); });
  return page;
}

void Cache::drop(uint8_t* page) {
  if (--holders_[page] == 0) {
    holders_.erase(page);
    free_.push_back(page);
  }
}

}  // namespace martlet
