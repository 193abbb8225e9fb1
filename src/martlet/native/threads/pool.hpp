// A team of threads that runs one job at a time: they spin briefly between jobs and at barriers, then sleep.
#pragma once
#include "threads/attendance.hpp"
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace martlet {

// Processors this process may use at once: its affinity mask, cut by the quotas of its cgroups; at least 1. `root` is
// put before /proc and /sys.
int available_processors(const std::string& root = "");

// A number that grows, and that threads wait on.
class alignas(64) Signal {
 public:
  uint32_t read() const { return value_.load(std::memory_order_acquire); }
  void advance();                // wakes who sleeps
  double await(uint32_t old);    // until it is no longer `old`; seconds waited, 0 where spinning was enough

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int> sleepers_{0};
};

class Team {
 public:
  explicit Team(int num_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return num_threads_; }

  // Runs job(thread) on every thread, the caller being thread 0, and returns when all are done. `job` must not throw.
  // In a process that was forked from the one that made the team, the threads are made again first.
  void run(const std::function<void(int)>& job);

  // The same on as many threads as are of use: fewer while other programs keep some of them waiting.
  void share(const std::function<void(int)>& job);

  int present() const { return count_; }  // threads of the job, inside it

  // Inside a job, by `thread` of it: waits for every thread that runs it. All memory written before is seen after.
  void meet(int thread) { meet(thread, [] {}); }

  // The same, and the last to come does what is too little to share before all go on.
  template <class F> void meet(int thread, F&& alone) {
    const uint32_t count = uint32_t(count_);  // read before this thread has come: after it, the next job may set it
    if (count == 1) return alone();
    uint32_t before = passed_->read();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < count) return sleep_past(before, thread);
    arrived_.store(0, std::memory_order_relaxed);
    alone();
    passed_->advance();
  }

 private:
  void start();
  void stop();
  void abandon();
  void work(int thread);
  void sleep_past(uint32_t before, int thread);
  void run_on(int count, const std::function<void(int)>& job);

  int num_threads_;
  int process_ = 0;
  std::vector<std::thread> threads_;
  std::unique_ptr<Signal[]> rounds_;  // a thread's own: counts its jobs
  const std::function<void(int)>* job_ = nullptr;
  int count_ = 1;                     // threads of the present job
  double waited_s_ = 0;               // in this job, by the caller, where spinning was not enough
  Attendance attendance_;
  alignas(64) std::atomic<uint32_t> arrived_{0};  // of the barrier
  std::unique_ptr<Signal> passed_;  // counts barriers
  alignas(64) std::atomic<bool> stops_{false};
};

}  // namespace martlet
