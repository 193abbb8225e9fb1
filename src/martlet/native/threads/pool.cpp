#include "threads/pool.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

namespace martlet {

namespace {

constexpr int kSpins = 4000;  // about 50 us of pauses, then the kernel is asked to wake us

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `value` is no longer `old`.
void wait_while(std::atomic<uint32_t>& value, uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

// Processors a group may use, by `quota` and `period` in microseconds; infinity without a limit.
double read_quota(const std::string& quota_file, const std::string& period_file) {
  std::ifstream quota(quota_file), period(period_file);
  double allowed = -1, each = 0;
  if (quota_file == period_file) {
    if (quota >> allowed >> each && allowed > 0 && each > 0) return allowed / each;  // "max 100000" is no number
  } else if (quota >> allowed && period >> each && allowed > 0 && each > 0) {
    return allowed / each;
  }
  return INFINITY;
}

// Of this process's cgroup and all those around it, version 2 and 1. In a container the path may be the host's: what
// is not there has no limit.
double cgroup_quota(const std::string& root) {
  double least = INFINITY;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",", path = line.substr(second + 1);
    bool is_v2 = controllers == ",,";
    if (!is_v2 && controllers.find(",cpu,") == std::string::npos) continue;
    std::string mount = root + "/sys/fs/cgroup" + (is_v2 ? "" : "/cpu");
    for (bool is_top = false; !is_top;) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      is_top = path.empty();
      std::string folder = mount + path;
      least = std::min(least, is_v2 ? read_quota(folder + "/cpu.max", folder + "/cpu.max")
                                    : read_quota(folder + "/cpu.cfs_quota_us", folder + "/cpu.cfs_period_us"));
      path.erase(is_top ? 0 : path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
  return least;
}

}  // namespace

int available_processors(const std::string& root) {
  int count = int(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) count = CPU_COUNT(&mask);
#endif
  double quota = cgroup_quota(root);
  if (quota < count) count = int(std::ceil(quota));
  return std::max(count, 1);
}

// Threads that outnumber the processors must not keep each other from them.
Team::Team(int num_threads)
    : num_threads_(num_threads), spins_(num_threads > available_processors() ? 0 : kSpins) {
  start();
}

Team::~Team() {
  if (process_ != getpid()) {
    abandon();
    return;
  }
  stops_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& thread : threads_) thread.join();
}

// After a fork the threads are not here: neither to be joined nor detached.
void Team::abandon() {
  new std::vector<std::thread>(std::move(threads_));
  threads_.clear();
}

void Team::start() {
  try {
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (...) {  // the system has no more threads
    stops_ = true;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (auto& thread : threads_) thread.join();
    threads_.clear();
    stops_ = false, round_ = 0;
    throw;
  }
  process_ = getpid();
}

void Team::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    wait_while(round_, seen, spins_);
    ++seen;
    if (stops_) return;
    (*job_)(thread);
    meet();
  }
}

void Team::run(const std::function<void(int)>& job) {
  if (process_ != getpid()) {
    abandon();
    round_ = 0, arrived_ = 0, passed_ = 0;
    start();
  }
  job_ = &job;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  job(0);
  meet();
}

void Team::meet() {
  if (num_threads_ == 1) return;
  uint32_t now = passed_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(num_threads_)) {
    arrived_.store(0, std::memory_order_relaxed);
    passed_.fetch_add(1, std::memory_order_release);
    passed_.notify_all();
  } else {
    wait_while(passed_, now, spins_);
  }
}

}  // namespace martlet
