// Keys and values of sequences, in pages of 16 positions that sequences with the same past share.
#pragma once
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels/table.hpp"

namespace martlet {

class Cache {
 public:
  // A page holds `num_heads` pairs of key and value blocks (all layers' heads), head_dim wide, of numbers of `dtype`.
  // 0 pages: no limit.
  Cache(int num_heads, int head_dim, KvDtype dtype, int64_t max_pages);
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
  void trim();  // gives slabs of unused pages back to the system
  KvDtype dtype() const { return dtype_; }
  size_t page_bytes() const { return size_t(num_heads_) * 2 * block_bytes(); }

  // Makes room for `count` more positions and counts them as held. Throws std::bad_alloc; then nothing has changed.
  void extend(int sequence, int64_t count);

  const std::vector<uint8_t*>& pages(int sequence) const { return at(sequence).pages; }
  // Of a head's keys and values in a page, in bytes: between them lie those of the pages beside it.
  size_t key_offset(int layer_head) const { return size_t(layer_head) * 2 * beside_ * block_bytes(); }
  size_t value_offset(int layer_head) const { return key_offset(layer_head) + beside_ * block_bytes(); }

 private:
  struct Sequence {
    std::vector<uint8_t*> pages;
    int64_t length = 0;
    bool is_cut = false;  // its last page holds forgotten positions
  };
  // Pages that were asked for together: large pages of the system's hold several, and a step reads all heads of all.
  // `beside_` pages at a time lie as [head][key or value][page]: a head's keys of a sequence follow one another in memory.
  struct Slab {
    std::shared_ptr<uint8_t> memory;
    size_t num_pages = 0, num_free = 0;  // num_free: counted when trimming
  };
  const Sequence& at(int sequence) const;
  Sequence& at(int sequence);
  int keep(Sequence sequence);
  size_t block_bytes() const { return size_t(head_dim_) * kPage * info(dtype_).bytes; }
  void clear(uint8_t* page, int slot) const;
  template <class F> void each_block(F&& f) const;  // f(offset in a page)
  uint8_t* acquire();
  void add_slab();
  Slab& slab_of(const uint8_t* page);
  void drop(uint8_t* page);

  int num_heads_, head_dim_, next_ = 0;
  KvDtype dtype_;
  int64_t max_pages_;
  size_t beside_ = 1;
  std::unordered_map<int, Sequence> sequences_;
  std::unordered_map<uint8_t*, int> holders_;
  std::vector<uint8_t*> free_;  // has room for all pages there are
  std::vector<Slab> slabs_;     // by address
};

}  // namespace martlet
