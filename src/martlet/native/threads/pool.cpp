#include "threads/pool.hpp"

#include <sched.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <chrono>
#include <climits>
#include <cmath>
#include <fstream>
#include <string>

namespace martlet {

namespace {

constexpr int kSpins = 4000;  // about 50 us of pauses, then the kernel is asked to wake us
constexpr int kProbe = 16;    // every so many waits the full patience is tried again

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The standard library's wait yields the processor before it sleeps: to a busy program, for a whole slice of time.
void sleep_while(std::atomic<uint32_t>& value, uint32_t old) {
#ifdef __linux__
  static_assert(sizeof value == 4 && std::atomic<uint32_t>::is_always_lock_free);
  while (value.load() == old)
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
  value.wait(old);
#endif
}

void wake_all(std::atomic<uint32_t>& value) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  value.notify_all();
#endif
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

// Sequentially consistent on both sides: either the sleeper sees the new value, or it is seen to sleep.
void Signal::advance() {
  value_.fetch_add(1);
  if (sleepers_.load() > 0) wake_all(value_);
}

// Spins as long as spinning pays: on a processor that somebody else wants too it only takes time from who is waited for.
// Only a wait with the whole patience tells which it is: a short one that fails says nothing of a slightly longer.
double Signal::await(uint32_t old) {
  static thread_local int patience = kSpins;
  static thread_local uint32_t waits = 0;
  const int spins = ++waits % kProbe == 0 ? kSpins : patience;
  const double began = now();
  for (int i = 0; i < spins; ++i) {
    if (read() != old) {
      patience = std::max(patience, std::min(kSpins, 4 * i + 100));
      return 0;
    }
    relax();
  }
  if (read() != old) return 0;
  if (spins == kSpins) patience /= 4;
  sleepers_.fetch_add(1);
  sleep_while(value_, old);
  sleepers_.fetch_sub(1);
  return now() - began;
}

Team::Team(int num_threads) : num_threads_(num_threads), attendance_(num_threads) { start(); }

Team::~Team() {
  if (process_ != getpid()) {
    abandon();
    return;
  }
  stop();
}

// After a fork the threads are not here: neither to be joined nor detached.
void Team::abandon() {
  new std::vector<std::thread>(std::move(threads_));
  threads_.clear();
}

void Team::start() {
  rounds_.reset(new Signal[size_t(num_threads_)]);
  passed_ = std::make_unique<Signal>();
  arrived_ = 0;
  try {
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this, i] { work(i); });
  } catch (...) {  // the system has no more threads
    stop();
    stops_ = false;
    throw;
  }
  process_ = getpid();
}

void Team::stop() {
  stops_ = true;
  for (int i = 1; i < num_threads_; ++i) rounds_[size_t(i)].advance();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void Team::work(int thread) {
  for (uint32_t seen = 0;; ++seen) {
    rounds_[size_t(thread)].await(seen);
    if (stops_) return;
    (*job_)(thread);
    meet(thread);
  }
}

void Team::run_on(int count, const std::function<void(int)>& job) {
  if (process_ != getpid()) {
    abandon();
    start();
  }
  job_ = &job, count_ = count;
  for (int i = 1; i < count; ++i) rounds_[size_t(i)].advance();
  job(0);
  meet(0);
}

void Team::run(const std::function<void(int)>& job) { run_on(num_threads_, job); }

void Team::share(const std::function<void(int)>& job) {
  double began = now();
  waited_s_ = 0;
  run_on(attendance_.next(began), job);
  double ended = now();
  attendance_.ended(ended, ended - began, waited_s_);
}

void Team::sleep_past(uint32_t before, int thread) {
  double waited = passed_->await(before);
  if (thread == 0) waited_s_ += waited;
}

}  // namespace martlet
