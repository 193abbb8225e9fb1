#include "cache/pages.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace martlet {

Cache::Cache(int num_heads, int head_dim, KvDtype dtype, int64_t max_pages)
    : num_heads_(num_heads), head_dim_(head_dim), dtype_(dtype), max_pages_(max_pages) {}

Cache::~Cache() {
  trim();
  for (auto& [page, holders] : holders_) std::free(page);
}

void Cache::trim() {
  for (uint8_t* page : free_) std::free(page);
  free_.clear();
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
  for (uint8_t* page : at(sequence).pages) drop(page);
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
    std::memcpy(own, s.pages.back(), page_bytes());
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
  uint8_t* page;
  free_.reserve(free_.size() + holders_.size() + 1);  // giving a page up must not fail
  if (free_.empty()) {
    page = static_cast<uint8_t*>(std::aligned_alloc(64, (page_bytes() + 63) / 64 * 64));
    if (!page) throw std::bad_alloc();
  } else {
    page = free_.back();
    free_.pop_back();
  }
  try {
    holders_.emplace(page, 1);
  } catch (...) {
    std::free(page);
    throw;
  }
  std::memset(page, 0, page_bytes());  // positions not yet written are multiplied by zero, so they must be finite
  return page;
}

void Cache::drop(uint8_t* page) {
  if (--holders_[page] == 0) {
    holders_.erase(page);
    free_.push_back(page);
  }
}

}  // namespace martlet
