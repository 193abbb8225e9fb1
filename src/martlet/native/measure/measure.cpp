#include "measure/measure.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <unistd.h>

#include "measure/peaks.hpp"
#include "quant/arena.hpp"

namespace martlet {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Rate summary(std::vector<double> rates) {
  std::sort(rates.begin(), rates.end());
  return {rates.back(), rates[rates.size() / 2]};
}

// Runs job(thread) on all threads at once and returns the seconds from the common start to the last one's end.
double timed(int num_threads, const std::function<void(int)>& job) {
  std::atomic<int> ready{0};
  std::atomic<bool> goes{false};
  std::vector<std::thread> threads;
  for (int t = 1; t < num_threads; ++t)
    threads.emplace_back([&, t] {
      ready.fetch_add(1);
      while (!goes.load(std::memory_order_acquire)) std::this_thread::yield();
      job(t);
    });
  while (ready.load() < num_threads - 1) std::this_thread::yield();
  double start = now();
  goes.store(true, std::memory_order_release);
  job(0);
  for (auto& thread : threads) thread.join();
  return now() - start;
}

// XOR of n words, eight of them in flight; vectors of what the compiler's baseline has are enough for memory.
uint64_t read_words(const uint64_t* p, size_t n) {
  uint64_t x[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8) {
    __builtin_prefetch(p + i + 64);  // the distance that gave most
    for (int j = 0; j < 8; ++j) x[j] ^= p[i + j];
  }
  uint64_t all = 0;
  for (uint64_t each : x) all ^= each;
  return all;
}

}  // namespace

Rate measure_read(size_t num_bytes, int num_threads, int repeats) {
  if (num_threads < 1 || repeats < 1) throw std::invalid_argument("num_threads and repeats must be at least 1");
  constexpr size_t kLine = 4096;
  size_t part = std::max<size_t>(num_bytes / size_t(num_threads) / kLine, 1) * kLine;
  const std::shared_ptr<uint8_t> memory = map_memory(part * size_t(num_threads));  // as weights lie
  std::vector<uint64_t> sinks(size_t(num_threads) * 8);
  auto start_of = [&](int t) { return reinterpret_cast<uint64_t*>(memory.get()) + size_t(t) * part / 8; };
  timed(num_threads, [&](int t) { std::memset(start_of(t), t + 1, part); });
  // short passes are repeated inside one timing, so that starting threads does not count
  int passes = int(std::max<size_t>(1, (size_t(256) << 20) / (part * size_t(num_threads))));
  std::vector<double> rates;
  for (int r = 0; r < repeats; ++r) {
    double seconds = timed(num_threads, [&](int t) {
      for (int pass = 0; pass < passes; ++pass) sinks[size_t(t) * 8] ^= read_words(start_of(t), part / 8);
    });
    rates.push_back(double(part) * num_threads * passes / seconds);
  }
  volatile uint64_t sink = 0;
  for (uint64_t each : sinks) sink = sink ^ each;
  return summary(rates);
}

std::vector<Peak> measure_peaks(const std::string& isa, int num_threads, int repeats, double seconds) {
  if (num_threads < 1 || repeats < 1 || !(seconds > 0)) throw std::invalid_argument("counts must be above 0");
  std::vector<Peak> peaks;
  for (const PeakLoop& loop : peak_loops(isa)) {
    std::vector<double> rates;
    // how many rounds take about `seconds`
    int64_t rounds = 1 << 12;
    double took = timed(1, [&](int) { loop.run(rounds); });
    rounds = std::max<int64_t>(1, int64_t(double(rounds) * seconds / std::max(took, 1e-7)));
    for (int r = 0; r < repeats; ++r) {
      double each = timed(num_threads, [&](int) { loop.run(rounds); });
      rates.push_back(double(rounds) * loop.operations * num_threads / each);
    }
    peaks.push_back({loop.operand, loop.how, summary(rates)});
  }
  return peaks;
}

size_t largest_cache_bytes() {
  long largest = 0;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  largest = std::max(largest, sysconf(_SC_LEVEL3_CACHE_SIZE));
  largest = std::max(largest, sysconf(_SC_LEVEL4_CACHE_SIZE));
  largest = std::max(largest, sysconf(_SC_LEVEL2_CACHE_SIZE));
#endif
  return largest > 0 ? size_t(largest) : 0;
}

}  // namespace martlet
