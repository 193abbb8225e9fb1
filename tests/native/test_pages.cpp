// The cache against a plain model of it: lists of numbers for sequences, under random operations.
#include <map>
#include <new>

#include "cache/pages.hpp"
#include "check.hpp"

using namespace martlet;

namespace {

// Where the mark of a position lies: the last head's value in its page's slot, of heads one number wide.
uint8_t* slot(Cache& cache, int sequence, int64_t position) {
  size_t at = size_t(position % kPage) * info(cache.dtype()).bytes;
  return cache.pages(sequence)[size_t(position / kPage)] + cache.value_offset(1) + at;
}
uint16_t read(Cache& cache, int sequence, int64_t position) {
  uint16_t mark;
  std::memcpy(&mark, slot(cache, sequence, position), sizeof(mark));
  return mark;
}

void keep_marks(KvDtype dtype) {
  check::Random random(6);
  Cache cache(2, 1, dtype, 0);
  CHECK(cache.page_bytes() == 2 * 2 * kPage * info(dtype).bytes);
  std::map<int, std::vector<uint16_t>> model;
  for (int step = 0; step < 3000; ++step) {
    if (step % 50 == 0) cache.trim();  // in the midst: pages in use stay
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
        std::memcpy(slot(cache, sequence, before + i), &marks.back(), sizeof(uint16_t));
      }
    }
    for (auto& [each, wanted] : model) {
      CHECK(cache.length(each) == int64_t(wanted.size()));
      for (size_t p = 0; p < wanted.size(); ++p) CHECK(read(cache, each, int64_t(p)) == wanted[p]);
    }
  }
  while (!model.empty()) cache.release(model.begin()->first), model.erase(model.begin());
  CHECK(cache.pages_held() == 0);
}

}  // namespace

TEST(sequences_keep_their_marks_through_forks_and_truncations) {
  for (KvDtype dtype : {KvDtype::BF16, KvDtype::F16, KvDtype::F32}) keep_marks(dtype);
}

// What was forgotten may be NaN: a row that goes on from a cut page finds zeros after its end, in every head.
TEST(what_was_forgotten_of_a_page_is_zeros) {
  for (KvDtype dtype : {KvDtype::BF16, KvDtype::F16, KvDtype::F32}) {
    Cache cache(3, 5, dtype, 0);
    int row = cache.add();
    cache.extend(row, kPage);
    uint8_t* page = cache.pages(row)[0];
    for (int head = 0; head < 3; ++head)
      for (size_t at : {cache.key_offset(head), cache.value_offset(head)})
        std::memset(page + at, 0xff, cache.page_bytes() / 6);
    cache.truncate(row, 7);
    cache.extend(row, 1);
    const size_t bytes = info(dtype).bytes;
    for (int head = 0; head < 3; ++head)
      for (int slot = 0; slot < kPage; ++slot)
        for (int d = 0; d < 5; ++d)
          for (size_t b = 0; b < bytes; ++b) {
            uint8_t key = page[cache.key_offset(head) + size_t(d * kPage + slot) * bytes + b];
            uint8_t value = page[cache.value_offset(head) + size_t(slot * 5 + d) * bytes + b];
            CHECK(key == (slot < 7 ? 0xff : 0) && value == key);
          }
  }
}

// A head's keys of one page follow those of the page before, where nobody else took a page between.
TEST(pages_of_a_sequence_lie_beside_each_other) {
  for (int64_t max_pages : {int64_t(0), int64_t(8), int64_t(12), int64_t(3)}) {
    Cache cache(3, 4, KvDtype::BF16, max_pages);
    const size_t block = cache.page_bytes() / 6;
    for (int round = 0; round < 2; ++round) {
      int row = cache.add();
      cache.extend(row, 3 * kPage);
      const auto& pages = cache.pages(row);
      const bool is_beside = max_pages != 3;
      CHECK((pages[1] == pages[0] + block) == is_beside && (pages[2] == pages[1] + block) == is_beside);
      CHECK(cache.key_offset(1) == size_t(max_pages == 3 ? 1 : max_pages == 12 ? 4 : 8) * 2 * block);
      cache.release(row);
    }
  }
}

TEST(a_full_cache_refuses_and_changes_nothing) {
  Cache cache(1, 4, KvDtype::F16, 3);
  int first = cache.add(), second = cache.add();
  cache.extend(first, 2 * kPage);
  CHECK(cache.pages_needed(second, kPage + 1) == 2 && cache.pages_free() == 1);
  CHECK_THROWS(cache.extend(second, kPage + 1), "bad_alloc");
  CHECK(cache.length(second) == 0 && cache.pages_held() == 2);
  cache.extend(second, kPage);
  CHECK(cache.pages_free() == 0);
  CHECK_THROWS(cache.length(99), "no row 99");
}
