// Matrices filled from a file by threads: what one thread packs, row by row, and failures that name their row.
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>

#include "check.hpp"
#include "quant/encode.hpp"
#include "quant/fill.hpp"

using namespace martlet;

namespace {

// A file without a name, closed with its last user.
std::shared_ptr<const int> file_of(const std::vector<uint8_t>& bytes) {
  FILE* file = std::tmpfile();
  CHECK(file && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fflush(file) == 0);
  return {new int(fileno(file)), [file](const int* number) { std::fclose(file), delete number; }};
}

struct Source {
  std::vector<uint8_t> bytes;
  size_t row_bytes;
};

Source numbers(check::Random& random, int n, int k) {
  Source source{{}, size_t(k) * 4};
  for (int i = 0; i < n * k; ++i) {
    float number = float(random.below(2001)) / 1000.0f - 1.0f;
    const auto* at = reinterpret_cast<const uint8_t*>(&number);
    source.bytes.insert(source.bytes.end(), at, at + 4);
  }
  return source;
}

std::vector<FillJob> jobs_of(const std::vector<Source>& sources, std::shared_ptr<const int> file, int n, int k) {
  std::vector<FillJob> jobs;
  int64_t offset = 0;
  for (size_t j = 0; j < sources.size(); ++j) {
    FillJob job{std::make_shared<Packed>(make_packed(j % 2 ? Kind::Q8_0 : Kind::F32, n, k)), Kind::F32, file, offset, nullptr, {}};
    if (j % 3 == 2)
      for (int r = 0; r < n; ++r) job.order.push_back(j % 2 ? n - 1 - r : (int64_t(r) * 7) % n);
    if (j % 4 == 3) job.memory = sources[j].bytes.data(), job.file = nullptr;
    offset += int64_t(sources[j].bytes.size());
    jobs.push_back(std::move(job));
  }
  return jobs;
}

constexpr int kFilled = 3001, kWide = 96;  // rows of a job: several parts, the last with rows to spare

std::vector<Source> sources_of(check::Random& random) {
  std::vector<Source> sources;
  for (int j = 0; j < 6; ++j) sources.push_back(numbers(random, kFilled, kWide));
  return sources;
}

std::vector<uint8_t> end_to_end(const std::vector<Source>& sources) {
  std::vector<uint8_t> all;
  for (const Source& each : sources) all.insert(all.end(), each.bytes.begin(), each.bytes.end());
  return all;
}

}  // namespace

TEST(threads_fill_matrices_as_rows_are_packed) {
  check::Random random(8);
  const std::vector<Source> sources = sources_of(random);
  const auto file = file_of(end_to_end(sources));
  for (int threads : {0, 1, 3}) {
    std::vector<FillJob> jobs = jobs_of(sources, file, kFilled, kWide);
    Filling filling(jobs, threads);
    while (filling.help()) {
    }
    CHECK(filling.finish().reason == FillFailure::NONE);
    for (size_t j = 0; j < jobs.size(); ++j) {
      const Kind kind = jobs[j].packed->matrix.kind;
      Packed want = make_packed(kind, kFilled, kWide);
      std::vector<uint8_t> encoded(kWide * 4);
      for (int r = 0; r < kFilled; ++r) {
        const size_t place = jobs[j].order.empty() ? size_t(r) : size_t(jobs[j].order[size_t(r)]);
        const uint8_t* row = sources[j].bytes.data() + place * sources[j].row_bytes;
        if (kind != Kind::F32) {
          std::vector<float> wide(kWide);
          std::memcpy(wide.data(), row, sources[j].row_bytes);
          encode_row(kind, wide.data(), kWide, encoded.data());
          row = encoded.data();
        }
        pack_row(want, r, row);
      }
      CHECK(!std::memcmp(want.memory.get(), jobs[j].packed->memory.get(), want.bytes));
    }
  }
}

TEST(the_first_failure_of_a_filling_is_told) {
  check::Random random(9);
  for (int threads : {0, 3}) {
    std::vector<Source> sources = sources_of(random);
    const float wrong = NAN;
    for (auto [job, row] : {std::pair(1, 2500), std::pair(1, 40), std::pair(4, 3)})
      std::memcpy(sources[size_t(job)].bytes.data() + size_t(row) * sources[size_t(job)].row_bytes + 8, &wrong, 4);
    FillFailure failure = Filling(jobs_of(sources, file_of(end_to_end(sources)), kFilled, kWide), threads).finish();
    CHECK(failure.reason == FillFailure::NOT_FINITE && failure.job == 1 && failure.row == 40);

    std::vector<uint8_t> cut = end_to_end(sources_of(random));
    cut.resize(size_t(kFilled) * kWide * 4 / 2);
    failure = Filling(jobs_of(sources_of(random), file_of(cut), kFilled, kWide), threads).finish();
    CHECK(failure.reason == FillFailure::SHORTER && failure.job == 0);
  }
}

TEST(a_filling_that_is_not_wanted_ends) {
  check::Random random(10);
  const std::vector<Source> sources = sources_of(random);
  const auto file = file_of(end_to_end(sources));
  for (int i = 0; i < 20; ++i) {
    Filling filling(jobs_of(sources, file, kFilled, kWide), i % 4);
    if (i % 2) filling.help();
  }
}
