// The extension module: checks what Python hands over, then calls the engine with the interpreter lock released.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>

#include "bind/bound.hpp"
#include "bind/measure.hpp"
#include "quant/encode.hpp"
#include "simd/cpu.hpp"

namespace {

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
    if (size < 1 || size > (1 << 24)) refuse("sizes must be 1 to 2^24");
  if (int64_t(a.num_attention_heads) * a.head_dim > (1 << 24)) refuse("heads are too many and too wide");
  if (a.num_attention_heads % a.num_key_value_heads) refuse("num_attention_heads must be a multiple of num_key_value_heads");
  return a;
}

// `f(begin, end)` over 0..n, cut into as many parts as there are threads.
template <class F> void in_parts(int n, int num_threads, F&& f) {
  std::vector<std::thread> threads;
  int each = (n + num_threads - 1) / num_threads;
  int t = 1;
  try {
    for (; t < num_threads && t * each < n; ++t)
      threads.emplace_back([&f, n, each, t] { f(t * each, std::min(n, (t + 1) * each)); });
  } catch (const std::system_error&) {  // no more threads: the caller does the rest
    f(t * each, n);
  }
  f(0, std::min(n, each));
  for (auto& thread : threads) thread.join();
}

void check_threads(int num_threads) {
  if (num_threads < 1 || num_threads > 1024) refuse("num_threads must be 1 to 1024");
}

// Rows first_row.. of a matrix out of `source`, whose row `order[i]`, or i, is row first_row + i.
void pack_rows(Packed& packed, int first_row, int count, const uint8_t* source, const int64_t* order, int num_threads) {
  const Kind kind = packed.matrix.kind;
  const size_t row_bytes = bytes_of_row(kind, packed.matrix.k);
  std::atomic<int> bad{-1};
  Unlocked unlocked;
  constexpr size_t kWorthAThread = 2 << 20;  // bytes: to start one takes as long as to pack a tenth of it
  int useful = int(std::min(size_t(num_threads), 1 + size_t(count) * row_bytes / kWorthAThread));
  in_parts((count + kRows - 1) / kRows, useful, [&](int begin, int end) {
    for (int group = begin; group < end; ++group) {
      const uint8_t* rows[kRows];
      int there = std::min(kRows, count - group * kRows);
      for (int lane = 0; lane < there; ++lane) {
        int i = group * kRows + lane;
        rows[lane] = source + size_t(order ? order[i] : i) * row_bytes;
        if (!is_finite_row(kind, rows[lane], packed.matrix.k)) bad = first_row + i;
      }
      pack_group(packed, first_row / kRows + group, rows, there);
    }
  });
  if (bad >= 0) refuse("row " + std::to_string(bad.load()) + " has NaN or infinity");
}

std::shared_ptr<Packed> pack(const std::string& type, Bytes source, int n, int k, std::optional<Longs> rows,
                             int num_threads, Arena* arena) {
  Kind kind = find_kind(type);
  if (n < 1 || k < 1) refuse("a matrix has at least one row and one column");
  size_t row_bytes = bytes_of_row(kind, k);
  size_t there = row_bytes ? source.shape(0) / row_bytes : 0;
  if (rows && rows->shape(0) != size_t(n)) refuse("rows must name each row of the matrix");
  if (!rows && there < size_t(n)) refuse("the source is too short");
  for (int i = 0; rows && i < n; ++i)
    if (rows->data()[i] < 0 || size_t(rows->data()[i]) >= there) refuse("rows: out of range");
  check_threads(num_threads);
  auto packed = std::make_shared<Packed>(make_packed(kind, n, k, arena));
  pack_rows(*packed, 0, n, source.data(), rows ? rows->data() : nullptr, num_threads);
  return packed;
}

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
    std::vector<int32_t> total(scale.size()), half(scale.size()), minus(scale.size() * kMinus);
    in.f32 = f32.data(), in.bf16 = bf16.data(), in.rounded = rounded.data(), in.q8 = q8.data();
    in.scale = scale.data(), in.sum = sum.data(), in.total = total.data(), in.half = half.data();
    in.minus = minus.data(), in.plane = scale.size();
    for (size_t r = 0; r < rows; ++r) {
      std::memcpy(in.f32 + r * size_t(in.stride), x.data() + r * size_t(m.k), size_t(m.k) * sizeof(float));
      k.prepare(x.data() + r * size_t(m.k), m.k, in, int(r), 0, in.stride / kBlock);
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
  nb::set_leak_warnings(false);  // daemon threads hold models when a process ends
  m.def("available_processors", &available_processors, "root"_a = "");
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
  nb::class_<Arena>(m, "Arena").def(nb::init<>());
  m.def("make_packed", [](const std::string& type, int n, int k, Arena* arena) {
    return std::make_shared<Packed>(make_packed(find_kind(type), n, k, arena));
  }, "type"_a, "n"_a, "k"_a, "arena"_a.none() = nb::none());
  m.def("packed_bytes", [](const std::string& type, int n, int k) { return packed_bytes(find_kind(type), n, k); });
  m.def("pack_rows", [](Packed& packed, int first_row, int count, Bytes source, int num_threads) {
    const Matrix& w = packed.matrix;
    if (first_row < 0 || first_row % kRows || count < 1 || count > w.n - first_row) refuse("rows: out of range");
    if (source.shape(0) < bytes_of_row(w.kind, w.k) * size_t(count)) refuse("the source is too short");
    check_threads(num_threads);
    pack_rows(packed, first_row, count, source.data(), nullptr, num_threads);
  });
  m.def("pack", &pack, "type"_a, "source"_a, "n"_a, "k"_a, "rows"_a.none() = nb::none(), "num_threads"_a = 1,
        "arena"_a.none() = nb::none());
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
    check_threads(num_threads);
    const float* from = x.data();
    uint8_t* to = out.data();
    Unlocked unlocked;
    in_parts(n, num_threads, [&](int begin, int end) {
      for (int r = begin; r < end; ++r) encode_row(kind, from + size_t(r) * size_t(k), k, to + size_t(r) * row_bytes);
    });
  });

  nb::class_<BoundModel>(m, "Model")
      .def("__init__", [](BoundModel* self, const nb::dict& arch) {
        new (self) BoundModel{std::make_shared<Model>(read_arch(arch)), {}};
      })
      .def("set_matrix", [](BoundModel& self, const std::string& name, std::shared_ptr<Packed> packed) {
        self.check_unused();
        self.model->set_matrix(name, std::move(packed));
      })
      .def("set_vector", [](BoundModel& self, const std::string& name, Floats values) {
        self.check_unused();
        self.model->set_vector(name, Vector(values.data(), values.data() + values.shape(0)));
      })
      .def("set_table", [](BoundModel& self, const std::string& name, const std::string& type, Bytes source, int rows,
                           int columns) {
        self.check_unused();
        if (rows < 1 || columns < 1) refuse("a table has at least one row and one column");
        Table table{find_kind(type), source.data(), rows, columns, bytes_of_row(find_kind(type), columns), nullptr, 0, name};
        if (source.shape(0) < table.row_bytes * size_t(rows)) refuse(name + ": the source is too short");
        self.model->set_table(name, table);
        self.kept.push_back(source);
      })
      .def("set_table_in_file", [](BoundModel& self, const std::string& name, const std::string& type, int descriptor,
                                   int64_t offset, int rows, int columns) {
        self.check_unused();
        if (rows < 1 || columns < 1 || offset < 0) refuse(name + ": out of range");
        int own = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
        if (own < 0) refuse(name + ": its file is not open");
        std::shared_ptr<const int> file(new int(own), [](const int* fd) { close(*fd), delete fd; });
        self.model->set_table(name, {find_kind(type), nullptr, rows, columns, bytes_of_row(find_kind(type), columns), file,
                                     offset, name});
      })
      .def("check", [](const BoundModel& self) { self.model->check(); })
      .def_prop_ro("packed_bytes", [](const BoundModel& self) { return self.model->packed_bytes(); });

  bind_unlocked(m);
  bind_fill(m);
  bind_engine(m);
  nb::class_<BoundKernels>(m, "Kernels")
      .def(nb::init<const std::string&>())
      .def_prop_ro("name", [](const BoundKernels& self) { return self.k.name; })
      .def("matmul", &BoundKernels::matmul)
      .def("norm", &BoundKernels::norm, "kind"_a, "x"_a, "weight"_a, "bias"_a.none(), "eps"_a, "y"_a)
      .def("activate", &BoundKernels::activate, "name"_a, "gate"_a, "up"_a.none(), "y"_a);
}
