// Engine and Chooser as Python sees them. Everything is checked here; then the interpreter lock is released, also while
// a caller waits for another's step, for who holds the engine may be waiting for the interpreter.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <unordered_set>

#include "bind/bound.hpp"
#include "sampling/choose.hpp"
#include "simd/cpu.hpp"

namespace {

// Callers are served in the order they came: a long generation does not starve another.
class Turns {
 public:
  void lock() {
    std::unique_lock guard(mutex_);
    uint64_t mine = next_++;
    changed_.wait(guard, [&] { return serving_ == mine; });
  }
  void unlock() {
    std::lock_guard guard(mutex_);
    ++serving_;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ = 0, serving_ = 0;
};


KvDtype find_kv_dtype(const std::string& name) {
  std::string known;
  for (int i = 0; i < kNumKvDtypes; ++i) {
    if (name == kKvDtypes[i].name) return KvDtype(i);
    known += (i ? ", " : "") + std::string(kKvDtypes[i].name);
  }
  refuse("kv_cache_dtype must be one of " + known + "; found " + name);
}

// The id, why there is none, and log probabilities where they were asked for.
nb::tuple tell(const Chosen& chosen) {
  const char* failure = chosen.outcome == Outcome::NOT_FINITE     ? "not finite"
                        : chosen.outcome == Outcome::NOTHING_LEFT ? "nothing left"
                                                                  : "";
  nb::object logprobs = nb::none();
  if (chosen.has_logprob) logprobs = nb::make_tuple(chosen.logprob, chosen.likeliest);
  return nb::make_tuple(chosen.id, failure, logprobs);
}

// A chooser, and whether somebody is choosing with it: two at once are refused.
struct BoundChooser {
  Chooser chooser;
  std::atomic<bool> is_busy{false};

  void acquire() {
    if (is_busy.exchange(true)) refuse("a chooser cannot choose for two at once");
  }
};

struct Hold {  // of choosers, while they choose
  std::vector<std::shared_ptr<BoundChooser>> held;

  explicit Hold(const std::vector<std::shared_ptr<BoundChooser>>& choosers) {
    try {
      for (const auto& chooser : choosers) chooser->acquire(), held.push_back(chooser);
    } catch (...) {
      release();
      throw;
    }
  }
  ~Hold() { release(); }
  void release() {
    for (auto& chooser : held) chooser->is_busy = false;
    held.clear();
  }
};

// What a step was asked for. The tokens are copied: whoever else holds the array may write on it meanwhile.
struct Ask {
  std::vector<int32_t> tokens;
  std::vector<std::vector<const float*>> frequencies;
  std::vector<RowStep> rows;
};

struct BoundEngine {
  std::vector<Bytes> kept;
  Engine engine;
  std::unique_ptr<Turns> turns = std::make_unique<Turns>();
  int process = getpid();

  BoundEngine(const BoundModel& m, const std::string& isa, int num_threads, KvDtype kv_cache_dtype, int64_t max_pages)
      : kept(m.kept), engine(m.model, find_kernels(isa), num_threads, kv_cache_dtype, max_pages) {}

  // Before the interpreter lock is released. Whoever had the turn when this process was forked is not here to end it.
  void arrive() {
    if (process == getpid()) return;
    turns.release();  // NOLINT: its mutex may be locked for ever
    turns = std::make_unique<Turns>();
    process = getpid();
  }

  template <class F> auto hold(F&& f) {
    arrive();
    Unlocked unlocked;
    std::lock_guard turn(*turns);
    return f(engine.cache());
  }

  Ask read(const Ints& sequences, const Ints& counts, const Ints& tokens, const std::vector<FloatRows>& frequencies,
           bool wants_all) const {
    const Arch& a = engine.model().arch;
    size_t n = sequences.shape(0), at = 0;
    if (counts.shape(0) != n) refuse("a count for each row");
    if (frequencies.size() != a.rotated.size()) refuse("a table of frequencies for each rope");
    for (size_t r = 0; r < frequencies.size(); ++r)
      if (frequencies[r].shape(0) != n || frequencies[r].shape(1) != size_t(a.rotated[r] / 2))
        refuse("frequencies must have a row for each row of the batch");
    Ask ask;
    ask.tokens.assign(tokens.data(), tokens.data() + tokens.shape(0));
    ask.frequencies.resize(n);
    std::unordered_set<int> named;
    for (size_t i = 0; i < n; ++i) {
      int sequence = sequences.data()[i], count = counts.data()[i];
      if (!named.insert(sequence).second) refuse("row " + std::to_string(sequence) + " stands twice in a step");
      if (count < 1 || size_t(count) > ask.tokens.size() - at) refuse("counts must be at least 1 and add up to the tokens");
      for (const FloatRows& table : frequencies) ask.frequencies[i].push_back(table.data() + i * table.shape(1));
      ask.rows.push_back({sequence, {ask.tokens.data() + at, size_t(count)}, ask.frequencies[i].data(), wants_all});
      at += size_t(count);
    }
    if (at != ask.tokens.size()) refuse("counts must add up to the tokens");
    for (int32_t token : ask.tokens)
      if (token < 0 || token >= a.vocab_size) refuse("token " + std::to_string(token) + " is outside the vocabulary");
    return ask;
  }

  // With the turn held: rows may have changed since they were asked for.
  void check_rows(const Ask& ask) {
    for (const RowStep& row : ask.rows) {
      if (!engine.cache().has(row.sequence)) refuse("no row " + std::to_string(row.sequence));
      int64_t end = engine.cache().length(row.sequence) + int64_t(row.tokens.size());
      if (end > most_tokens())
        refuse("a row has at most " + std::to_string(most_tokens()) + " tokens; found " + std::to_string(end));
    }
  }

  // Of the table of positions; without one, as many as float32 counts.
  int64_t most_tokens() const {
    const Arch& a = engine.model().arch;
    return a.position_table ? a.position_table - a.position_offset : (int64_t(1) << 24) - 1;
  }

  void step(Ints sequences, Ints counts, Ints tokens, const std::vector<FloatRows>& frequencies, bool wants_all,
            OutRows logits) {
    Ask ask = read(sequences, counts, tokens, frequencies, wants_all);
    if (logits.shape(0) != (wants_all ? ask.tokens.size() : ask.rows.size()) ||
        logits.shape(1) != size_t(engine.model().arch.vocab_size))
      refuse("logits must have a row for each place asked for");
    float* out = logits.data();
    hold([&](Cache&) {
      check_rows(ask);
      engine.step(ask.rows, out);
    });
  }

  // Steps until a row is done, `max_steps` were made, or pages are lacking; every row's choice after each step.
  // `on_step` is told each step's choices at once, and says whether to go on.
  nb::list advance(Ints sequences, Ints counts, Ints tokens, const std::vector<FloatRows>& frequencies,
                   const std::vector<std::shared_ptr<BoundChooser>>& choosers, int max_steps, nb::object on_step) {
    Ask ask = read(sequences, counts, tokens, frequencies, false);
    size_t n = ask.rows.size();
    if (choosers.size() != n) refuse("a chooser for each row");
    if (max_steps < 1) refuse("max_steps must be at least 1");
    for (size_t i = 0; i < n; ++i) {
      if (!choosers[i] || choosers[i]->chooser.vocab_size() != engine.model().arch.vocab_size)
        refuse("choosers must be for the model's vocabulary");
      ask.rows[i].chooser = &choosers[i]->chooser;
    }
    Hold held(choosers);
    std::vector<std::vector<Chosen>> steps;
    arrive();
    const bool is_watched = !on_step.is_none();
    const auto moment = std::chrono::milliseconds(is_watched ? 0 : 20);
    nb::list out;
    bool goes_on = n > 0;
    while (goes_on) {
      goes_on = take_steps(ask, steps, max_steps, moment);
      // signals are looked for between steps, not more often than is felt
      if (goes_on && PyErr_CheckSignals() != 0) throw nb::python_error();
      while (out.size() < steps.size()) {
        nb::list row;
        for (const Chosen& chosen : steps[out.size()]) row.append(tell(chosen));
        out.append(row);
        if (is_watched && !nb::cast<bool>(on_step(row))) goes_on = false;
      }
    }
    return out;
  }

  // A step, and more for a moment; whether more are to come.
  bool take_steps(Ask& ask, std::vector<std::vector<Chosen>>& steps, int max_steps, std::chrono::milliseconds moment) {
    Unlocked unlocked;
    auto begun = std::chrono::steady_clock::now();
    do {
      std::lock_guard turn(*turns);
      // the first step was asked for: it fails loudly. Later ones leave the rows as they are.
      if (!steps.empty() && (!has_room(ask) || engine.pages_needed(ask.rows) > engine.cache().pages_free())) return false;
      if (steps.empty()) check_rows(ask);
      steps.push_back(engine.choose(ask.rows));
      bool goes_on = int(steps.size()) < max_steps;
      ask.tokens.resize(ask.rows.size());
      for (size_t i = 0; i < ask.rows.size(); ++i) {
        const Chosen& chosen = steps.back()[i];
        goes_on &= chosen.outcome == Outcome::GOES_ON;
        ask.tokens[i] = chosen.id;
      }
      for (size_t i = 0; i < ask.rows.size(); ++i) ask.rows[i].tokens = {&ask.tokens[i], 1};
      if (!goes_on) return false;
    } while (std::chrono::steady_clock::now() - begun < moment);
    return true;
  }

  // A row that fills the table of positions, or was taken away, goes no further here.
  bool has_room(const Ask& ask) {
    for (const RowStep& row : ask.rows)
      if (!engine.cache().has(row.sequence) || engine.cache().length(row.sequence) >= most_tokens()) return false;
    return true;
  }
};

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<BoundChooser>(m, "Chooser")
      .def("__init__",
           [](BoundChooser* self, int vocab_size, bool greedy, std::pair<uint64_t, uint64_t> seed, uint64_t stream,
              double temperature, int top_k, double top_p, double min_p, double repetition_penalty,
              std::vector<int32_t> ends, int64_t shortest, int64_t longest, int num_logprobs) {
             if (vocab_size < 1) refuse("vocab_size must be at least 1");
             if (!(float(temperature) > 0)) refuse("temperature must be greater than 0");
             if (!(float(repetition_penalty) > 0)) refuse("repetition_penalty must be greater than 0");
             if (top_k < 0 || !(top_p >= 0) || !(min_p >= 0)) refuse("top_k, top_p and min_p must not be negative");
             if (min_p > 1) refuse("min_p must be at most 1");
             Choice choice;
             choice.is_greedy = greedy;
             choice.seed[0] = seed.first, choice.seed[1] = seed.second, choice.stream = stream;
             choice.temperature = float(temperature), choice.top_k = top_k, choice.top_p = top_p, choice.min_p = min_p;
             choice.repetition_penalty = repetition_penalty, choice.ends = std::move(ends);
             choice.shortest = shortest, choice.longest = longest, choice.num_logprobs = num_logprobs;
             new (self) BoundChooser{Chooser(std::move(choice), vocab_size)};
           },
           "vocab_size"_a, nb::kw_only(), "greedy"_a = true, "seed"_a = std::pair<uint64_t, uint64_t>{0, 0},
           "stream"_a = 0, "temperature"_a = 1.0, "top_k"_a = 0, "top_p"_a = 1.0, "min_p"_a = 0.0,
           "repetition_penalty"_a = 1.0, "ends"_a = std::vector<int32_t>{}, "shortest"_a = 0, "longest"_a = 0,
           "num_logprobs"_a = -1)
      .def("learn",
           [](BoundChooser& self, Longs ids) {
             self.acquire();
             self.chooser.learn(ids.data(), ids.shape(0));
             self.is_busy = false;
           })
      .def("choose", [](BoundChooser& self, OutFloats logits, int64_t length) {
        if (logits.shape(0) != size_t(self.chooser.vocab_size())) refuse("logits must be those of the vocabulary");
        if (length < 0) refuse("length must not be negative");
        self.acquire();
        Chosen chosen = self.chooser.choose(logits.data(), length);
        self.is_busy = false;
        return tell(chosen);
      });
  m.def("uniform", [](std::pair<uint64_t, uint64_t> seed, uint64_t stream, uint64_t position) {
    uint64_t words[2] = {seed.first, seed.second};
    return uniform(words, stream, position);
  });

  nb::class_<BoundEngine>(m, "Engine")
      .def("__init__", [](BoundEngine* self, const BoundModel& model, const std::string& isa, int num_threads,
                          int64_t max_pages, const std::string& kv_cache_dtype) {
        if (num_threads < 1 || num_threads > 1024) refuse("num_threads must be 1 to 1024");
        if (max_pages < 0) refuse("max_pages must be 0 (no limit) or more");
        model.model->check();
        new (self) BoundEngine(model, isa, num_threads, find_kv_dtype(kv_cache_dtype), max_pages);
      }, "model"_a, "isa"_a = "", "num_threads"_a = 1, "max_pages"_a = 0, "kv_cache_dtype"_a = "float16")
      .def_prop_ro("isa", [](const BoundEngine& self) { return self.engine.kernels().name; })
      .def_prop_ro("num_threads", [](const BoundEngine& self) { return self.engine.num_threads(); })
      .def_prop_ro("kv_cache_dtype", [](BoundEngine& self) { return info(self.engine.cache().dtype()).name; })
      .def_prop_ro("page_bytes", [](const BoundEngine& self) { return self.engine.page_bytes(); })
      .def_prop_ro("pages_held", [](BoundEngine& self) { return self.hold([](Cache& c) { return c.pages_held(); }); })
      .def_prop_ro("pages_free", [](BoundEngine& self) { return self.hold([](Cache& c) { return c.pages_free(); }); })
      .def_prop_ro("workspace_bytes", [](const BoundEngine& self) { return self.engine.workspace_bytes(); })
      .def("trim", [](BoundEngine& self) { self.hold([](Cache& c) { c.trim(); }); })
      .def("add", [](BoundEngine& self) { return self.hold([](Cache& c) { return c.add(); }); })
      .def("fork", [](BoundEngine& self, int row) { return self.hold([&](Cache& c) { return c.fork(row); }); })
      .def("truncate", [](BoundEngine& self, int row, int64_t length) {
        self.hold([&](Cache& c) { c.truncate(row, length); });
      })
      .def("release", [](BoundEngine& self, int row) { self.hold([&](Cache& c) { c.release(row); }); })
      .def("length", [](BoundEngine& self, int row) { return self.hold([&](Cache& c) { return c.length(row); }); })
      .def("pages_needed", [](BoundEngine& self, int row, int64_t count) {
        if (count < 0 || count > (1 << 24)) refuse("count must be 0 to 2^24");
        return self.hold([&](Cache& c) { return c.pages_needed(row, count); });
      })
      .def("step", &BoundEngine::step, "sequences"_a, "counts"_a, "tokens"_a, "frequencies"_a, "wants_all"_a, "logits"_a)
      .def("advance", &BoundEngine::advance, "sequences"_a, "counts"_a, "tokens"_a, "frequencies"_a, "choosers"_a,
           "max_steps"_a, "on_step"_a = nb::none());
}
