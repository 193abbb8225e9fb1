// Filling as Python sees it: begun in one call, finished in another, and no interpreter lock is held between.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <map>

#include "bind/bound.hpp"
#include "quant/encode.hpp"
#include "quant/fill.hpp"

namespace {

struct BoundFilling {
  std::vector<Bytes> kept;  // what the filling reads: it ends before them
  std::unique_ptr<Filling> filling;
  std::atomic<bool> is_busy{false};
  std::vector<FillJob> jobs;
  std::map<int, std::shared_ptr<const int>> files;  // a descriptor of our own for each of the caller's

  const std::shared_ptr<const int>& open(int descriptor) {
    std::shared_ptr<const int>& file = files[descriptor];
    if (!file) {
      int own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
      if (own < 0) refuse("the file is not open");
      file = std::shared_ptr<const int>(new int(own), [](const int* fd) { close(*fd), delete fd; });
    }
    return file;
  }

  FillJob job(std::shared_ptr<Packed> packed, const std::string& stored, std::optional<Longs> order) const {
    if (filling) refuse("a filling that has begun takes no more");
    if (!packed) refuse("a matrix must be there to be filled");
    FillJob made{std::move(packed), find_kind(stored), nullptr, 0, nullptr, {}};
    const Matrix& m = made.packed->matrix;
    bytes_of_row(made.stored, m.k);  // refuses columns that do not fit
    if (made.stored != m.kind && (is_quantized(made.stored) || !is_encoded(m.kind)))
      refuse(stored + " is not encoded as " + info(m.kind).name);
    if (order) {
      if (order->shape(0) != size_t(m.n)) refuse("rows must name each row of the matrix");
      made.order.assign(order->data(), order->data() + m.n);
    }
    return made;
  }

  // Signals are looked for between parts, and the threads go on while Python hears one.
  nb::object finish(bool helps) {
    if (!filling) refuse("a filling must be begun first");
    if (is_busy.exchange(true)) refuse("a filling is finished by one at a time");
    struct Free {
      std::atomic<bool>& flag;
      ~Free() { flag = false; }
    } free{is_busy};
    FillFailure failure;
    bool is_left = helps;
    while (is_left) {
      {
        Unlocked unlocked;
        auto begun = std::chrono::steady_clock::now();
        while ((is_left = filling->help()) && std::chrono::steady_clock::now() - begun < std::chrono::milliseconds(20)) {
        }
      }
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    {
      Unlocked unlocked;
      failure = filling->finish();
    }
    switch (failure.reason) {
      case FillFailure::NONE: return nb::none();
      case FillFailure::NO_MEMORY: throw std::bad_alloc();
      case FillFailure::NOT_FINITE:
        return nb::make_tuple(failure.job, "row " + std::to_string(failure.row) + " has NaN or infinity", false);
      case FillFailure::SHORTER: return nb::make_tuple(failure.job, "", true);
      case FillFailure::UNREADABLE: break;
    }
    return nb::make_tuple(failure.job, std::strerror(failure.error), true);
  }
};

void check_order(const FillJob& job, int64_t rows_there) {
  const int64_t needed = job.order.empty() ? job.packed->matrix.n : 0;
  if (needed > rows_there) refuse("the source is too short");
  for (int64_t row : job.order)
    if (row < 0 || row >= rows_there) refuse("rows: out of range");
}

}  // namespace

void bind_fill(nb::module_& m) {
  nb::class_<BoundFilling>(m, "Filling")
      .def(nb::init<>())
      .def("add_file", [](BoundFilling& self, std::shared_ptr<Packed> packed, const std::string& stored, int descriptor,
                          int64_t offset, int64_t rows_there, std::optional<Longs> order) {
        FillJob job = self.job(std::move(packed), stored, std::move(order));
        const int64_t row = int64_t(bytes_of_row(job.stored, job.packed->matrix.k));
        if (offset < 0 || rows_there < 0 || rows_there > (INT64_MAX - offset) / std::max<int64_t>(row, 1))
          refuse("offset: out of range");
        check_order(job, rows_there);
        job.file = self.open(descriptor), job.offset = offset;
        self.jobs.push_back(std::move(job));
      }, "packed"_a, "stored"_a, "descriptor"_a, "offset"_a, "rows_there"_a, "order"_a.none() = nb::none())
      .def("add_memory", [](BoundFilling& self, std::shared_ptr<Packed> packed, const std::string& stored, Bytes source,
                            std::optional<Longs> order) {
        FillJob job = self.job(std::move(packed), stored, std::move(order));
        check_order(job, int64_t(source.shape(0) / std::max<size_t>(bytes_of_row(job.stored, job.packed->matrix.k), 1)));
        job.memory = source.data();
        self.kept.push_back(source);
        self.jobs.push_back(std::move(job));
      }, "packed"_a, "stored"_a, "source"_a, "order"_a.none() = nb::none())
      .def("begin", [](BoundFilling& self, int num_threads) {
        if (num_threads < 0 || num_threads > 1024) refuse("num_threads must be 0 to 1024");
        if (self.filling) refuse("a filling begins once");
        self.filling = std::make_unique<Filling>(std::move(self.jobs), num_threads);
      }, "num_threads"_a)
      .def("finish", &BoundFilling::finish, "helps"_a = true,
           "None, or what failed first: its job, what of it, and whether it is of the file.");
}
