// Choosing a row's next token from its logits, as generation/sampling.py and generation/warpers.py do it in Python:
// repetition penalty, temperature, top-k, top-p, min-p, then a draw at a counter's uniform number. No state of its own
// but the ids a penalty has to know, so a row that is computed again draws the same.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace martlet {

struct Choice {
  bool is_greedy = true;
  uint64_t seed[2] = {0, 0};  // low and high word
  uint64_t stream = 0;
  float temperature = 1.0f;
  int top_k = 0;        // 0: all
  double top_p = 1.0;   // 1: all
  double min_p = 0.0;   // 0: all
  double repetition_penalty = 1.0;
  std::vector<int32_t> ends;  // ids that end a row
  int64_t shortest = 0;       // rows shorter than this do not end
  int64_t longest = 0;        // a row of this length has ended; 0: no limit
  int num_logprobs = -1;      // how many of the likeliest ids are told with their log probabilities; -1: none is computed
};

enum class Outcome : uint8_t { GOES_ON, END, LENGTH, NOT_FINITE, NOTHING_LEFT };

struct Chosen {
  int32_t id = -1;
  Outcome outcome = Outcome::GOES_ON;
  bool has_logprob = false;
  float logprob = 0.0f;                              // of the model's own distribution, before penalty and temperature
  std::vector<std::pair<int32_t, float>> likeliest;  // ids and log probabilities, highest first; of equals the lowest id
};

class Chooser {
 public:
  Chooser(Choice choice, int vocab_size);

  int vocab_size() const { return vocab_size_; }
  // The row's ids so far; a repetition penalty is for them. Call again after a row was cut.
  void learn(const int64_t* ids, size_t count);

  // The token after `length` ids, from logits that are written on. The chosen id is learnt.
  Chosen choose(float* logits, int64_t length);

 private:
  void penalize(float* scores) const;
  int32_t draw(const float* scores, int64_t length);
  float find_cut(const float* scores);
  void keep_nucleus();
  void keep_likely();
  void note(int32_t id);
  void tell_logprobs(const float* logits, float highest);

  Choice choice_;
  int vocab_size_;
  std::vector<uint8_t> is_seen_;
  std::vector<int32_t> seen_;
  // the ids still in play, in id order, with their scores
  std::vector<int32_t> ids_, order_;
  std::vector<float> scores_, sorted_, probs_;
  std::vector<double> weights_;
  double log_sum_ = 0.0;
  std::vector<std::pair<int32_t, float>> likeliest_;
};


// A number strictly between 0 and 1 for this seed, stream and position: the first word of Philox-4x64 (Salmon et al.
// 2011) at counter (1, 0, position, stream), as numpy numbers them.
double uniform(const uint64_t seed[2], uint64_t stream, uint64_t position);

}  // namespace martlet
