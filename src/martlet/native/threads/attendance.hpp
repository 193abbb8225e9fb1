// How many threads of a team a job is given, when other programs want the processors too.
#pragma once
#include <algorithm>

namespace martlet {

// A thread that another program keeps from its processor holds all up at every barrier: two threads beside one busy
// program are slower than one. A job that mostly waited for its team counts as late; after some late ones a thread stays
// away, and is tried again after a while that doubles as long as trials fail.
class Attendance {
 public:
  explicit Attendance(int num_threads) : all_(num_threads), now_(num_threads) {}

  // Threads for a job that begins at `time`, in seconds.
  int next(double time) {
    if (now_ < all_ && time >= until_) ++now_, lateness_ = kTrial, on_trial_ = true;
    return now_;
  }

  // A job ended at `time`, having taken `seconds`, of which its caller waited `waited` at barriers.
  void ended(double time, double seconds, double waited) {
    if (now_ == 1 || seconds <= 0) return;
    lateness_ += (std::min(waited / seconds, 1.0) - lateness_) / 4;
    if (lateness_ > kLate) {
      away_ = on_trial_ ? std::min(2 * away_, kLongest) : kShortest;
      --now_, until_ = time + away_, lateness_ = 0, on_trial_ = false;
    } else if (lateness_ < kTrial / 2) {
      on_trial_ = false;
    }
  }

 private:
  static constexpr double kLate = 0.35, kTrial = 0.2;            // shares of a job's time
  static constexpr double kShortest = 0.05, kLongest = 1.6;      // seconds
  int all_, now_;
  double lateness_ = 0, away_ = kShortest, until_ = 0;
  bool on_trial_ = false;
};

}  // namespace martlet
