// What each kernel reaches on one core: Gop/s of matrix products by kind and number of rows, of attention, and rows a
// second of what stands between. Times are of this thread's processor time, so that other processes disturb little.
//
//   kernels [set] [kind ...]       e.g. kernels avx2 Q4_1 Q8_0
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "graph/step.hpp"
#include "measure/peaks.hpp"
#include "quant/pack.hpp"
#include "simd/cpu.hpp"

using namespace martlet;

namespace {

double seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// The median of seven runs, each long enough to be measured.
double time_of(const std::function<void()>& run) {
  run();
  double begin = seconds();
  run();
  int repeats = std::max(1, int(0.01 / std::max(seconds() - begin, 1e-7)));
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    begin = seconds();
    for (int r = 0; r < repeats; ++r) run();
    times.push_back((seconds() - begin) / repeats);
  }
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  return times[3];
}

std::mt19937 bits(1);
float number() { return float(bits() % 20001) / 10000.0f - 1.0f; }

std::shared_ptr<Packed> random_matrix(Kind kind, int n, int k) {
  auto packed = std::make_shared<Packed>(make_packed(kind, n, k));
  std::vector<uint8_t> row(size_t(k) / size_t(info(kind).columns) * info(kind).source_bytes);
  for (int r = 0; r < n; ++r) {
    for (auto& byte : row) byte = uint8_t(bits()) & 0x3f;  // no exponent of ones: all numbers finite
    pack_row(*packed, r, row.data());
  }
  return packed;
}

struct Rows {
  Buffer<float> x, rounded, scale, sum;
  Buffer<uint16_t> bf16;
  Buffer<int8_t> q8;
  Buffer<int32_t> total, half, minus;
  Activations in;
  Rows(const Kernels& kernels, int count, int k) {
    in.stride = (k + kBlock - 1) / kBlock * kBlock;
    size_t size = size_t((count + 3) / 4 * 4) * size_t(in.stride);
    in.f32 = x.reserve(size), in.q8 = q8.reserve(size), in.sum = sum.reserve(size / kBlock);
    if (kernels.multiplies_bf16) in.bf16 = bf16.reserve(size);
    else in.rounded = rounded.reserve(size);
    in.scale = scale.reserve(size / kBlock), in.plane = size / kBlock;
    if (kernels.sums_in_16)
      in.total = total.reserve(in.plane), in.half = half.reserve(in.plane);
    else
      in.minus = minus.reserve(in.plane * kMinus);
    for (size_t i = 0; i < size; ++i) in.f32[i] = number();
    for (int r = 0; r < count; ++r) kernels.prepare(in.f32 + size_t(r) * size_t(in.stride), k, in, r, 0, in.stride / kBlock);
  }
};

void products(const Kernels& kernels, Kind kind) {
  constexpr int n = 576, k = 1536;
  auto packed = random_matrix(kind, n, k);
  std::printf("%-8s", info(kind).name);
  for (int m : {1, 2, 4, 8, 16, 128}) {
    Rows rows(kernels, m, k);
    std::vector<float> y(size_t(m) * n);
    double t = time_of([&] {
      kernels.matmul[int(kind)](packed->matrix, 0, packed->matrix.groups(), rows.in, 0, m, y.data(), n);
    });
    std::printf(" %8.1f", 2e-9 * n * k * m / t);
    if (m == 1) std::printf(" (%5.1f GB/s)", 1e-9 * double(packed->bytes) / t);
  }
  std::printf("\n");
}

void attention(const Kernels& kernels, KvDtype dtype, int head_dim, int group, int past, int queries) {
  const int positions = past + queries, pages = (positions + kPage - 1) / kPage;
  const size_t block = size_t(kPage * head_dim) * info(dtype).bytes;
  std::vector<std::vector<uint8_t>> memory(size_t(pages), std::vector<uint8_t>(2 * block));
  std::vector<float> row(static_cast<size_t>(head_dim));
  std::vector<const uint8_t*> table;
  for (auto& page : memory) {
    for (int slot = 0; slot < kPage; ++slot) {
      for (auto& v : row) v = number();
      kernels.store_key[int(dtype)](row.data(), head_dim, page.data(), slot);
      kernels.store_value[int(dtype)](row.data(), head_dim, page.data() + block, slot);
    }
    table.push_back(page.data());
  }
  size_t width = size_t(group) * size_t(head_dim);
  std::vector<float> q(size_t(queries) * width), out(q.size()), stats(size_t(queries) * size_t(group) * 2);
  for (auto& v : q) v = number();
  double operations = 0;
  for (int i = 0; i < queries; ++i) operations += 4.0 * group * head_dim * (past + i + 1);
  double t = time_of([&] {
    for (int i = 0; i < queries; i += 8) {
      AttentionTask task{};
      task.q = q.data() + size_t(i) * width, task.q_stride = width;
      task.num_queries = std::min(8, queries - i), task.group = group, task.head_dim = head_dim;
      task.first_position = past + i, task.scale = 0.125f, task.pages = table.data();
      task.value_offset = block;
      task.chunk_end = (past + i + task.num_queries - 1) / kChunk + 1;
      task.out = out.data() + size_t(i) * width, task.out_stride = width, task.stats = stats.data();
      kernels.attend[int(dtype)](task);
    }
  });
  std::printf("%-8s %d queries of %d heads of %d over %d positions: %.1f Gop/s\n", info(dtype).name, queries, group, head_dim, positions,
              1e-9 * operations / t);
}

void rows(const Kernels& kernels) {
  constexpr int n = 1536;
  Rows r(kernels, 1, n);
  std::vector<float> x(n), w(n, 1.0f), y(n);
  for (auto& v : x) v = number();
  auto line = [&](const char* name, const std::function<void()>& run) {
    std::printf("%-12s %7.2f Gnumbers/s\n", name, 1e-9 * n / time_of([&] { for (int i = 0; i < 100; ++i) run(); }) * 100);
  };
  Activations q8 = r.in;
  q8.bf16 = nullptr, q8.rounded = nullptr;
  line("quantise", [&] { kernels.prepare(x.data(), n, q8, 0, 0, q8.stride / kBlock); });
  line("norm", [&] { kernels.norm(NormKind::RMS, x.data(), w.data(), nullptr, 1e-5f, n, y.data()); });
  line("silu gate", [&] { kernels.activate(Act::SILU, x.data(), w.data(), n, y.data()); });
  line("add", [&] { kernels.add_scaled(y.data(), x.data(), 1.0f, n); });
  std::vector<uint8_t> page(size_t(2 * kPage * 64 * 4));
  const int f16 = int(KvDtype::F16);
  line("store key", [&] { for (int h = 0; h < n / 64; ++h) kernels.store_key[f16](x.data() + 64 * h, 64, page.data(), h & 15); });
  line("store value", [&] { for (int h = 0; h < n / 64; ++h) kernels.store_value[f16](x.data() + 64 * h, 64, page.data(), h & 15); });
}

}  // namespace

int main(int argc, char** argv) {
  const Kernels& kernels = find_kernels(argc > 1 ? argv[1] : "");
  std::printf("set %s, one thread\n", kernels.name);
  for (const PeakLoop& loop : peak_loops(kernels.name)) {
    constexpr int64_t rounds = 100000;
    std::printf("peak %s (%s): %.1f Gop/s\n", loop.operand, loop.how,
                1e-9 * rounds * loop.operations / time_of([&] { loop.run(rounds); }));
  }
  std::printf("products, 576 x 1536, Gop/s by rows:\n%-8s %8s %13s %8s %8s %8s %8s\n", "", "1", "2", "4", "8", "16", "128");
  for (int i = 0; i < kNumKinds; ++i) {
    bool is_asked = argc < 3;
    for (int a = 2; a < argc; ++a) is_asked |= std::string(argv[a]) == kKinds[i].name;
    if (is_asked) products(kernels, Kind(i));
  }
  for (KvDtype dtype : {KvDtype::BF16, KvDtype::F16, KvDtype::F32}) {
    attention(kernels, dtype, 64, 3, 0, 512);
    attention(kernels, dtype, 64, 3, 511, 1);
    attention(kernels, dtype, 64, 3, 4095, 1);
    attention(kernels, dtype, 128, 7, 0, 512);
  }
  rows(kernels);
}
