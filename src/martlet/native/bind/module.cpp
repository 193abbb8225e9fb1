// The extension module: checks what Python hands over, then calls the engine with the interpreter lock released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

#include "bind/measure.hpp"
#include "graph/step.hpp"
#include "quant/encode.hpp"
#include "simd/cpu.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace martlet;

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using OutRows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

Kind find_kind(const std::string& name) {
  for (int i = 0; i < kNumKinds; ++i)
    if (name == kKinds[i].name) return Kind(i);
  refuse("the engine has no kernels for " + name);
}

template <class E> E choose(const nb::dict& d, const char* key, std::initializer_list<const char*> names) {
  auto given = nb::cast<std::string>(d[key]);
  int i = 0;
  for (const char* name : names) {
    if (given == name) return E(i);
    ++i;
  }
  refuse(std::string(key) + ": the engine does not have " + given);
}

Arch read_arch(const nb::dict& d) {
  Arch a;
  auto whole = [&](const char* key) { return nb::cast<int>(d[key]); };
  auto number = [&](const char* key) { return nb::cast<float>(d[key]); };
  auto flag = [&](const char* key) { return nb::cast<bool>(d[key]); };
  a.vocab_size = whole("vocab_size"), a.hidden_size = whole("hidden_size");
  a.intermediate_size = whole("intermediate_size"), a.num_attention_heads = whole("num_attention_heads");
  a.num_key_value_heads = whole("num_key_value_heads"), a.head_dim = whole("head_dim");
  auto ropes = nb::cast<std::vector<int>>(d["layer_ropes"]), windows = nb::cast<std::vector<int>>(d["layer_windows"]);
  a.rotated = nb::cast<std::vector<int>>(d["rotated"]);
  a.attention_factors = nb::cast<std::vector<float>>(d["attention_factors"]);
  if (ropes.size() != windows.size() || ropes.empty() || a.rotated.size() != a.attention_factors.size())
    refuse("layers: lists of different lengths");
  for (size_t i = 0; i < ropes.size(); ++i) {
    if (ropes[i] < -1 || ropes[i] >= int(a.rotated.size()) || windows[i] < 0) refuse("layers: out of range");
    a.layers.push_back({ropes[i], windows[i]});
  }
  for (int r : a.rotated)
    if (r < 0 || r % 2 || r > a.head_dim) refuse("rotated must be even and at most head_dim");
  a.norm = choose<NormKind>(d, "norm", {"rms", "rms_plus_one", "layer"});
  a.placement = choose<Placement>(d, "placement", {"pre", "post", "output", "sandwich", "parallel", "parallel_shared"});
  a.qk_norm = choose<QKNorm>(d, "qk_norm", {"none", "head", "full"});
  a.activation = choose<Act>(d, "activation", {"silu", "gelu", "gelu_tanh", "relu"});
  a.norm_eps = number("norm_eps"), a.final_norm = flag("final_norm");
  a.position_table = whole("position_table"), a.position_offset = whole("position_offset");
  a.embedding_size = whole("embedding_size"), a.embed_scale = number("embed_scale");
  a.score_scale = number("score_scale"), a.attn_softcap = number("attn_softcap");
  a.gated = flag("gated"), a.residual_scale = number("residual_scale");
  a.logit_scale = number("logit_scale"), a.logit_softcap = number("logit_softcap");
  for (int size : {a.vocab_size, a.hidden_size, a.intermediate_size, a.num_attention_heads, a.num_key_value_heads,
                   a.head_dim})
    if (size < 1) refuse("sizes must be at least 1");
  if (a.num_attention_heads % a.num_key_value_heads) refuse("num_attention_heads must be a multiple of num_key_value_heads");
  return a;
}

size_t bytes_of_row(Kind kind, int k) {
  const KindInfo& i = info(kind);
  if (is_quantized(kind) && k % i.columns)
    refuse(std::string(i.name) + " needs a multiple of " + std::to_string(i.columns) + " columns; found " +
           std::to_string(k));
  return kind == Kind::BF16 ? size_t(k) * 2 : size_t(k) / i.columns * i.source_bytes;
}

// `f(begin, end)` over 0..n, cut into as many parts as there are threads.
template <class F> void in_parts(int n, int num_threads, F&& f) {
  std::vector<std::thread> threads;
  int each = (n + num_threads - 1) / num_threads;
  for (int t = 1; t < num_threads && t * each < n; ++t)
    threads.emplace_back([&, t] { f(t * each, std::min(n, (t + 1) * each)); });
  f(0, std::min(n, each));
  for (auto& thread : threads) thread.join();
}

std::shared_ptr<Packed> pack(const std::string& type, Bytes source, int n, int k, std::optional<Longs> rows,
                             int num_threads) {
  Kind kind = find_kind(type);
  size_t row_bytes = bytes_of_row(kind, k);
  size_t there = row_bytes ? source.shape(0) / row_bytes : 0;
  if (rows && rows->shape(0) != size_t(n)) refuse("rows must name each row of the matrix");
  if (!rows && there < size_t(n)) refuse("the source is too short");
  for (int i = 0; rows && i < n; ++i)
    if (rows->data()[i] < 0 || size_t(rows->data()[i]) >= there) refuse("rows: out of range");
  if (num_threads < 1) refuse("num_threads must be at least 1");
  const uint8_t* data = source.data();
  const int64_t* order = rows ? rows->data() : nullptr;
  nb::gil_scoped_release released;
  auto packed = std::make_shared<Packed>(make_packed(kind, n, k));
  in_parts(packed->matrix.groups(), num_threads, [&](int begin, int end) {
    for (int row = begin * kRows; row < std::min(end * kRows, n); ++row)
      pack_row(*packed, row, data + size_t(order ? order[row] : row) * row_bytes);
  });
  return packed;
}

// A model, and the arrays its tables are read from.
struct BoundModel {
  std::shared_ptr<Model> model;
  std::vector<Bytes> kept;
};

// An engine for one caller at a time.
struct BoundEngine {
  std::vector<Bytes> kept;
  Engine engine;
  std::mutex busy;

  BoundEngine(const BoundModel& m, const std::string& isa, int num_threads, int64_t max_pages)
      : kept(m.kept), engine(m.model, find_kernels(isa), num_threads, max_pages) {}

  void step(Ints sequences, Ints counts, Ints tokens, const std::vector<FloatRows>& frequencies, bool wants_all,
            OutRows logits) {
    const Arch& a = engine.model().arch;
    size_t n = sequences.shape(0), at = 0;
    if (counts.shape(0) != n) refuse("a count for each row");
    if (frequencies.size() != a.rotated.size()) refuse("a table of frequencies for each rope");
    for (size_t r = 0; r < frequencies.size(); ++r)
      if (frequencies[r].shape(0) != n || frequencies[r].shape(1) != size_t(a.rotated[r] / 2))
        refuse("frequencies must have a row for each row of the batch");
    std::vector<std::vector<const float*>> of_row(n);
    std::vector<RowStep> rows;
    Cache& cache = engine.cache();
    for (size_t i = 0; i < n; ++i) {
      int sequence = sequences.data()[i], count = counts.data()[i];
      if (!cache.has(sequence)) refuse("no row " + std::to_string(sequence));
      if (std::find(sequences.data(), sequences.data() + i, sequence) != sequences.data() + i)
        refuse("row " + std::to_string(sequence) + " stands twice in a step");
      if (count < 1 || at + size_t(count) > tokens.shape(0)) refuse("counts must be at least 1 and add up to the tokens");
      int64_t end = cache.length(sequence) + count;
      if (a.position_table && end + a.position_offset > a.position_table)
        refuse("the table of positions has " + std::to_string(a.position_table - a.position_offset) +
               " rows; found a row of " + std::to_string(end) + " tokens");
      if (end >= (int64_t(1) << 24)) refuse("rows have fewer than 2^24 tokens");
      for (const FloatRows& table : frequencies) of_row[i].push_back(table.data() + i * table.shape(1));
      rows.push_back({sequence, {tokens.data() + at, size_t(count)}, of_row[i].data(), wants_all});
      at += size_t(count);
    }
    if (at != tokens.shape(0)) refuse("counts must add up to the tokens");
    for (size_t i = 0; i < at; ++i)
      if (tokens.data()[i] < 0 || tokens.data()[i] >= a.vocab_size)
        refuse("token " + std::to_string(tokens.data()[i]) + " is outside the vocabulary");
    if (logits.shape(0) != (wants_all ? at : n) || logits.shape(1) != size_t(a.vocab_size))
      refuse("logits must have a row for each place asked for");
    float* out = logits.data();
    nb::gil_scoped_release released;
    std::lock_guard lock(busy);
    engine.step(rows, out);
  }
};

// One instruction set's kernels, for tests.
struct BoundKernels {
  const Kernels& k;
  explicit BoundKernels(const std::string& name) : k(find_kernels(name)) {}

  void matmul(const Packed& w, FloatRows x, OutRows y) const {
    const Matrix& m = w.matrix;
    size_t rows = x.shape(0);
    if (x.shape(1) != size_t(m.k) || y.shape(0) != rows || y.shape(1) != size_t(m.groups() * kRows))
      refuse("x must be (m, k) and y (m, rows of all groups)");
    Activations in;
    in.stride = (m.k + kBlock - 1) / kBlock * kBlock;
    size_t size = (rows + 3) / 4 * 4 * size_t(in.stride);
    std::vector<float> f32(size), rounded(size), scale(size / kBlock), sum(scale.size());
    std::vector<uint16_t> bf16(size);
    std::vector<int8_t> q8(size);
    std::vector<int32_t> total(scale.size()), half(scale.size());
    in.f32 = f32.data(), in.bf16 = bf16.data(), in.rounded = rounded.data(), in.q8 = q8.data();
    in.scale = scale.data(), in.sum = sum.data(), in.total = total.data(), in.half = half.data();
    for (size_t r = 0; r < rows; ++r) {
      std::memcpy(in.f32 + r * size_t(in.stride), x.data() + r * size_t(m.k), size_t(m.k) * sizeof(float));
      k.prepare(x.data() + r * size_t(m.k), m.k, in, int(r));
    }
    k.matmul[int(m.kind)](m, 0, m.groups(), in, 0, int(rows), y.data(), y.shape(1));
  }
  void norm(const std::string& kind, Floats x, Floats weight, std::optional<Floats> bias, float eps,
            nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu> y) const {
    NormKind which = kind == "layer" ? NormKind::LAYER : kind == "rms" ? NormKind::RMS : NormKind::RMS_PLUS_ONE;
    if (weight.shape(0) != x.shape(0) || y.shape(0) != x.shape(0)) refuse("arrays of one length");
    k.norm(which, x.data(), weight.data(), bias ? bias->data() : nullptr, eps, int(x.shape(0)), y.data());
  }
  void activate(const std::string& name, Floats gate, std::optional<Floats> up,
                nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu> y) const {
    Act which = name == "silu" ? Act::SILU : name == "gelu" ? Act::GELU : name == "relu" ? Act::RELU : Act::GELU_TANH;
    if (y.shape(0) != gate.shape(0)) refuse("arrays of one length");
    k.activate(which, gate.data(), up ? up->data() : nullptr, int(gate.shape(0)), y.data());
  }
};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native engine. Only martlet.engine imports this.";
  m.def("available_processors", &available_processors);
  bind_measure(m);
  m.def("instruction_sets", [] {
    std::vector<nb::tuple> out;
    for (const InstructionSet& set : instruction_sets()) out.push_back(nb::make_tuple(set.name, set.is_usable, set.needs));
    return out;
  });
  m.def("find_isa", [](const std::string& name) { return std::string(find_kernels(name).name); }, "name"_a);
  m.def("kinds", [] {
    std::vector<std::string> names;
    for (const KindInfo& kind : kKinds) names.push_back(kind.name);
    return names;
  });

  nb::class_<Packed>(m, "Packed")
      .def_prop_ro("kind", [](const Packed& p) { return info(p.matrix.kind).name; })
      .def_prop_ro("shape", [](const Packed& p) { return nb::make_tuple(p.matrix.n, p.matrix.k); })
      .def_prop_ro("num_bytes", [](const Packed& p) { return p.bytes; })
      .def("unpack", [](const Packed& p, OutRows out) {
        if (out.shape(0) != size_t(p.matrix.n) || out.shape(1) != size_t(p.matrix.k)) refuse("out must be (n, k)");
        for (int r = 0; r < p.matrix.n; ++r) unpack_row(p, r, out.data() + size_t(r) * size_t(p.matrix.k));
      });
  m.def("pack", &pack, "type"_a, "source"_a, "n"_a, "k"_a, "rows"_a.none() = nb::none(), "num_threads"_a = 1);
  m.def("read_rows", [](const std::string& type, Bytes source, OutRows out) {
    Kind kind = find_kind(type);
    size_t row_bytes = bytes_of_row(kind, int(out.shape(1)));
    if (source.shape(0) < row_bytes * out.shape(0)) refuse("the source is too short");
    for (size_t r = 0; r < out.shape(0); ++r)
      read_row(kind, source.data() + r * row_bytes, int(out.shape(1)), out.data() + r * out.shape(1));
  });
  m.def("encode_rows", [](const std::string& type, FloatRows x,
                          nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out, int num_threads) {
    Kind kind = find_kind(type);
    int n = int(x.shape(0)), k = int(x.shape(1));
    size_t row_bytes = kind == Kind::BF16 ? size_t(k) * 2 : bytes_of_row(kind, k);
    if (out.shape(0) != row_bytes * size_t(n)) refuse("out has another size");
    if (!is_encoded(kind)) refuse("numbers are not encoded as " + type);
    const float* from = x.data();
    uint8_t* to = out.data();
    nb::gil_scoped_release released;
    in_parts(n, std::max(1, num_threads), [&](int begin, int end) {
      for (int r = begin; r < end; ++r) encode_row(kind, from + size_t(r) * size_t(k), k, to + size_t(r) * row_bytes);
    });
  });

  nb::class_<BoundModel>(m, "Model")
      .def("__init__", [](BoundModel* self, const nb::dict& arch) {
        new (self) BoundModel{std::make_shared<Model>(read_arch(arch)), {}};
      })
      .def("set_matrix", [](BoundModel& self, const std::string& name, std::shared_ptr<Packed> packed) {
        self.model->set_matrix(name, std::move(packed));
      })
      .def("set_vector", [](BoundModel& self, const std::string& name, Floats values) {
        self.model->set_vector(name, Vector(values.data(), values.data() + values.shape(0)));
      })
      .def("set_table", [](BoundModel& self, const std::string& name, const std::string& type, Bytes source, int rows,
                           int columns) {
        Table table{find_kind(type), source.data(), rows, columns, bytes_of_row(find_kind(type), columns)};
        if (source.shape(0) < table.row_bytes * size_t(rows)) refuse(name + ": the source is too short");
        self.model->set_table(name, table);
        self.kept.push_back(source);
      })
      .def("check", [](const BoundModel& self) { self.model->check(); })
      .def_prop_ro("packed_bytes", [](const BoundModel& self) { return self.model->packed_bytes(); });

  nb::class_<BoundEngine>(m, "Engine")
      .def("__init__", [](BoundEngine* self, const BoundModel& model, const std::string& isa, int num_threads,
                          int64_t max_pages) {
        if (num_threads < 1 || num_threads > 1024) refuse("num_threads must be 1 to 1024");
        if (max_pages < 0) refuse("max_pages must be 0 (no limit) or more");
        model.model->check();
        new (self) BoundEngine(model, isa, num_threads, max_pages);
      }, "model"_a, "isa"_a = "", "num_threads"_a = 1, "max_pages"_a = 0)
      .def_prop_ro("isa", [](const BoundEngine& self) { return self.engine.kernels().name; })
      .def_prop_ro("num_threads", [](const BoundEngine& self) { return self.engine.num_threads(); })
      .def_prop_ro("cache_bytes", [](BoundEngine& self) {
        return size_t(self.engine.cache().pages_held()) * self.engine.cache().page_bytes();
      })
      .def_prop_ro("workspace_bytes", [](const BoundEngine& self) { return self.engine.workspace_bytes(); })
      .def("add", [](BoundEngine& self) { return (std::lock_guard(self.busy), self.engine.cache().add()); })
      .def("fork", [](BoundEngine& self, int row) { return (std::lock_guard(self.busy), self.engine.cache().fork(row)); })
      .def("truncate", [](BoundEngine& self, int row, int64_t length) {
        std::lock_guard lock(self.busy);
        self.engine.cache().truncate(row, length);
      })
      .def("release", [](BoundEngine& self, int row) {
        std::lock_guard lock(self.busy);
        self.engine.cache().release(row);
      })
      .def("length", [](BoundEngine& self, int row) {
        return (std::lock_guard(self.busy), self.engine.cache().length(row));
      })
      .def("step", &BoundEngine::step, "sequences"_a, "counts"_a, "tokens"_a, "frequencies"_a, "wants_all"_a, "logits"_a);

  nb::class_<BoundKernels>(m, "Kernels")
      .def(nb::init<const std::string&>())
      .def_prop_ro("name", [](const BoundKernels& self) { return self.k.name; })
      .def("matmul", &BoundKernels::matmul)
      .def("norm", &BoundKernels::norm, "kind"_a, "x"_a, "weight"_a, "bias"_a.none(), "eps"_a, "y"_a)
      .def("activate", &BoundKernels::activate, "name"_a, "gate"_a, "up"_a.none(), "y"_a);
}
