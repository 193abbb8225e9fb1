#include "sampling/choose.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <numeric>

namespace martlet {

namespace {

constexpr float kNotChosen = -std::numeric_limits<float>::infinity();

struct Highest {
  float score;    // NaN if any is NaN
  int run_begin;  // no place before it has the score
};

// Loops that each do one thing to lanes of numbers: the compiler makes vectors of them.
Highest find_highest(const float* x, int n) {
  constexpr int kLanes = 16, kRun = 1024;
  Highest found{kNotChosen, 0};
  int num_nan = 0;
  for (int begin = 0; begin < n; begin += kRun) {
    const int end = std::min(begin + kRun, n);
    for (int i = begin; i < end; ++i) num_nan += x[i] != x[i];
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kNotChosen);
    int i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (; i < end; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    const float highest = *std::max_element(lanes, lanes + kLanes);
    if (highest > found.score) found = {highest, begin};
  }
  if (num_nan) found.score = std::numeric_limits<float>::quiet_NaN();
  return found;
}

void multiply_wide(uint64_t a, uint64_t b, uint64_t& high, uint64_t& low) {
  uint64_t a0 = uint32_t(a), a1 = a >> 32, b0 = uint32_t(b), b1 = b >> 32;
  uint64_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0, p11 = a1 * b1;
  uint64_t middle = (p00 >> 32) + uint32_t(p01) + uint32_t(p10);
  low = (middle << 32) | uint32_t(p00);
  high = p11 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
}

}  // namespace

double uniform(const uint64_t seed[2], uint64_t stream, uint64_t position) {
  uint64_t c[4] = {1, 0, position, stream}, k[2] = {seed[0], seed[1]};
  for (int round = 0; round < 10; ++round) {
    uint64_t high0, low0, high1, low1;
    multiply_wide(0xD2E7470EE14C6C93u, c[0], high0, low0);
    multiply_wide(0xCA5A826395121157u, c[2], high1, low1);
    uint64_t next[4] = {high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B97F4A7C15u, k[1] += 0xBB67AE8584CAA73Bu;
  }
  return (double(c[0] >> 11) + 0.5) * 0x1p-53;
}

namespace {

// e^x of each x = score - highest. e^x = 2^k e^r with |r| <= log(2) / 2, and the Taylor polynomial of e^r to r^13: every
// operation is rounded once. Adding 1.5 * 2^52 rounds to the nearest integer, ties to even, and leaves it in the low
// bits. A run of numbers goes through each operation together, which makes vectors of them.
void exponentiate(const float* scores, size_t n, float highest, std::vector<double>& weights) {
  constexpr double kTerms[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0 / 1};
  constexpr double kRounder = 0x1.8p52, kLeast = -708.0;
  constexpr int kRun = 16;
  weights.resize(n);
  for (size_t begin = 0; begin < n; begin += kRun) {
    const int count = int(std::min<size_t>(kRun, n - begin));
    double x[kRun] = {}, r[kRun], sum[kRun];
    uint64_t power[kRun];
    for (int i = 0; i < count; ++i) x[i] = double(scores[begin + size_t(i)]) - double(highest);
    for (int i = 0; i < kRun; ++i) {
      const double within = x[i] > kLeast ? x[i] : kLeast, shifted = within * 1.4426950408889634 + kRounder, k = shifted - kRounder;
      r[i] = (within - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
      power[i] = (std::bit_cast<uint64_t>(shifted) - std::bit_cast<uint64_t>(kRounder) + 1023) << 52;
      sum[i] = kTerms[0];
    }
    for (size_t term = 1; term < std::size(kTerms); ++term)
      for (int i = 0; i < kRun; ++i) sum[i] = sum[i] * r[i] + kTerms[term];
    for (int i = 0; i < kRun; ++i) sum[i] *= std::bit_cast<double>(power[i]);
    for (int i = 0; i < count; ++i) weights[begin + size_t(i)] = x[i] >= kLeast ? sum[i] : 0.0;
  }
}

}  // namespace

Chooser::Chooser(Choice choice, int vocab_size) : choice_(std::move(choice)), vocab_size_(vocab_size) {
  if (choice_.repetition_penalty != 1.0) is_seen_.assign(size_t(vocab_size), 0);
}

void Chooser::learn(const int64_t* ids, size_t count) {
  if (is_seen_.empty()) return;
  for (int32_t id : seen_) is_seen_[size_t(id)] = 0;
  seen_.clear();
  for (size_t i = 0; i < count; ++i)
    if (ids[i] >= 0 && ids[i] < vocab_size_) note(int32_t(ids[i]));
}

void Chooser::note(int32_t id) {
  if (is_seen_.empty() || is_seen_[size_t(id)]) return;
  is_seen_[size_t(id)] = 1;
  seen_.push_back(id);
}

void Chooser::penalize(float* scores) const {
  float penalty = float(choice_.repetition_penalty);
  for (int32_t id : seen_) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
}

Chosen Chooser::choose(float* logits, int64_t length) {
  Chosen chosen;
  Highest highest = find_highest(logits, vocab_size_);
  if (!std::isfinite(highest.score)) {
    chosen.outcome = Outcome::NOT_FINITE;
    return chosen;
  }
  std::vector<std::pair<int32_t, float>> before;  // logits that are about to be changed
  if (choice_.num_logprobs >= 0) {
    tell_logprobs(logits, highest.score);
    chosen.likeliest = likeliest_;
    for (int32_t id : seen_) before.emplace_back(id, logits[id]);
  }
  bool is_shaped = !seen_.empty();
  if (is_shaped) penalize(logits);
  if (length < choice_.shortest)
    for (int32_t id : choice_.ends)
      if (id >= 0 && id < vocab_size_) logits[id] = kNotChosen, is_shaped = true;
  if (is_shaped) highest = find_highest(logits, vocab_size_);
  if (std::isfinite(highest.score))
    chosen.id = choice_.is_greedy
                    ? int32_t(std::find(logits + highest.run_begin, logits + vocab_size_, highest.score) - logits)
                    : draw(logits, length);
  if (chosen.id < 0) {
    chosen.outcome = Outcome::NOTHING_LEFT;
    return chosen;
  }
  if (choice_.num_logprobs >= 0) {
    float logit = logits[chosen.id];
    for (const auto& [id, own] : before)
      if (id == chosen.id) logit = own;
    chosen.logprob = float(double(logit) - log_sum_);
    chosen.has_logprob = true;
  }
  note(chosen.id);
  if (std::find(choice_.ends.begin(), choice_.ends.end(), chosen.id) != choice_.ends.end())
    chosen.outcome = Outcome::END;
  else if (choice_.longest && length + 1 >= choice_.longest)
    chosen.outcome = Outcome::LENGTH;
  return chosen;
}

// log(sum(exp(logits))), and the likeliest ids.
void Chooser::tell_logprobs(const float* logits, float highest) {
  exponentiate(logits, size_t(vocab_size_), highest, weights_);
  const double sum = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  log_sum_ = std::log(sum) + double(highest);
  size_t count = std::min(size_t(choice_.num_logprobs), size_t(vocab_size_));
  order_.resize(size_t(vocab_size_));
  std::iota(order_.begin(), order_.end(), 0);
  auto is_before = [&](int32_t l, int32_t r) { return logits[l] != logits[r] ? logits[l] > logits[r] : l < r; };
  std::partial_sort(order_.begin(), order_.begin() + std::ptrdiff_t(count), order_.end(), is_before);
  likeliest_.clear();
  for (size_t i = 0; i < count; ++i)
    likeliest_.emplace_back(order_[i], float(double(logits[order_[i]]) - log_sum_));
}

// The score of the k-th highest, before the temperature.
float Chooser::find_cut(const float* scores) {
  size_t k = size_t(choice_.top_k), n = size_t(vocab_size_);
  if (k > 1024) {
    sorted_.assign(scores, scores + n);
    std::nth_element(sorted_.begin(), sorted_.begin() + std::ptrdiff_t(k - 1), sorted_.end(), std::greater<>());
    return sorted_[k - 1];
  }
  sorted_.assign(scores, scores + k);  // a heap whose top is the lowest
  std::make_heap(sorted_.begin(), sorted_.end(), std::greater<>());
  for (size_t i = k; i < n; ++i)
    if (scores[i] > sorted_.front()) {
      std::pop_heap(sorted_.begin(), sorted_.end(), std::greater<>());
      sorted_.back() = scores[i];
      std::push_heap(sorted_.begin(), sorted_.end(), std::greater<>());
    }
  return sorted_.front();
}

// The id at the row's uniform number, or -1 where the temperature left no finite score. Scores are divided where they
// are read: the caller's stay those of the model.
int32_t Chooser::draw(const float* scores, int64_t length) {
  ids_.resize(size_t(vocab_size_)), scores_.resize(size_t(vocab_size_));
  size_t kept = 0;
  float cut = kNotChosen, highest = kNotChosen;
  if (choice_.top_k > 0 && choice_.top_k < vocab_size_) cut = find_cut(scores) / choice_.temperature;
  for (int i = 0; i < vocab_size_; ++i) {
    float score = scores[i] / choice_.temperature;
    ids_[kept] = i, scores_[kept] = score;
    kept += !(score < cut || score == kNotChosen);
  }
  ids_.resize(kept), scores_.resize(kept);
  if (kept) highest = find_highest(scores_.data(), int(kept)).score;
  if (!std::isfinite(highest)) return -1;
  if (choice_.top_p < 1.0) keep_nucleus();
  if (choice_.min_p > 0.0) keep_likely();
  exponentiate(scores_.data(), scores_.size(), highest, weights_);
  std::partial_sum(weights_.begin(), weights_.end(), weights_.begin());
  const std::vector<double>& cumulative = weights_;
  const double sum = cumulative.back();
  double at = uniform(choice_.seed, choice_.stream, uint64_t(length)) * sum;
  auto place = std::upper_bound(cumulative.begin(), cumulative.end(), at);
  // an id so unlikely that it adds nothing to the sum is no better at the far end than anywhere else
  auto last = std::lower_bound(cumulative.begin(), cumulative.end(), sum);
  return ids_[size_t(std::min(place, last) - cumulative.begin())];
}

namespace {

void find_probabilities(const std::vector<float>& scores, std::vector<double>& weights, std::vector<float>& probs) {
  exponentiate(scores.data(), scores.size(), *std::max_element(scores.begin(), scores.end()), weights);
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  probs.resize(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) probs[i] = float(weights[i] / sum);
}

template <class F> void keep_where(std::vector<int32_t>& ids, std::vector<float>& scores, F&& is_kept) {
  size_t kept = 0;
  for (size_t i = 0; i < ids.size(); ++i)
    if (is_kept(i)) ids[kept] = ids[i], scores[kept] = scores[i], ++kept;
  ids.resize(kept), scores.resize(kept);
}

}  // namespace

// The smallest set of likeliest ids whose probabilities reach top_p.
void Chooser::keep_nucleus() {
  find_probabilities(scores_, weights_, probs_);
  float budget = float(1.0 - choice_.top_p);  // what the ids left out may add up to
  // ids below budget / count cannot exceed the budget together: they go unsorted
  float small = float(double(budget / float(probs_.size())) * 0.99);
  double sum = 0.0;
  order_.clear();
  for (size_t i = 0; i < probs_.size(); ++i)
    if (probs_[i] < small)
      sum += double(probs_[i]);
    else
      order_.push_back(int32_t(i));
  std::stable_sort(order_.begin(), order_.end(),
                   [&](int32_t l, int32_t r) { return scores_[size_t(l)] < scores_[size_t(r)]; });
  std::vector<uint8_t> is_out(probs_.size(), 0);
  for (size_t i = 0; i + 1 < order_.size(); ++i) {
    sum += double(probs_[size_t(order_[i])]);
    if (float(sum) > budget) break;
    is_out[size_t(order_[i])] = 1;
  }
  keep_where(ids_, scores_, [&](size_t i) { return probs_[i] >= small && !is_out[i]; });
}

// Ids at least min_p times as likely as the likeliest.
void Chooser::keep_likely() {
  find_probabilities(scores_, weights_, probs_);
  float least = float(choice_.min_p) * *std::max_element(probs_.begin(), probs_.end());
  keep_where(ids_, scores_, [&](size_t i) { return probs_[i] >= least; });
}

}  // namespace martlet
