// The cache against a plain model of it: lists of numbers for sequences, under random operations.
#include <map>
#include <new>

#include "cache/pages.hpp"
#include "check.hpp"

using namespace martlet;

namespace {

// Writes a mark at a position, or reads it back: the first number of its page's slot.
uint16_t& slot(Cache& cache, int sequence, int64_t position) {
  return cache.pages(sequence)[size_t(position / kPage)][cache.value_offset(0) + size_t(position % kPage)];
}

}  // namespace

TEST(sequences_keep_their_marks_through_forks_and_truncations) {
  check::Random random(6);
  Cache cache(2, 1, 0);
  std::map<int, std::vector<uint16_t>> model;
  for (int step = 0; step < 3000; ++step) {
    int kind = random.below(10);
    if (model.empty() || (kind == 0 && model.size() < 8)) {
      model[cache.add()] = {};
      continue;
    }
    auto it = model.begin();
    std::advance(it, random.below(int(model.size())));
    auto& [sequence, marks] = *it;
    if (kind == 1 && model.size() < 8) {
      std::vector<uint16_t> copy = marks;
      model[cache.fork(sequence)] = copy;
    } else if (kind == 2) {
      size_t length = size_t(random.below(int(marks.size()) + 1));
      cache.truncate(sequence, int64_t(length));
      marks.resize(length);
    } else if (kind == 3 && model.size() > 2) {
      cache.release(sequence);
      model.erase(it);
    } else {
      int count = 1 + random.below(40);
      int64_t before = cache.length(sequence);
      cache.extend(sequence, count);
      for (int i = 0; i < count; ++i) {
        marks.push_back(uint16_t(random.below(65536)));
        slot(cache, sequence, before + i) = marks.back();
      }
    }
    for (auto& [each, wanted] : model) {
      CHECK(cache.length(each) == int64_t(wanted.size()));
      for (size_t p = 0; p < wanted.size(); ++p) CHECK(slot(cache, each, int64_t(p)) == wanted[p]);
    }
  }
  while (!model.empty()) cache.release(model.begin()->first), model.erase(model.begin());
  CHECK(cache.pages_held() == 0);
}

TEST(a_full_cache_refuses_and_changes_nothing) {
  Cache cache(1, 4, 3);
  int first = cache.add(), second = cache.add();
  cache.extend(first, 2 * kPage);
  CHECK(cache.pages_needed(second, kPage + 1) == 2 && cache.pages_free() == 1);
  CHECK_THROWS(cache.extend(second, kPage + 1), "bad_alloc");
  CHECK(cache.length(second) == 0 && cache.pages_held() == 2);
  cache.extend(second, kPage);
  CHECK(cache.pages_free() == 0);
  CHECK_THROWS(cache.length(99), "no row 99");
}
