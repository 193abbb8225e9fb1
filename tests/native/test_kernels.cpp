// Every instruction set this machine has gives the bits of the scalar one, over ragged sizes.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "check.hpp"
#include "quant/half.hpp"
#include "quant/pack.hpp"
#include "simd/cpu.hpp"

using namespace martlet;
using check::same;

#ifdef __x86_64__
namespace martlet::emulated_avx512 {
extern const Kernels kernels;
}
namespace martlet::emulated_avx512_bf16 {
extern const Kernels kernels;
}
#endif

namespace {

const Kernels& plain() { return find_kernels("scalar"); }

// Those of this machine, and where it has AVX2 those of AVX-512 over plain code.
template <class F> void on_each_set(F&& f) {
  [[maybe_unused]] bool has_avx2 = false;
  for (const InstructionSet& set : instruction_sets())
    if (set.is_usable) f(*set.kernels), has_avx2 |= std::string(set.name) == "avx2";
#ifdef __x86_64__
  if (has_avx2) f(emulated_avx512::kernels), f(emulated_avx512_bf16::kernels);
#endif
}

Packed random_matrix(Kind kind, int n, int k, check::Random& random) {
  Packed packed = make_packed(kind, n, k);
  size_t bytes = kind == Kind::BF16 ? size_t(k) * 2 : size_t(k) / size_t(info(kind).columns) * info(kind).source_bytes;
  std::vector<uint8_t> row(bytes);
  for (int r = 0; r < n; ++r) {
    for (uint8_t& byte : row) byte = uint8_t(random.below(256));
    // no exponent of ones, so that every number is finite; integers of the blocks stay what they are
    size_t step = kind == Kind::F32 ? 4 : is_quantized(kind) ? info(kind).source_bytes : 2;
    size_t scale = kind == Kind::F32 ? 3 : kind == Kind::Q6_K ? 209 : 1;
    for (size_t at = scale; at < bytes; at += step) row[at] &= 0xbf;
    bool has_two = kind == Kind::Q4_1 || kind == Kind::Q5_1 || kind == Kind::Q4_K || kind == Kind::Q5_K;
    for (size_t at = 3; has_two && at < bytes; at += step) row[at] &= 0xbf;
    // 2^-63 and more: vdpbf16ps takes subnormal numbers and sums for zeros
    for (size_t at = 1; kind == Kind::BF16 && at < bytes; at += 2) row[at] |= 0x20;
    pack_row(packed, r, row.data());
  }
  return packed;
}

std::vector<float> product(const Kernels& kernels, const Packed& w, const std::vector<float>& x, int rows) {
  const Matrix& m = w.matrix;
  Activations in;
  in.stride = (m.k + kBlock - 1) / kBlock * kBlock;
  size_t size = size_t(rows + 3) / 4 * 4 * size_t(in.stride);
  std::vector<float> f32(size), rounded(size), scale(size / kBlock), sum(size / kBlock);
  std::vector<uint16_t> bf16(size);
  std::vector<int8_t> q8(size);
  std::vector<int32_t> total(size / kBlock), half(size / kBlock), minus(size / kBlock * kMinus);
  in.f32 = f32.data(), in.q8 = q8.data(), in.scale = scale.data(), in.sum = sum.data();
  in.plane = scale.size();
  if (kernels.sums_in_16)
    in.total = total.data(), in.half = half.data();
  else
    in.minus = minus.data();
  if (kernels.multiplies_bf16)
    in.bf16 = bf16.data();
  else
    in.rounded = rounded.data();
  for (int r = 0; r < rows; ++r) {
    std::copy_n(x.data() + size_t(r) * size_t(m.k), m.k, f32.data() + size_t(r) * size_t(in.stride));
    kernels.prepare(x.data() + size_t(r) * size_t(m.k), m.k, in, r, 0, in.stride / kBlock);
  }
  std::vector<float> y(size_t(rows) * size_t(m.groups()) * kRows);
  kernels.matmul[int(m.kind)](m, 0, m.groups(), in, 0, rows, y.data(), size_t(m.groups()) * kRows);
  return y;
}

}  // namespace

TEST(products_have_the_bits_of_the_scalar_set) {
  check::Random random(1);
  for (int kind = 0; kind < kNumKinds; ++kind) {
    std::vector<int> widths = {512};
    if (!is_quantized(Kind(kind)))
      widths = {1, 2, 31, 33, 65, 130};
    else if (info(Kind(kind)).columns == 32)
      widths = {32, 96, 544};
    for (int k : widths) {
      Packed w = random_matrix(Kind(kind), 37, k, random);
      std::vector<float> x = random.numbers(size_t(13) * size_t(k)), want = product(plain(), w, x, 13);
      on_each_set([&](const Kernels& kernels) {
        for (int rows : {1, 2, 3, 4, 5, 7, 8, 9, 13}) {
          std::vector<float> part(want.begin(), want.begin() + long(size_t(rows) * 48));
          CHECK(same(product(kernels, w, x, rows), part));
        }
      });
    }
  }
}

// The largest quants against the largest activations: what sums in 16 bits must hold.
TEST(products_of_extremes_do_not_overflow) {
  for (int kind = int(Kind::Q8_0); kind < kNumKinds; ++kind) {
    const KindInfo& its = info(Kind(kind));
    for (int fill : {0x00, 0xff, 0x80, 0x7f}) {
      Packed w = make_packed(Kind(kind), 16, 256);
      std::vector<uint8_t> row(size_t(256 / its.columns) * its.source_bytes, uint8_t(fill));
      bool ends = Kind(kind) == Kind::Q6_K;  // where the scale stands
      bool has_two = Kind(kind) == Kind::Q4_1 || Kind(kind) == Kind::Q5_1 || Kind(kind) == Kind::Q4_K || Kind(kind) == Kind::Q5_K;
      for (size_t at = 0; at < row.size(); at += its.source_bytes) {
        row[at + (ends ? 208 : 0)] = 0, row[at + (ends ? 209 : 1)] = 0x3c;  // 1.0
        if (has_two) row[at + 2] = 0, row[at + 3] = 0x3c;
      }
      for (int r = 0; r < 16; ++r) pack_row(w, r, row.data());
      for (float sign : {1.0f, -1.0f}) {
        std::vector<float> x(4 * 256, sign), values(256);
        read_row(Kind(kind), row.data(), 256, values.data());
        double want = 0;
        for (float v : values) want += double(v) * sign;
        on_each_set([&](const Kernels& kernels) {
          for (float got : product(kernels, w, x, 4)) CHECK(std::fabs(got - want) <= 1e-6 * (std::fabs(want) + 256));
        });
      }
    }
  }
}

TEST(rows_have_the_bits_of_the_scalar_set) {
  check::Random random(2);
  for (int n : {2, 6, 15, 16, 17, 33, 64, 577}) {
    std::vector<float> x = random.numbers(size_t(n)), w = random.numbers(size_t(n)), b = random.numbers(size_t(n));
    on_each_set([&](const Kernels& kernels) {
      auto both = [&](auto&& f) {
        std::vector<float> want(x), got(x);
        f(plain(), want), f(kernels, got);
        CHECK(same(want, got));
      };
      for (NormKind kind : {NormKind::RMS, NormKind::RMS_PLUS_ONE, NormKind::LAYER})
        both([&](const Kernels& k, std::vector<float>& y) { k.norm(kind, x.data(), w.data(), b.data(), 1e-5f, n, y.data()); });
      for (Act act : {Act::SILU, Act::GELU, Act::GELU_TANH, Act::RELU})
        both([&](const Kernels& k, std::vector<float>& y) { k.activate(act, x.data(), w.data(), n, y.data()); });
      both([&](const Kernels& k, std::vector<float>& y) { k.add(y.data(), w.data(), n); });
      both([&](const Kernels& k, std::vector<float>& y) { k.add_scaled(y.data(), w.data(), 0.3f, n); });
      both([&](const Kernels& k, std::vector<float>& y) { k.multiply(y.data(), 0.3f, n); });
      both([&](const Kernels& k, std::vector<float>& y) { k.softcap(y.data(), 0.7f, n); });
      if (n % 2 == 0)
        both([&](const Kernels& k, std::vector<float>& y) { k.rotate(y.data(), {n, w.data(), b.data()}); });
    });
  }
}

namespace {

constexpr KvDtype kAllDtypes[] = {KvDtype::BF16, KvDtype::F16, KvDtype::F32};

struct Past {  // pages of one head
  KvDtype dtype;
  size_t block;  // bytes of a page's keys
  std::vector<std::vector<float>> keys, values;
  std::vector<std::vector<uint8_t>> memory;
  std::vector<const uint8_t*> pages;
  Past(const Kernels& kernels, KvDtype kv, int positions, int head_dim, check::Random& random)
      : dtype(kv), block(size_t(kPage * head_dim) * info(kv).bytes) {
    memory.resize(size_t(positions + kPage - 1) / kPage, std::vector<uint8_t>(2 * block));
    for (int p = 0; p < positions; ++p) {
      keys.push_back(random.numbers(size_t(head_dim))), values.push_back(random.numbers(size_t(head_dim)));
      uint8_t* page = memory[size_t(p / kPage)].data();
      CHECK(kernels.store_key[int(dtype)](keys.back().data(), head_dim, page, p % kPage));
      CHECK(kernels.store_value[int(dtype)](values.back().data(), head_dim, page + block, p % kPage));
    }
    for (auto& page : memory) pages.push_back(page.data());
  }
};

struct Case {
  int head_dim, group, queries, past, window;
  float softcap;
};
constexpr Case kCases[] = {{64, 3, 20, 0, 0, 0},     {64, 1, 40, 300, 0, 0}, {20, 4, 9, 40, 0, 5.0f},
                           {128, 7, 5, 250, 100, 0}, {8, 2, 3, 600, 270, 0}, {6, 1, 1, 0, 0, 0}};

std::vector<float> attend(const Kernels& kernels, const Case& c, const Past& past, const std::vector<float>& q,
                          int first_query, int queries) {
  size_t width = size_t(c.group) * size_t(c.head_dim);
  std::vector<float> out(size_t(queries) * width), stats(size_t(queries) * size_t(c.group) * 2);
  AttentionTask task{};
  task.q = q.data() + size_t(first_query) * width, task.q_stride = width, task.num_queries = queries;
  task.group = c.group, task.head_dim = c.head_dim, task.first_position = c.past + first_query, task.window = c.window;
  task.scale = 0.2f, task.softcap = c.softcap, task.pages = past.pages.data();
  task.value_offset = past.block;
  int64_t last = task.first_position + queries - 1;
  task.chunk_begin = c.window ? int(std::max<int64_t>(0, task.first_position - c.window + 1) / kChunk) : 0;
  task.chunk_end = int(last / kChunk) + 1;
  task.out = out.data(), task.out_stride = width, task.stats = stats.data();
  kernels.attend[int(past.dtype)](task);
  for (int i = 0; i < queries * c.group; ++i)
    kernels.finish(out.data() + size_t(i) * size_t(c.head_dim), stats.data() + 2 * i, c.head_dim);
  return out;
}

}  // namespace

TEST(attention_has_the_bits_of_the_scalar_set_however_queries_are_grouped) {
  check::Random random(3);
  for (int i = 0; i < int(std::size(kCases)) * kNumKvDtypes; ++i) {
    const Case& c = kCases[i / kNumKvDtypes];
    Past past(plain(), kAllDtypes[i % kNumKvDtypes], c.past + c.queries, c.head_dim, random);
    size_t width = size_t(c.group) * size_t(c.head_dim);
    std::vector<float> q = random.numbers(size_t(c.queries) * width), want = attend(plain(), c, past, q, 0, c.queries);
    for (float x : want) CHECK(std::isfinite(x) && std::fabs(x) <= 1.0f);
    on_each_set([&](const Kernels& kernels) {
      CHECK(same(attend(kernels, c, past, q, 0, c.queries), want));
      for (int i = 0; i < c.queries; ++i) {
        std::vector<float> one(want.begin() + long(size_t(i) * width), want.begin() + long(size_t(i + 1) * width));
        CHECK(same(attend(kernels, c, past, q, i, 1), one));
      }
    });
  }
}

// Against the definition in float64, over pages as they were before rounding: half a unit of the dtype for each key and
// value. A score moves by at most sum |q k| u, a weight by that twice (its own and the total's), a result by |v| <= 1.
TEST(attention_is_as_near_as_the_dtype_allows) {
  check::Random random(8);
  const Case c{20, 2, 3, 90, 60, 0};
  for (KvDtype dtype : kAllDtypes) {
    const double unit = dtype == KvDtype::BF16 ? 0x1p-9 : dtype == KvDtype::F16 ? 0x1p-12 : 0x1p-25;
    Past past(plain(), dtype, c.past + c.queries, c.head_dim, random);
    std::vector<float> q = random.numbers(size_t(c.queries * c.group * c.head_dim));
    std::vector<float> got = attend(plain(), c, past, q, 0, c.queries);
    for (int i = 0; i < c.queries * c.group; ++i) {
      const int last = c.past + i / c.group, begin = last - c.window + 1;
      std::vector<double> weights, want(size_t(c.head_dim));
      double total = 0, moved = 0;
      for (int p = begin; p <= last; ++p) {
        double score = 0, size = 0;
        for (int d = 0; d < c.head_dim; ++d) {
          double product = double(q[size_t(i * c.head_dim + d)]) * past.keys[size_t(p)][size_t(d)];
          score += product, size += std::fabs(product);
        }
        weights.push_back(std::exp(score * double(0.2f)));
        total += weights.back(), moved = std::max(moved, size * 0.2 * unit);
      }
      // and float32's own: each of 20 products, 16 lanes' sums, exp's 2 ulp, 60 weights and products
      const double allowed = unit + 2 * moved + 0x1p-24 * (2 * 0.2 * c.head_dim * c.head_dim + 4 + 2 * c.window);
      for (int d = 0; d < c.head_dim; ++d) {
        for (int p = begin; p <= last; ++p) want[size_t(d)] += weights[size_t(p - begin)] / total * past.values[size_t(p)][size_t(d)];
        CHECK(std::fabs(got[size_t(i * c.head_dim + d)] - want[size_t(d)]) <= allowed);
      }
    }
  }
}

TEST(a_key_that_is_not_a_number_is_seen_by_who_reads_it_and_nobody_else) {
  check::Random random(9);
  const Case c{16, 1, 20, 0, 0, 0};
  const std::vector<float> key(size_t(c.head_dim), NAN);
  for (KvDtype dtype : kAllDtypes)
    for (int position : {0, 1, 7, 8, 15, 16, 19}) {
      Past past(plain(), dtype, c.queries, c.head_dim, random);
      std::vector<float> q = random.numbers(size_t(c.queries * c.head_dim));
      plain().store_key[int(dtype)](key.data(), c.head_dim, past.memory[size_t(position / kPage)].data(), position % kPage);
      on_each_set([&](const Kernels& kernels) {
        std::vector<float> got = attend(kernels, c, past, q, 0, c.queries);
        for (int i = 0; i < c.queries * c.head_dim; ++i)
          CHECK(std::isnan(got[size_t(i)]) == (i / c.head_dim >= position));
      });
    }
}

TEST(keys_and_values_are_stored_alike) {
  check::Random random(4);
  std::vector<float> x = random.numbers(40);
  x[3] = NAN, x[5] = INFINITY, x[7] = 1e-40f, x[9] = 6.1e-5f, x[11] = -0.0f, x[13] = 65504.0f, x[15] = 2.98e-8f;
  x[17] = 2.99e-8f, x[19] = -5.9e-8f, x[21] = 1.0f + 0x1p-11f, x[23] = 1.0f + 3 * 0x1p-11f, x[39] = 65519.9f;
  for (KvDtype dtype : kAllDtypes) {
    const size_t bytes = 40 * kPage * info(dtype).bytes;
    const int kv = int(dtype);
    on_each_set([&](const Kernels& kernels) {
      std::vector<uint8_t> want(bytes), got(bytes);
      CHECK(plain().store_key[kv](x.data(), 40, want.data(), 7) && kernels.store_key[kv](x.data(), 40, got.data(), 7));
      CHECK(want == got);
      CHECK(plain().store_value[kv](x.data(), 40, want.data(), 3) && kernels.store_value[kv](x.data(), 40, got.data(), 3));
      CHECK(want == got);
    });
  }
}

// Every float16 number, the middle to the next one and the numbers beside that: to nearest, ties to even.
TEST(float16_is_rounded_as_the_standard_says) {
  std::vector<float> x;
  std::vector<uint16_t> want;
  for (uint32_t half = 0; half < 0x7bff; ++half) {
    float at = half_to_float(uint16_t(half)), middle = (at + half_to_float(uint16_t(half + 1))) / 2;
    x.insert(x.end(), {at, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e6f), -middle});
    uint16_t even = uint16_t(half + (half & 1));
    want.insert(want.end(), {uint16_t(half), even, uint16_t(half), uint16_t(half + 1), uint16_t(even | 0x8000)});
  }
  std::vector<uint16_t> got(x.size() * kPage);
  on_each_set([&](const Kernels& kernels) {
    CHECK(kernels.store_value[int(KvDtype::F16)](x.data(), int(x.size()), reinterpret_cast<uint8_t*>(got.data()), 0));
    CHECK(std::equal(want.begin(), want.end(), got.begin()));
  });
}

// No finite number becomes infinity unsaid, whatever stands beside it; infinity and NaN that were there go on.
TEST(what_a_page_cannot_hold_is_told) {
  const float inf = INFINITY;
  struct Lost {
    KvDtype dtype;
    float held, lost;
  };
  for (const Lost& each : {Lost{KvDtype::F16, std::nextafter(65520.0f, 0.0f), 65520.0f},
                           Lost{KvDtype::BF16, std::nextafter(0x1.ffp127f, 0.0f), 0x1.ffp127f},
                           Lost{KvDtype::F32, 0x1.fffffep127f, 0}})
    for (int n : {1, 15, 16, 17, 40})
      for (int place : {0, n / 2, n - 1})
        for (float beside : {0.5f, inf, NAN})
          for (float sign : {1.0f, -1.0f}) on_each_set([&](const Kernels& kernels) {
            const int kv = int(each.dtype);
            std::vector<float> x(size_t(n), beside);
            std::vector<uint8_t> page(size_t(n) * kPage * info(each.dtype).bytes);
            x[size_t(place)] = sign * each.held;
            CHECK(kernels.store_key[kv](x.data(), n, page.data(), 1));
            CHECK(kernels.store_value[kv](x.data(), n, page.data(), 1));
            x[size_t(place)] = sign * each.lost;
            CHECK(kernels.store_key[kv](x.data(), n, page.data(), 1) == (each.lost == 0));
            CHECK(kernels.store_value[kv](x.data(), n, page.data(), 1) == (each.lost == 0));
          });
}

TEST(a_set_that_is_not_there_is_refused_in_words) {
  CHECK_THROWS(find_kernels("altivec"), "must be one of");
  for (const InstructionSet& set : instruction_sets())
    if (!set.is_usable) CHECK_THROWS(find_kernels(set.name), set.needs);
}
