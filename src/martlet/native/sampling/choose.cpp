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

// The highest score, or NaN if any is NaN. Sixteen lanes, so that the compiler keeps them in registers.
float find_highest(const float* x, int n) {
  float lanes[16];
  bool has_nan = false;
  std::fill(lanes, lanes + 16, kNotChosen);
  int i = 0;
  for (; i + 16 <= n; i += 16)
    for (int j = 0; j < 16; ++j) {
      lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
      has_nan |= x[i + j] != x[i + j];
    }
  for (; i < n; ++i) {
    lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    has_nan |= x[i] != x[i];
  }
  return has_nan ? std::numeric_limits<float>::quiet_NaN() : *std::max_element(lanes, lanes + 16);
}

void multiply_wide(uint64_t a, uint64_t b, uint64_t& high, uint64_t& low) {
  uint64_t a0 = uint32_t(a), a1 = a >> 32, b0 = uint32_t(b), b1 = b >> 32;
  uint64_t p00 = a0 * b0, p01 = a0 * b1, p10 = a1 * b0, p11 = a1 * b1;
  uint64_t middle = (p00 >> 32) + uint32_t(p01) + uint32_t(p10);
  low = (middle << 32) | uint32_t(p00);
  high = p11 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
}

}  // namespace

// e^x = 2^k e^r with |r| <= log(2) / 2, and the Taylor polynomial of e^r to r^13: every operation is rounded once.
double exponential(double x) {
  constexpr double kTerms[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 1.0 / 2, 1.0, 1.0 / 1};
  if (!(x >= -708.0)) return 0.0;
  double k = std::nearbyint(x * 1.4426950408889634), r = (x - k * 0.6931471803691238) - k * 1.9082149292705877e-10;
  double sum = kTerms[0];
  for (size_t i = 1; i < std::size(kTerms); ++i) sum = sum * r + kTerms[i];
  return sum * std::bit_cast<double>(uint64_t(int64_t(k) + 1023) << 52);
}

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
  float highest = find_highest(logits, vocab_size_);
  if (!std::isfinite(highest)) {
    chosen.outcome = Outcome::NOT_FINITE;
    return chosen;
  }
  std::vector<std::pair<int32_t, float>> before;  // logits that are about to be changed
  if (choice_.num_logprobs >= 0) {
    tell_logprobs(logits, highest);
    chosen.likeliest = likeliest_;
    for (int32_t id : seen_) before.emplace_back(id, logits[id]);
  }
  bool is_shaped = !seen_.empty();
  if (is_shaped) penalize(logits);
  if (length < choice_.shortest)
    for (int32_t id : choice_.ends)
      if (id >= 0 && id < vocab_size_) logits[id] = kNotChosen, is_shaped = true;
  if (is_shaped) highest = find_highest(logits, vocab_size_);
  if (std::isfinite(highest))
    chosen.id = choice_.is_greedy ? int32_t(std::find(logits, logits + vocab_size_, highest) - logits)
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
  double sum = 0.0;
  for (int i = 0; i < vocab_size_; ++i) sum += exponential(double(logits[i]) - double(highest));
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
  ids_.clear(), scores_.clear();
  float cut = kNotChosen, highest = kNotChosen;
  if (choice_.top_k > 0 && choice_.top_k < vocab_size_) cut = find_cut(scores) / choice_.temperature;
  for (int i = 0; i < vocab_size_; ++i) {
    float score = scores[i] / choice_.temperature;
    if (score < cut || score == kNotChosen) continue;
    ids_.push_back(i), scores_.push_back(score);
    highest = std::max(highest, score);
  }
  if (!std::isfinite(highest)) return -1;
  if (choice_.top_p < 1.0) keep_nucleus();
  if (choice_.min_p > 0.0) keep_likely();
  std::vector<double> cumulative(ids_.size());
  double sum = 0.0;
  for (size_t i = 0; i < ids_.size(); ++i) cumulative[i] = sum += exponential(double(scores_[i]) - double(highest));
  double at = uniform(choice_.seed, choice_.stream, uint64_t(length)) * sum;
  auto place = std::upper_bound(cumulative.begin(), cumulative.end(), at);
  // an id so unlikely that it adds nothing to the sum is no better at the far end than anywhere else
  auto last = std::lower_bound(cumulative.begin(), cumulative.end(), sum);
  return ids_[size_t(std::min(place, last) - cumulative.begin())];
}

namespace {

void find_probabilities(const std::vector<float>& scores, std::vector<float>& probs) {
  double highest = double(*std::max_element(scores.begin(), scores.end())), sum = 0.0;
  std::vector<double> weights(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) sum += weights[i] = exponential(double(scores[i]) - highest);
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
  find_probabilities(scores_, probs_);
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
  find_probabilities(scores_, probs_);
  float least = float(choice_.min_p) * *std::max_element(probs_.begin(), probs_.end());
  keep_where(ids_, scores_, [&](size_t i) { return probs_[i] >= least; });
}

}  // namespace martlet
