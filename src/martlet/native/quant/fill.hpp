// Packed matrices filled from files or memory by threads of their own, beside whatever the caller does meanwhile.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "quant/pack.hpp"

namespace martlet {

// One matrix to be filled. Rows lie at `offset` of the file, or in memory that outlives the filling, in `stored`, which
// is the matrix's kind or one that is encoded into it. `order[i]` is where row i lies; empty: they lie in order.
struct FillJob {
  std::shared_ptr<Packed> packed;
  Kind stored;
  std::shared_ptr<const int> file;
  int64_t offset = 0;
  const uint8_t* memory = nullptr;
  std::vector<int64_t> order;
};

struct FillFailure {
  enum Reason { NONE, NOT_FINITE, SHORTER, UNREADABLE, NO_MEMORY } reason = NONE;
  int job = -1, row = -1;  // row: of NOT_FINITE
  int error = 0;           // errno of UNREADABLE
};

class Filling {
 public:
  // Begins with `num_threads` threads, which may be none.
  Filling(std::vector<FillJob> jobs, int num_threads);
  ~Filling();  // stops what is not filled yet
  Filling(const Filling&) = delete;
  Filling& operator=(const Filling&) = delete;

  // A part of the work by the caller; false once there is none left to take.
  bool help();
  // Waits for the threads; the failure of the first job that has one. What was filled is whole if it is NONE.
  FillFailure finish();

 private:
  struct Part {
    int job, first_group, groups;
  };
  struct Space;
  bool take(Space& space);
  FillFailure fill(const Part& part, Space& space) const;
  void stop();

  std::vector<FillJob> jobs_;
  std::vector<Part> parts_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  FillFailure failure_;
  std::unique_ptr<Space> own_;  // the caller's
  std::vector<std::thread> threads_;
  int process_;
};

}  // namespace martlet
