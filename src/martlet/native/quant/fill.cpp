#include "quant/fill.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>

#include "quant/encode.hpp"

namespace martlet {

namespace {

constexpr size_t kPartBytes = 512 << 10;  // of a file: what is read is still in the second cache when it is packed

size_t row_bytes(Kind kind, int k) {
  if (kind == Kind::BF16) return size_t(k) * 2;  // an odd column too
  return size_t(k) / size_t(info(kind).columns) * size_t(info(kind).source_bytes);
}

}  // namespace

struct Filling::Space {
  std::vector<uint8_t> raw, encoded;
  std::vector<float> numbers;
};

Filling::Filling(std::vector<FillJob> jobs, int num_threads)
    : jobs_(std::move(jobs)), own_(std::make_unique<Space>()), process_(getpid()) {
  for (size_t j = 0; j < jobs_.size(); ++j) {
    const Matrix& m = jobs_[j].packed->matrix;
    const size_t group = row_bytes(jobs_[j].stored, m.k) * size_t(kRows);
    const int together = int(std::clamp<size_t>(kPartBytes / std::max<size_t>(group, 1), 1, 4096));
    for (int g = 0; g < m.groups(); g += together) parts_.push_back({int(j), g, std::min(together, m.groups() - g)});
  }
  try {
    for (int t = 0; t < num_threads; ++t)
      threads_.emplace_back([this] {
        Space space;
        while (take(space)) {
        }
      });
  } catch (const std::system_error&) {  // no more threads: those there are do it, or who calls `help`
  }
}

Filling::~Filling() {
  stop();
  // a forked process has none of the threads: there is nobody to join
  if (getpid() != process_) new std::vector<std::thread>(std::move(threads_));
  for (auto& thread : threads_) thread.join();
}

void Filling::stop() { next_ = parts_.size(); }

bool Filling::help() { return take(*own_); }

FillFailure Filling::finish() {
  for (auto& thread : threads_) thread.join();
  threads_.clear();
  while (help()) {  // where there was no thread
  }
  return failure_;
}

// Parts are taken in order, so that all before a failed one have been looked at when everybody is done.
bool Filling::take(Space& space) {
  size_t at = next_.load();
  do {
    if (at >= parts_.size()) return false;
  } while (!next_.compare_exchange_weak(at, at + 1));
  const Part& part = parts_[at];
  FillFailure found;
  try {
    found = fill(part, space);
  } catch (const std::bad_alloc&) {
    found.reason = FillFailure::NO_MEMORY;
  }
  if (found.reason == FillFailure::NONE) return true;
  found.job = part.job;
  std::lock_guard guard(mutex_);
  const bool is_first = failure_.reason == FillFailure::NONE || found.job < failure_.job ||
                        (found.job == failure_.job && found.row < failure_.row);
  if (is_first) failure_ = found;
  stop();
  return false;
}

FillFailure Filling::fill(const Part& part, Space& space) const {
  const FillJob& job = jobs_[size_t(part.job)];
  const Matrix& m = job.packed->matrix;
  const size_t bytes = row_bytes(job.stored, m.k), packed_row = row_bytes(m.kind, m.k);
  const int first = part.first_group * kRows, count = std::min(part.groups * kRows, m.n - first);
  auto place = [&](int row) { return job.order.empty() ? int64_t(row) : job.order[size_t(row)]; };
  int64_t low = place(first), high = low;
  for (int r = first + 1; r < first + count; ++r) low = std::min(low, place(r)), high = std::max(high, place(r));
  // Rows in another order mostly lie near each other: then all between them are read at once.
  const bool is_near = high - low + 1 <= 2 * int64_t(count);
  FillFailure failure;
  auto read = [&](int64_t row, size_t size, uint8_t* to) {
    for (size_t done = 0; done < size;) {
      ssize_t got = pread(*job.file, to + done, size - done, job.offset + row * int64_t(bytes) + int64_t(done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        failure.reason = got < 0 ? FillFailure::UNREADABLE : FillFailure::SHORTER;
        failure.error = errno;
        return false;
      }
      done += size_t(got);
    }
    return true;
  };
  const uint8_t* source = job.memory ? job.memory + size_t(low) * bytes : nullptr;
  if (!job.memory) {
    const size_t size = (is_near ? size_t(high - low + 1) : size_t(count)) * bytes;
    if (space.raw.size() < size) space.raw.resize(size);
    source = space.raw.data();
    if (is_near && !read(low, size, space.raw.data())) return failure;
    for (int r = 0; !is_near && r < count; ++r)
      if (!read(place(first + r), bytes, space.raw.data() + size_t(r) * bytes)) return failure;
  }
  const bool lies_by_place = job.memory || is_near;
  const bool is_encoded = job.stored != m.kind;
  if (is_encoded) space.numbers.resize(size_t(m.k)), space.encoded.resize(size_t(kRows) * packed_row);
  for (int g = 0; g < part.groups; ++g) {
    const uint8_t* rows[kRows];
    const int there = std::min(kRows, count - g * kRows);
    for (int lane = 0; lane < there; ++lane) {
      const int r = g * kRows + lane;
      rows[lane] = source + size_t(lies_by_place ? place(first + r) - low : int64_t(r)) * bytes;
      bool is_finite = is_finite_row(job.stored, rows[lane], m.k);
      if (is_finite && is_encoded) {
        uint8_t* to = space.encoded.data() + size_t(lane) * packed_row;
        read_row(job.stored, rows[lane], m.k, space.numbers.data());
        encode_row(m.kind, space.numbers.data(), m.k, to);
        rows[lane] = to;
        is_finite = is_finite_row(m.kind, to, m.k);
      }
      if (!is_finite) {
        failure.reason = FillFailure::NOT_FINITE, failure.row = first + r;
        return failure;
      }
    }
    pack_group(*job.packed, part.first_group + g, rows, there);
  }
  return failure;
}

}  // namespace martlet
