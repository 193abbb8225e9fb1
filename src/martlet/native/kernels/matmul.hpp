// y = W x for every packed kind, M rows of x at a time: quants are multiplied as integers, each block's sum is exact,
//
//   y[r] = sum over blocks b of  d[r,b] s[b] (sum_k (q[r,k] - offset) a[k])  +  min[r,b] s[b] sum_k a[k]
//
// and blocks are added in the order of the columns, so a result does not depend on M, on threads or on the machine.
// Quants are unsigned because the instructions want them so. A tile is 16 rows of W by M of x: its integer sums stay in
// registers while the quants are unpacked, once for all M.
#pragma once

template <int V> struct Int {
  static constexpr int value = V;
};

template <class Do> INLINE void four(Do&& f) { f(Int<0>{}), f(Int<1>{}), f(Int<2>{}), f(Int<3>{}); }

// Quants of a block: calls f(quad, bytes) for its eight quads.
struct FourBits {
  static constexpr int bytes = 256, largest = 15;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    four([&](auto v) INLINED {
      u8 both = load_bytes(p + 64 * v.value);
      f(v.value, low_nibbles(both));
      f(v.value + 4, high_nibbles(both));
    });
  }
};
struct Iq4 {
  static constexpr int bytes = 256, largest = 255;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    FourBits::quads(p, [&](int quad, u8 nibbles) INLINED { f(quad, look_up(nibbles, kIq4Values)); });
  }
};
struct FiveBits {
  static constexpr int bytes = 320, largest = 31;
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
struct SixBits {  // in the order of the quads: a half of the block after the other
  static constexpr int bytes = 384, largest = 63;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    u8 first = load_bytes(p + 256);
    four([&](auto v) INLINED {
      constexpr int V = decltype(v)::value;
      f(V, sixth_bits<V>(low_nibbles(load_bytes(p + 64 * V)), first));
    });
    u8 second = load_bytes(p + 320);
    four([&](auto v) INLINED {
      constexpr int V = decltype(v)::value;
      f(V + 4, sixth_bits<V>(high_nibbles(load_bytes(p + 64 * V)), second));
    });
  }
};
struct EightBits {
  static constexpr int bytes = 512, largest = 255;
  template <class F> static INLINE void quads(const uint8_t* p, F&& f) {
    four([&](auto v) INLINED {
      f(2 * v.value, load_bytes(p + 128 * v.value));
      f(2 * v.value + 1, load_bytes(p + 128 * v.value + 64));
    });
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

// M rows of x from `row` on: block by block, four rows beside each other (see Activations).
template <class F, int M> struct Taken {
  static constexpr int kFours = (M + 3) / 4;
  const int8_t* q[kFours];
  const float *scale[kFours], *sum[kFours];
  const int32_t* sums[2][kFours];  // of a block's q8 and its first half's; or what F's offset takes off, of each half

  INLINE Taken(const Activations& x, int row) {
#ifdef MARTLET_SUMS_IN_16
    const int32_t* const planes[2] = {x.total, x.half};
#else
    constexpr size_t which = F::offset == 16 ? 1 : F::offset == 128 ? 2 : F::offset == 32 ? 3 : 0;
    static_assert(F::offset == 0 || F::offset == 8 || which > 0);
    const int32_t* const planes[2] = {x.minus + which * x.plane, x.minus + (which + 1) * x.plane};
#endif
    for (int i = 0; i < kFours; ++i) {
      size_t at = x.block_of(row + 4 * i, 0);
      q[i] = x.q8 + at * kBlock, scale[i] = x.scale + at, sum[i] = x.sum + at;
      sums[0][i] = planes[0] + at, sums[1][i] = planes[1] + at;
    }
  }
  INLINE void next() {
    for (int i = 0; i < kFours; ++i)
      q[i] += 4 * kBlock, scale[i] += 4, sum[i] += 4, sums[0][i] += 4, sums[1][i] += 4;
  }
  INLINE const int8_t* quad(int m, int quad) const { return q[m / 4] + m % 4 * kBlock + 4 * quad; }
  INLINE int32_t of_block(int m) const { return sums[0][m / 4][m % 4]; }
  INLINE int32_t of_half(int m) const { return sums[1][m / 4][m % 4]; }
};

#ifdef MARTLET_SUMS_IN_16
// Sums of products in 16 bits while they cannot overflow (128 times `largest`, two to a number), then in 32. Quants of
// eight bits are taken without their offset, as size and sign: 128 * 127, two to a number, fits, and is widened at once.
template <class F, int M> INLINE void block_sums(const uint8_t* p, const Taken<F, M>& x, i32 (&sums)[M]) {
  if constexpr (F::largest > 63) {
    static_assert(F::offset == 128);
    for (int m = 0; m < M; ++m) sums[m] = iset1(0);
    F::quads(p, [&](int quad, u8 w) INLINED {
      u8 number = without_offset(w), size = sizes_of(number);
      for (int m = 0; m < M; ++m) {
        sums[m] = iadd(sums[m], multiply_pairs(multiply_bytes(size, with_signs(x.quad(m, quad), number)), set1_i16(1)));
        settle(sums[m]);
      }
    });
    return;
  }
  constexpr int kTogether16 = 128 / (F::largest + 1);
  [[maybe_unused]] i16 scales[2];
  if constexpr (F::halved)
    scales[0] = pairs_of_i8((const int8_t*)p + F::bytes), scales[1] = pairs_of_i8((const int8_t*)p + F::bytes + 16);
  i16 part[M];
  int count = 0;
  F::quads(p, [&](int quad, u8 w) INLINED {
    for (int m = 0; m < M; ++m) {
      i16 products = multiply_bytes(w, bytes_of(x.quad(m, quad)));
      part[m] = count % kTogether16 ? add_i16(part[m], products) : products;
      settle(part[m]);
    }
    if (++count % kTogether16 == 0) {
      const bool is_first = count == kTogether16;
      for (int m = 0; m < M; ++m) {
        if constexpr (F::halved) {
          i32 widened = multiply_pairs(part[m], scales[quad / 4]);
          sums[m] = is_first ? widened : iadd(sums[m], widened);
        } else {
          i32 widened = multiply_pairs(part[m], set1_i16(1));
          sums[m] = iadd(is_first ? iset1(-F::offset * x.of_block(m)) : sums[m], widened);
        }
      }
    }
  });
  if constexpr (F::halved) {
    static_assert(F::offset == 32);  // a pair of -16 * half, each times the scale
    for (int m = 0; m < M; ++m) {
      int32_t half = x.of_half(m), rest = x.of_block(m) - half;
      sums[m] = iadd(sums[m], iadd(multiply_pairs(set1_i16(-16 * half), scales[0]),
                                   multiply_pairs(set1_i16(-16 * rest), scales[1])));
    }
  }
}
#else
template <class F, int M> INLINE void block_sums(const uint8_t* p, const Taken<F, M>& x, i32 (&sums)[M]) {
  if constexpr (F::halved) {  // each half of the block has its own integer scale
    i32 second[M];
    static_assert(F::offset == 32);
    for (int m = 0; m < M; ++m) sums[m] = iset1(x.of_block(m)), second[m] = iset1(x.of_half(m));
    F::quads(p, [&](int quad, u8 w) INLINED {
      for (int m = 0; m < M; ++m) {
        i32& sum = quad < 4 ? sums[m] : second[m];
        sum = dot(sum, w, x.quad(m, quad));
      }
    });
    i32 scale1 = load_i8((const int8_t*)p + F::bytes), scale2 = load_i8((const int8_t*)p + F::bytes + 16);
    for (int m = 0; m < M; ++m) sums[m] = iadd(imul(sums[m], scale1), imul(second[m], scale2));
  } else {
    for (int m = 0; m < M; ++m) sums[m] = iset1(F::offset ? x.of_block(m) : 0);
    F::quads(p, [&](int quad, u8 w) INLINED {
      for (int m = 0; m < M; ++m) sums[m] = dot(sums[m], w, x.quad(m, quad));
    });
  }
}
#endif

template <class F, int M> struct Quantized {
  // Fetched ahead in the page that the processor reads already: from further on memory gives a tenth less.
  static constexpr int ahead = 1024;

  static INLINE void tile(const uint8_t* p, int k, const Activations& x, int row, float* y, size_t y_stride) {
    Taken<F, M> rows(x, row);
    const int blocks = k / kBlock;
    f32 acc[M];
    for (int m = 0; m < M; ++m) acc[m] = zero();
    typename F::Super super = F::open(p);
    for (int b = 0; b < blocks; ++b) {
      if (F::header && b % (kSuperBlock / kBlock) == 0) super = F::open(p), p += F::header;
      if constexpr (M == 1)
        for (int line = 0; line < F::block_bytes; line += 64) prefetch(p + line + ahead);
      i32 sums[M];
      block_sums<F, M>(p, rows, sums);
      f32 scale = F::scale(p, super);
      for (int m = 0; m < M; ++m)
        acc[m] = fma(to_f32(sums[m]), mul(scale, set1(rows.scale[m / 4][m % 4])), acc[m]);
      if constexpr (F::has_min) {
        f32 minimum = F::minimum(p, super);
        for (int m = 0; m < M; ++m) acc[m] = fma(minimum, set1(rows.sum[m / 4][m % 4]), acc[m]);
      }
      p += F::block_bytes;
      rows.next();
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
