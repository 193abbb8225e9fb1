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
void wait_while(std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

double cgroup_quota() {  // processors, or infinity
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) return std::stod(quota) / period;
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double micros = -1;
  if (v1_quota >> micros && v1_period >> period && micros > 0 && period > 0) return micros / period;
  return INFINITY;
}

}  // namespace

int available_processors() {
  int count = int(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) count = CPU_COUNT(&mask);
#endif
  double quota = cgroup_quota();
  if (quota < count) count = int(std::ceil(quota));
  return std::max(count, 1);
}

Team::Team(int num_threads) : num_threads_(num_threads) { start(); }

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
  process_ = getpid();
  for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
}

void Team::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    wait_while(round_, seen);
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
    wait_while(passed_, now);
  }
}

}  // namespace martlet
