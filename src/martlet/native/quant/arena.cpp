#include "quant/arena.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace martlet {

namespace {

constexpr size_t kSmallPage = 4096, kLargePage = 2 << 20;
constexpr size_t kFirstRegion = 256 << 10, kLargestRegion = 64 << 20;
constexpr size_t kLine = 64;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

}  // namespace

std::shared_ptr<uint8_t> map_memory(size_t bytes) {
  const size_t page = bytes >= kLargePage ? kLargePage : kSmallPage, whole = round_up(bytes, page);
  std::shared_ptr<uint8_t> memory(static_cast<uint8_t*>(std::aligned_alloc(page, whole)),
                                  [](uint8_t* p) { std::free(p); });
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (page == kLargePage) madvise(memory.get(), whole, MADV_HUGEPAGE);  // a wish: the memory is as good without
#endif
  return memory;
}

std::shared_ptr<uint8_t> Arena::take(size_t bytes) {
  bytes = round_up(bytes, kLine);
  if (!region_ || bytes > size_ - used_) {
    const size_t next = size_ ? std::min(4 * size_, kLargestRegion) : kFirstRegion;
    const size_t size = round_up(std::max(next, bytes), kSmallPage);
    region_ = map_memory(size);
    size_ = size, used_ = 0;
  }
  std::shared_ptr<uint8_t> piece(region_, region_.get() + used_);
  used_ += bytes;
  return piece;
}

}  // namespace martlet
