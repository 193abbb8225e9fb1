// y = W x for every packed kind, M rows of x at a time: quants are multiplied as integers, each block's sum is exact,
//
//   y[r] = sum over blocks b of  d[r,b] s[b] (sum_k (q[r,k] - offset) a[k])  +  min[r,b] s[b] sum_k a[k]
//
// and blocks are added in the order of the columns, so a result does not depend on M, on threads or on the machine.
// The offset enters through the integer sum's start; quants are unsigned because the instructions want them so.
#pragma once

template <int V> struct Int {
  static constexpr int value = V;
};

template <class Do> INLINE void four(Do&& f) { f(Int<0>{}), f(Int<1>{}), f(Int<2>{}), f(Int<3>{}); }

// Quants of a block: calls f(quad, bytes) for its eight quads.
struct FourBits {
  static constexpr int bytes = 256;
  static constexpr bool narrow = true;  // below 64
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    four([&](auto v) INLINED {
      u8 both = load_bytes(p + 64 * v.value);
      f(v.value, low_nibbles(both));
      f(v.value + 4, high_nibbles(both));
    });
  }
};
struct Iq4 {
  static constexpr int bytes = 256;
  static constexpr bool narrow = false;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    FourBits::quads(p, [&](int quad, u8 nibbles) INLINED { f(quad, look_up(nibbles, kIq4Values)); });
  }
};
struct FiveBits {
  static constexpr int bytes = 320;
  static constexpr bool narrow = true;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    u8 fifth = load_bytes(p + 256);
    four([&](auto v) INLINED {
      constexpr int V = decltype(v)::value;
      u8 both = load_bytes(p + 64 * V);
      f(V, fifth_bit<V>(low_nibbles(both), fifth));
      f(V + 4, fifth_bit<V + 4>(high_nibbles(both), fifth));
    });
  }
};
struct SixBits {
  static constexpr int bytes = 384;
  static constexpr bool narrow = true;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    u8 first = load_bytes(p + 256), second = load_bytes(p + 320);
    four([&](auto v) INLINED {
      constexpr int V = decltype(v)::value;
      u8 both = load_bytes(p + 64 * V);
      f(V, sixth_bits<V>(low_nibbles(both), first));
      f(V + 4, sixth_bits<V>(high_nibbles(both), second));
    });
  }
};
struct EightBits {
  static constexpr int bytes = 512;
  static constexpr bool narrow = false;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    for (int q = 0; q < 8; ++q) f(q, load_bytes(p + 64 * q));
  }
};

INLINE const uint16_t* halves(const uint8_t* p) { return (const uint16_t*)p; }

// What a kind adds to its quants: offset, scales, minimums. `header` bytes open each 256 columns of a K type.
template <class Q, int Offset, bool HasMin> struct Plain : Q {
  static constexpr int offset = Offset, header = 0, block_bytes = Q::bytes + (HasMin ? 64 : 32);
  static constexpr bool has_min = HasMin, halved = false;
  struct Super {};
  static INLINE Super open(const uint8_t*) { return {}; }
  static INLINE f32 scale(const uint8_t* p, const Super&) { return load_f16(halves(p + Q::bytes)); }
  static INLINE f32 minimum(const uint8_t* p, const Super&) { return load_f16(halves(p + Q::bytes + 32)); }
};
template <class Q> struct WithMins : Q {  // Q4_K, Q5_K: d * sc * q - dmin * m
  static constexpr int offset = 0, header = 64, block_bytes = Q::bytes + 32;
  static constexpr bool has_min = true, halved = false;
  struct Super {
    f32 scale, minus_min;
  };
  static INLINE Super open(const uint8_t* p) {
    return {load_f16(halves(p)), sub(zero(), load_f16(halves(p + 32)))};
  }
  static INLINE f32 scale(const uint8_t* p, const Super& s) { return mul(s.scale, to_f32(load_u8(p + Q::bytes))); }
  static INLINE f32 minimum(const uint8_t* p, const Super& s) {
    return mul(s.minus_min, to_f32(load_u8(p + Q::bytes + 16)));
  }
};
struct Q6K : SixBits {
  static constexpr int offset = 32, header = 32, block_bytes = 384 + 32;
  static constexpr bool has_min = false, halved = true;
  struct Super {
    f32 scale;
  };
  static INLINE Super open(const uint8_t* p) { return {load_f16(halves(p))}; }
  static INLINE f32 scale(const uint8_t*, const Super& s) { return s.scale; }
  static INLINE f32 minimum(const uint8_t*, const Super&) { return zero(); }
};
struct Iq4Xs : Iq4 {
  static constexpr int offset = 128, header = 32, block_bytes = 256 + 16;
  static constexpr bool has_min = false, halved = false;
  struct Super {
    f32 scale;
  };
  static INLINE Super open(const uint8_t* p) { return {load_f16(halves(p))}; }
  static INLINE f32 scale(const uint8_t* p, const Super& s) {
    return mul(s.scale, to_f32(load_i8((const int8_t*)p + 256)));
  }
  static INLINE f32 minimum(const uint8_t*, const Super&) { return zero(); }
};

struct QuantizedRow {
  const int8_t* q;
  const float* scale;
  const int32_t *total, *half;
};

template <class F> INLINE i32 dot_of(i32 acc, u8 w, const int8_t* a) {
  if constexpr (F::narrow)
    return dot6(acc, w, a);
  else
    return dot(acc, w, a);
}

template <class F, int M> struct Quantized {
  static INLINE void tile(const uint8_t* p, int k, const Activations& x, int row, float* y, size_t y_stride) {
    QuantizedRow rows[M];
    const int blocks = k / kBlock, all = x.stride / kBlock;
    for (int m = 0; m < M; ++m) {
      size_t place = size_t(row + m);
      rows[m] = {x.q8 + place * x.stride, x.scale + place * all, x.total + place * all, x.half + place * all};
    }
    f32 acc[M];
    for (int m = 0; m < M; ++m) acc[m] = zero();
    typename F::Super super = F::open(p);
    for (int b = 0; b < blocks; ++b) {
      if (F::header && b % (kSuperBlock / kBlock) == 0) super = F::open(p), p += F::header;
      if constexpr (M == 1)
        for (int line = 0; line < F::block_bytes; line += 64) prefetch(p + line + 4096);
      i32 sums[M];
      integer_sums(p, b, rows, sums);
      f32 scale = F::scale(p, super);
      for (int m = 0; m < M; ++m) acc[m] = fma(to_f32(sums[m]), mul(scale, set1(rows[m].scale[b])), acc[m]);
      if constexpr (F::has_min) {
        f32 minimum = F::minimum(p, super);
        for (int m = 0; m < M; ++m)
          acc[m] = fma(minimum, set1(rows[m].scale[b] * float(rows[m].total[b])), acc[m]);
      }
      p += F::block_bytes;
    }
    for (int m = 0; m < M; ++m) store(y + m * y_stride, acc[m]);
  }

  static INLINE void integer_sums(const uint8_t* p, int b, const QuantizedRow (&rows)[M], i32 (&sums)[M]) {
    if constexpr (F::halved) {  // each half of the block has its own integer scale
      i32 second[M];
      for (int m = 0; m < M; ++m) {
        sums[m] = iset1(-F::offset * rows[m].half[b]);
        second[m] = iset1(-F::offset * (rows[m].total[b] - rows[m].half[b]));
      }
      F::quads(p, [&](int quad, u8 w) INLINED {
        for (int m = 0; m < M; ++m) {
          i32& sum = quad < 4 ? sums[m] : second[m];
          sum = dot_of<F>(sum, w, rows[m].q + b * kBlock + 4 * quad);
        }
      });
      i32 scale1 = load_i8((const int8_t*)p + F::bytes), scale2 = load_i8((const int8_t*)p + F::bytes + 16);
      for (int m = 0; m < M; ++m) sums[m] = iadd(imul(sums[m], scale1), imul(second[m], scale2));
    } else {
      for (int m = 0; m < M; ++m) sums[m] = iset1(-F::offset * rows[m].total[b]);
      F::quads(p, [&](int quad, u8 w) INLINED {
        for (int m = 0; m < M; ++m) sums[m] = dot_of<F>(sums[m], w, rows[m].q + b * kBlock + 4 * quad);
      });
    }
  }
};

// Float kinds: 64 columns are summed on their own, then added, which keeps the error of long rows small.
constexpr int kRun = 64;

template <bool IsHalf, int M> struct Floats {
  static INLINE void tile(const uint8_t* p, int k, const Activations& x, int row, float* y, size_t y_stride) {
    const float* a[M];
    f32 acc[M];
    for (int m = 0; m < M; ++m) a[m] = x.f32 + size_t(row + m) * x.stride, acc[m] = zero();
    for (int begin = 0; begin < k; begin += kRun) {
      f32 run[M];
      for (int m = 0; m < M; ++m) run[m] = zero();
      int end = begin + kRun < k ? begin + kRun : k;
      for (int c = begin; c < end; ++c) {
        f32 w = IsHalf ? load_f16((const uint16_t*)p + size_t(c) * 16) : load((const float*)p + size_t(c) * 16);
        for (int m = 0; m < M; ++m) run[m] = fma(w, set1(a[m][c]), run[m]);
      }
      for (int m = 0; m < M; ++m) acc[m] = add(acc[m], run[m]);
    }
    for (int m = 0; m < M; ++m) store(y + m * y_stride, acc[m]);
  }
};

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

template <template <int> class T>
INLINE void tiles(const Matrix& w, int group_begin, int group_end, const Activations& x, int row_begin, int row_end,
                  float* y, size_t y_stride) {
  for (int g = group_begin; g < group_end; ++g) {
    const uint8_t* p = w.data + size_t(g) * w.group_bytes();
    float* out = y + size_t(g) * kRows;
    int row = row_begin;
    for (; row + kMaxTile <= row_end; row += kMaxTile)
      T<kMaxTile>::tile(p, w.k, x, row, out + size_t(row) * y_stride, y_stride);
    if (kMaxTile > 4 && row + 4 <= row_end) T<4>::tile(p, w.k, x, row, out + size_t(row) * y_stride, y_stride), row += 4;
    if (row + 2 <= row_end) T<2>::tile(p, w.k, x, row, out + size_t(row) * y_stride, y_stride), row += 2;
    if (row < row_end) T<1>::tile(p, w.k, x, row, out + size_t(row) * y_stride, y_stride);
  }
}

#define MATMUL(name, ...)                                                                                      \
  template <int M> using Tile##name = __VA_ARGS__;                                                             \
  void matmul_##name(const Matrix& w, int g0, int g1, const Activations& x, int r0, int r1, float* y, size_t s) { \
    tiles<Tile##name>(w, g0, g1, x, r0, r1, y, s);                                                             \
  }
using FormatQ8_0 = Plain<EightBits, 128, false>;
using FormatQ4_0 = Plain<FourBits, 8, false>;
using FormatQ4_1 = Plain<FourBits, 0, true>;
using FormatQ5_0 = Plain<FiveBits, 16, false>;
using FormatQ5_1 = Plain<FiveBits, 0, true>;
using FormatIQ4_NL = Plain<Iq4, 128, false>;
MATMUL(f32, Floats<false, M>)
MATMUL(f16, Floats<true, M>)
MATMUL(bf16, Brains<M>)
MATMUL(q8_0, Quantized<FormatQ8_0, M>)
MATMUL(q4_0, Quantized<FormatQ4_0, M>)
MATMUL(q4_1, Quantized<FormatQ4_1, M>)
MATMUL(q5_0, Quantized<FormatQ5_0, M>)
MATMUL(q5_1, Quantized<FormatQ5_1, M>)
MATMUL(iq4_nl, Quantized<FormatIQ4_NL, M>)
MATMUL(q4_k, Quantized<WithMins<FourBits>, M>)
MATMUL(q5_k, Quantized<WithMins<FiveBits>, M>)
MATMUL(q6_k, Quantized<Q6K, M>)
MATMUL(iq4_xs, Quantized<Iq4Xs, M>)
#undef MATMUL
