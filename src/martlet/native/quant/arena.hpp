// Memory of a model's packed matrices, in large pages where the system gives them: a step reads all of it, and with
// small pages it waits for their addresses.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace martlet {

// `bytes` of memory, not touched yet, aligned to a page; large pages are asked for from two megabytes on. Throws
// std::bad_alloc.
std::shared_ptr<uint8_t> map_memory(size_t bytes);

// Gives out pieces of regions that grow with what is asked for. A region lives as long as one of its pieces.
class Arena {
 public:
  std::shared_ptr<uint8_t> take(size_t bytes);

 private:
  std::shared_ptr<uint8_t> region_;
  size_t used_ = 0, size_ = 0;
};

}  // namespace martlet
