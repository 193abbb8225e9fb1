// What the files of the binding share: the arrays they take, and how they refuse.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "graph/step.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace martlet;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutFloats = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using OutRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

inline Kind find_kind(const std::string& name) {
  for (int i = 0; i < kNumKinds; ++i)
    if (name == kKinds[i].name) return Kind(i);
  refuse("the engine has no kernels for " + name);
}

inline size_t bytes_of_row(Kind kind, int k) {
  const KindInfo& i = info(kind);
  if (is_quantized(kind) && k % i.columns)
    refuse(std::string(i.name) + " needs a multiple of " + std::to_string(i.columns) + " columns; found " +
           std::to_string(k));
  return kind == Kind::BF16 ? size_t(k) * 2 : size_t(k) / i.columns * i.source_bytes;
}

// A model, and the arrays its tables are read from.
struct BoundModel {
  std::shared_ptr<Model> model;
  std::vector<Bytes> kept;

  void check_unused() const {
    if (model.use_count() > 1) refuse("an engine has the model: its weights stay as they are");
  }
};

// Without the interpreter lock, as long as this lives. Refused once the interpreter is about to end: whoever comes back
// to one that has ended is ended by it, and C++ has no way to bear that.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

void bind_engine(nb::module_& m);   // Engine and Chooser
void bind_fill(nb::module_& m);     // Filling
void bind_unlocked(nb::module_& m);  // `close`, for the end of the interpreter
