// One ragged step: each row gets its next tokens, all rows together; logits come back for the places asked for.
#pragma once
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "cache/pages.hpp"
#include "graph/model.hpp"
#include "sampling/choose.hpp"
#include "threads/pool.hpp"

namespace martlet {

struct RowStep {
  int sequence;
  std::span<const int32_t> tokens;
  const float* const* frequencies;  // of each rope: rotated / 2 angles a position
  bool wants_all;                   // logits of every token, or of the last alone
  Chooser* chooser = nullptr;       // chooses the next token, for Engine::choose
};

// Numbers aligned to cache lines; grows, never shrinks.
template <class T> class Buffer {
 public:
  T* reserve(size_t count) {
    if (count > size_) {
      memory_.reset(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
      if (!memory_) throw std::bad_alloc();
      size_ = count;
    }
    return memory_.get();
  }
  T* get() const { return memory_.get(); }
  size_t bytes() const { return size_ * sizeof(T); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> memory_;
  size_t size_ = 0;
};

class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, const Kernels& kernels, int num_threads, KvDtype kv_dtype,
         int64_t max_pages);
  ~Engine();

  Cache& cache() { return cache_; }
  size_t page_bytes() const { return cache_.page_bytes(); }
  const Model& model() const { return *model_; }
  const Kernels& kernels() const { return kernels_; }
  int num_threads() const { return team_.size(); }
  size_t workspace_bytes() const;

  // Logits, vocab_size a place, rows end to end. Throws std::bad_alloc if the pages do not suffice, before anything is
  // computed, and std::overflow_error if a key or value is beyond what the pages hold: then no row has changed.
  void step(std::span<const RowStep> rows, float* logits);

  // A step whose logits each row's chooser reads, on the team's threads; what they chose.
  std::vector<Chosen> choose(std::span<const RowStep> rows);

  int64_t pages_needed(std::span<const RowStep> rows) const;

 private:
  struct Pass;
  struct Space;
  void take(std::span<const RowStep> rows, float* logits, Chosen* chosen);
  void run(Pass& pass, float* logits, Chosen* chosen);
  void plan_attention(Pass& pass) const;
  int num_phases() const { return 16 * int(model_->layers.size()) + 32; }  // no fewer than a pass has
  NormKind norm_of_heads() const;

  std::shared_ptr<const Model> model_;
  const Kernels& kernels_;
  Team team_;
  Cache cache_;
  std::unique_ptr<Space> space_;
};

constexpr int kMaxTokens = 512;  // of one pass; more are taken in turns, with the same result

}  // namespace martlet
