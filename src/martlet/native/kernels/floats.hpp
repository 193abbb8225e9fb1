// y = W x for float kinds: 64 columns are summed on their own, then added, which keeps the error of long rows small.
//
//   run[r] = sum over 64 columns c of  w[r,c] x[c], each product and addition rounded once;   y[r] = sum of runs, in order
//
// BF16's columns are taken in pairs, the odd one first: the order of the instruction vdpbf16ps. With many rows of x a run
// of W is widened to float32 once, in the first cache, and all rows of x pass over it.
#pragma once

constexpr int kRun = 64;
constexpr int kWidenFrom = 8;   // rows of x
constexpr int kWideRows = 128;  // whose 64 columns are copied together: where they lie, each is on another page

struct Singles {
  static constexpr size_t bytes = 64;  // of a column of 16 rows
  static constexpr bool is_wide = true;
  static INLINE f32 column(const uint8_t* p, int c) { return load((const float*)p + size_t(c) * 16); }
  static INLINE const float* rows(const Activations& x) { return x.f32; }
  static constexpr int padded(int k) { return k; }
};
struct Halves {
  static constexpr size_t bytes = 32;
  static constexpr bool is_wide = false;
  static INLINE f32 column(const uint8_t* p, int c) { return load_f16((const uint16_t*)p + size_t(c) * 16); }
  static INLINE const float* rows(const Activations& x) { return x.f32; }
  static constexpr int padded(int k) { return k; }
};
#ifndef MARTLET_DOT_BF16
struct Brains {  // rows of x are rounded to bf16, held as float32, odd columns before even ones as W's
  static constexpr size_t bytes = 32;
  static constexpr bool is_wide = false;
  static INLINE f32 column(const uint8_t* p, int c) {
    const uint16_t* pair = (const uint16_t*)p + size_t(c / 2) * 32;
    return c % 2 ? even_bf16(pair) : odd_bf16(pair);
  }
  static INLINE const float* rows(const Activations& x) { return x.rounded; }
  static constexpr int padded(int k) { return (k + 1) / 2 * 2; }
};
#endif

// `Runs` runs of columns, each summed on its own, for M rows of x; `w` gives column c of them.
template <int M, int Runs, class W> INLINE void runs_of(int columns, const float* const (&a)[M], f32 (&run)[Runs][M], W&& w) {
  for (int r = 0; r < Runs; ++r)
    for (int m = 0; m < M; ++m) run[r][m] = zero();
  for (int c = 0; c < columns; ++c)
    for (int r = 0; r < Runs; ++r) {
      f32 column = w(r * kRun + c);
      for (int m = 0; m < M; ++m) run[r][m] = fma(column, set1(a[m][r * kRun + c]), run[r][m]);
    }
}

// Few rows of x: an addition waits for the one before it, so several runs are summed beside each other.
template <class F, int M> INLINE void float_tile(const uint8_t* p, int k, const float* x, size_t stride, float* y,
                                                 size_t y_stride) {
  constexpr int kBeside = M == 1 ? 4 : M == 2 ? 2 : 1;
  const float* a[M];
  f32 acc[M];
  for (int m = 0; m < M; ++m) a[m] = x + size_t(m) * stride, acc[m] = zero();
  auto take = [&](int columns, auto runs) INLINED {
    f32 run[runs.value][M];
    runs_of<M, runs.value>(columns, a, run, [&](int c) INLINED {
      if (M == 1) prefetch(p + size_t(c) * F::bytes + 8192);
      return F::column(p, c);
    });
    for (int r = 0; r < runs.value; ++r)
      for (int m = 0; m < M; ++m) acc[m] = add(acc[m], run[r][m]);
    for (int m = 0; m < M; ++m) a[m] += runs.value * kRun;
    p += size_t(runs.value * kRun) * F::bytes;
  };
  int begin = 0;
  for (; begin + kBeside * kRun <= k; begin += kBeside * kRun) take(kRun, Int<kBeside>{});
  for (; begin < k; begin += kRun) take(begin + kRun < k ? kRun : k - begin, Int<1>{});
  for (int m = 0; m < M; ++m) store(y + m * y_stride, acc[m]);
}

template <int M> INLINE void wide_tile(const float* w, int columns, bool is_first, const float* x, float* y,
                                       size_t y_stride) {
  const float* a[M];
  f32 run[1][M];
  for (int m = 0; m < M; ++m) a[m] = x + m * kRun;
  runs_of<M, 1>(columns, a, run, [&](int c) INLINED { return load(w + c * 16); });
  for (int m = 0; m < M; ++m) store(y + m * y_stride, add(is_first ? zero() : load(y + m * y_stride), run[0][m]));
}

template <class F>
INLINE void float_products(const Matrix& w, int group_begin, int group_end, const Activations& x, int row_begin,
                           int row_end, float* y, size_t y_stride) {
  const int k = F::padded(w.k);
  auto of = [&](int g) INLINED { return w.data + size_t(g) * w.group_bytes(); };
  auto from = [&](int row) INLINED { return F::rows(x) + size_t(row) * x.stride; };
  auto to = [&](int g, int row) INLINED { return y + size_t(g) * kRows + size_t(row) * y_stride; };
  if (row_end - row_begin < kWidenFrom) {
    for (int g = group_begin; g < group_end; ++g) {
      int row = row_begin;
      for (; row + 4 <= row_end; row += 4) float_tile<F, 4>(of(g), k, from(row), x.stride, to(g, row), y_stride);
      if (row + 2 <= row_end) float_tile<F, 2>(of(g), k, from(row), x.stride, to(g, row), y_stride), row += 2;
      if (row < row_end) float_tile<F, 1>(of(g), k, from(row), x.stride, to(g, row), y_stride);
    }
    return;
  }
  alignas(64) float run[kRun * 16], columns_of_x[kWideRows * kRun];
  for (int first = row_begin; first < row_end; first += kWideRows) {
    const int rows = first + kWideRows < row_end ? kWideRows : row_end - first;
    for (int begin = 0; begin < k; begin += kRun) {
      const int columns = begin + kRun < k ? kRun : k - begin;
      for (int i = 0; i < rows; ++i)
        __builtin_memcpy(columns_of_x + i * kRun, from(first + i) + begin, size_t(columns) * sizeof(float));
      for (int g = group_begin; g < group_end; ++g) {
        const uint8_t* p = of(g) + size_t(begin) * F::bytes;
        const float* wide = (const float*)p;
        if constexpr (!F::is_wide) {
          for (int c = 0; c < columns; ++c) store(run + c * 16, F::column(p, c));
          wide = run;
        }
        int i = 0;
        auto tile = [&](auto m) INLINED {
          wide_tile<m.value>(wide, columns, begin == 0, columns_of_x + i * kRun, to(g, first + i), y_stride);
          i += m.value;
        };
        // of six rows and two the two would be slow: four and four
        while (i + kFloatTile <= rows && (kFloatTile != 6 || i + 8 != rows)) tile(Int<kFloatTile>{});
        while (i + 4 <= rows) tile(Int<4>{});
        while (i + 2 <= rows) tile(Int<2>{});
        if (i < rows) tile(Int<1>{});
      }
    }
  }
}

#define MATMUL(name, Form)                                                                                     \
  void matmul_##name(const Matrix& w, int g0, int g1, const Activations& x, int r0, int r1, float* y, size_t s) { \
    float_products<Form>(w, g0, g1, x, r0, r1, y, s);                                                          \
  }
MATMUL(f32, Singles)
MATMUL(f16, Halves)
#ifndef MARTLET_DOT_BF16
MATMUL(bf16, Brains)
#else
template <int M> struct Brains {
  static INLINE void tile(const uint8_t* p, int k, const Activations& x, int row, float* y, size_t y_stride) {
    const uint16_t* a[M];
    f32 acc[M];
    for (int m = 0; m < M; ++m) a[m] = x.bf16 + size_t(row + m) * x.stride, acc[m] = zero();
    for (int begin = 0; begin < k; begin += kRun) {
      f32 run[M];
      for (int m = 0; m < M; ++m) run[m] = zero();
      int end = begin + kRun < k ? begin + kRun : k;
      for (int c = begin; c < end; c += 2) {
        const uint16_t* w = (const uint16_t*)p + size_t(c) * 16;
        if (M == 1) prefetch(w + 2048);
        for (int m = 0; m < M; ++m) run[m] = dot_bf16(run[m], w, a[m] + c);
      }
      for (int m = 0; m < M; ++m) acc[m] = add(acc[m], run[m]);
    }
    for (int m = 0; m < M; ++m) store(y + m * y_stride, acc[m]);
  }
};
void matmul_bf16(const Matrix& w, int g0, int g1, const Activations& x, int r0, int r1, float* y, size_t s) {
  tiles<Brains>(w, g0, g1, x, r0, r1, y, s);
}
#endif
#undef MATMUL
