// Keys and values of sequences, in pages of 16 positions that sequences with the same past share.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/table.hpp"

namespace martlet {

class Cache {
 public:
  // A page holds `num_heads` pairs of key and value blocks (all layers' heads), head_dim wide. 0 pages: no limit.
  Cache(int num_heads, int head_dim, int64_t max_pages);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  int add();
  int fork(int sequence);  // the same past; whole pages are shared, a page that is not full is copied when written
  void truncate(int sequence, int64_t length);
  void release(int sequence);
  int64_t length(int sequence) const { return at(sequence).length; }
  bool has(int sequence) const { return sequences_.count(sequence) != 0; }

  // Pages that `count` more positions of a sequence would take.
  int64_t pages_needed(int sequence, int64_t count) const;
  int64_t pages_free() const;  // of the limit
  int64_t pages_held() const { return int64_t(holders_.size()); }
  void trim();  // gives unused pages back to the system
  size_t page_bytes() const { return size_t(num_heads_) * 2 * head_dim_ * kPage * sizeof(uint16_t); }

  // Makes room for `count` more positions and counts them as held. Throws std::bad_alloc; then nothing has changed.
  void extend(int sequence, int64_t count);

  const std::vector<uint16_t*>& pages(int sequence) const { return at(sequence).pages; }
  size_t key_offset(int layer_head) const { return size_t(layer_head) * 2 * head_dim_ * kPage; }
  size_t value_offset(int layer_head) const { return key_offset(layer_head) + size_t(head_dim_) * kPage; }

 private:
  struct Sequence {
    std::vector<uint16_t*> pages;
    int64_t length = 0;
    bool is_cut = false;  // its last page holds forgotten positions
  };
  const Sequence& at(int sequence) const;
  Sequence& at(int sequence);
  int keep(Sequence sequence);
  void clear(uint16_t* page, int slot) const;
  uint16_t* acquire();
  void drop(uint16_t* page);

  int num_heads_, head_dim_, next_ = 0;
  int64_t max_pages_;
  std::unordered_map<int, Sequence> sequences_;
  std::unordered_map<uint16_t*, int> holders_;
  std::vector<uint16_t*> free_;
};

}  // namespace martlet
