// A team of threads that runs one job at a time: they spin briefly between jobs and at barriers, then sleep.
#pragma once
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

  // Inside a job: waits for every thread of the team. All memory written before is seen after.
  void meet();

 private:
  void start();
  void abandon();
  void work(int thread);

  int num_threads_, spins_;
  int process_ = 0;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> round_{0};     // counts jobs
  alignas(64) std::atomic<uint32_t> arrived_{0};   // of the barrier
  alignas(64) std::atomic<uint32_t> passed_{0};    // counts barriers
  alignas(64) std::atomic<bool> stops_{false};
};

}  // namespace martlet
