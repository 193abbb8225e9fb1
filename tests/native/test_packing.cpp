// Packing: what goes in comes out; what does not fit is refused.
#include <algorithm>
#include <cstring>

#include "check.hpp"
#include "quant/pack.hpp"

using namespace martlet;

TEST(packed_rows_read_as_their_source) {
  check::Random random(5);
  for (int kind = 0; kind < kNumKinds; ++kind) {
    const KindInfo& its = info(Kind(kind));
    const int n = 21, k = its.columns == 256 ? 512 : its.columns == 32 ? 96 : 33;
    Packed packed = make_packed(Kind(kind), n, k);
    size_t bytes = Kind(kind) == Kind::BF16 ? size_t(k) * 2 : size_t(k / its.columns) * its.source_bytes;
    for (int r = 0; r < n; ++r) {
      std::vector<uint8_t> row(bytes);  // its own memory: a read past the end is seen by AddressSanitizer
      for (uint8_t& byte : row) byte = uint8_t(random.below(256)) & 0x3f;
      pack_row(packed, r, row.data());
      std::vector<float> want(static_cast<size_t>(k)), got(static_cast<size_t>(k));
      read_row(Kind(kind), row.data(), k, want.data());
      unpack_row(packed, r, got.data());
      CHECK(want == got);
    }
  }
}

TEST(groups_of_rows_are_packed_as_rows_are) {
  check::Random random(6);
  for (int kind = 0; kind < kNumKinds; ++kind)
    for (int n : {1, 2, 15, 16, 21, 48}) {
      const KindInfo& its = info(Kind(kind));
      const int k = its.columns == 256 ? 512 : its.columns == 32 ? 96 : n % 2 ? 33 : 34;
      Packed rows = make_packed(Kind(kind), n, k), groups = make_packed(Kind(kind), n, k);
      size_t bytes = Kind(kind) == Kind::BF16 ? size_t(k) * 2 : size_t(k / its.columns) * its.source_bytes;
      std::vector<std::vector<uint8_t>> source;  // each its own memory: a read past the end is seen
      std::vector<const uint8_t*> begins;
      for (int r = 0; r < n; ++r) {
        source.emplace_back(bytes);
        for (uint8_t& byte : source.back()) byte = uint8_t(random.below(256));
        begins.push_back(source.back().data());
        pack_row(rows, r, begins.back());
      }
      for (int g = 0; g * kRows < n; ++g) pack_group(groups, g, &begins[size_t(g * kRows)], std::min(kRows, n - g * kRows));
      CHECK(!std::memcmp(rows.memory.get(), groups.memory.get(), rows.bytes));
    }
}

TEST(shapes_that_do_not_fit_are_refused) {
  CHECK_THROWS(make_packed(Kind::Q4_K, 1, 128), "multiple of 256");
  CHECK_THROWS(make_packed(Kind::Q8_0, 1, 33), "multiple of 32");
  CHECK_THROWS(make_packed(Kind::F32, 0, 4), "found 0 x 4");
}

TEST(matrices_of_an_arena_lie_beside_each_other_and_outlive_it) {
  auto arena = std::make_unique<Arena>();
  std::vector<Packed> packed;
  for (int n : {3, 16, 400, 5000, 33, 1}) packed.push_back(make_packed(Kind::F32, n, 100, arena.get()));
  arena.reset();
  for (size_t i = 0; i < packed.size(); ++i) {
    CHECK(reinterpret_cast<uintptr_t>(packed[i].matrix.data) % 64 == 0);
    std::vector<float> row(100, float(i));
    for (int r = 0; r < packed[i].matrix.n; ++r) pack_row(packed[i], r, reinterpret_cast<const uint8_t*>(row.data()));
  }
  for (size_t i = 0; i < packed.size(); ++i) {
    std::vector<float> got(100);
    for (int r = 0; r < packed[i].matrix.n; ++r) {
      unpack_row(packed[i], r, got.data());
      CHECK(got == std::vector<float>(100, float(i)));
    }
  }
}
