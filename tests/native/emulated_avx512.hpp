// The AVX-512 instructions that simd/avx512.hpp uses, in plain code after Intel's manual: its kernels are tested on any
// machine with AVX2. Included before them; the names of the intrinsics become those below.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace emulated {

// GCC and Clang have the types, as plain vectors, without the instructions.
template <class To, class From> inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
template <class Lane, int N = 64 / int(sizeof(Lane))> struct Lanes {
  Lane v[N];
};
using Ints = Lanes<int32_t>;
using Words = Lanes<uint16_t>;
using Bytes = Lanes<uint8_t>;

template <class F> inline __m512 floats(F&& f) {
  Lanes<float> r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return bits_of<__m512>(r);
}
template <class Lane, class F> inline __m512i lanes(F&& f) {
  Lanes<Lane> r;
  for (int i = 0; i < 64 / int(sizeof(Lane)); ++i) r.v[i] = Lane(f(i));
  return bits_of<__m512i>(r);
}

inline __m512 set1_ps(float x) { return floats([&](int) { return x; }); }
inline __m512 setzero_ps() { return set1_ps(0.0f); }
inline __m512 loadu_ps(const void* p) {
  Lanes<float> r;
  std::memcpy(&r, p, 64);
  return bits_of<__m512>(r);
}
inline __m512 maskz_loadu_ps(__mmask16 m, const float* p) { return floats([&](int i) { return m >> i & 1 ? p[i] : 0.0f; }); }
inline void storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, 64); }
inline void mask_storeu_ps(float* p, __mmask16 m, __m512 a) {
  for (int i = 0; i < 16; ++i)
    if (m >> i & 1) p[i] = a[i];
}
inline __m512 add_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] + b[i]; }); }
inline __m512 sub_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] - b[i]; }); }
inline __m512 mul_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] * b[i]; }); }
inline __m512 div_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] / b[i]; }); }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) { return floats([&](int i) { return std::fma(a[i], b[i], c[i]); }); }
inline __m512 max_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] > b[i] ? a[i] : b[i]; }); }
inline __m512 min_ps(__m512 a, __m512 b) { return floats([&](int i) { return a[i] < b[i] ? a[i] : b[i]; }); }
inline __m512 abs_ps(__m512 a) { return floats([&](int i) { return std::fabs(a[i]); }); }
inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) {
  unsigned m = 0;
  for (int i = 0; i < 16; ++i)
    m |= unsigned(how == _CMP_LT_OQ ? a[i] < b[i] : std::isnan(a[i]) || std::isnan(b[i])) << i;  // _CMP_UNORD_Q
  return __mmask16(m);
}
inline __m512 mask_blend_ps(__mmask16 m, __m512 a, __m512 b) { return floats([&](int i) { return m >> i & 1 ? b[i] : a[i]; }); }
inline __m512 permute_ps(__m512 a, int order) { return floats([&](int i) { return a[i / 4 * 4 + (order >> i % 4 * 2 & 3)]; }); }
inline __m256 castps512_ps256(__m512 a) { return bits_of<Lanes<__m256>>(a).v[0]; }
inline __m256 extractf32x8_ps(__m512 a, int half) { return bits_of<Lanes<__m256>>(a).v[half]; }
// The intrinsic is a sequence, whose order matters to NaN: GCC's, upper halves first.
inline float reduce_max_ps(__m512 a) {
  Lanes<float> r = bits_of<Lanes<float>>(a);
  for (int width : {8, 4})
    for (int i = 0; i < width; ++i) r.v[i] = r.v[i + width] > r.v[i] ? r.v[i + width] : r.v[i];
  for (int width : {2, 1})
    for (int i = 0; i < width; ++i) r.v[i] = r.v[i] > r.v[i + width] ? r.v[i] : r.v[i + width];
  return r.v[0];
}

inline __m512i castps_si512(__m512 a) { return bits_of<__m512i>(a); }
inline __m512 castsi512_ps(__m512i a) { return bits_of<__m512>(a); }
inline __m512i loadu_si512(const void* p) { return bits_of<__m512i>(loadu_ps(p)); }
inline __m512i set1_epi32(int32_t x) { return lanes<int32_t>([&](int) { return x; }); }
inline __m512i set1_epi8(int x) { return lanes<uint8_t>([&](int) { return x; }); }
template <class F> inline __m512i on_ints(__m512i a, __m512i b, F&& f) {  // unsigned: they wrap
  auto x = bits_of<Lanes<uint32_t>>(a), y = bits_of<Lanes<uint32_t>>(b);
  return lanes<uint32_t>([&](int i) { return f(x.v[i], y.v[i]); });
}
inline __m512i add_epi32(__m512i a, __m512i b) { return on_ints(a, b, [](uint32_t x, uint32_t y) { return x + y; }); }
inline __m512i mullo_epi32(__m512i a, __m512i b) { return on_ints(a, b, [](uint32_t x, uint32_t y) { return x * y; }); }
inline __m512i and_si512(__m512i a, __m512i b) { return on_ints(a, b, [](uint32_t x, uint32_t y) { return x & y; }); }
inline __m512i slli_epi32(__m512i a, unsigned n) { return on_ints(a, a, [&](uint32_t x, uint32_t) { return x << n; }); }
inline __m512i srli_epi32(__m512i a, unsigned n) { return on_ints(a, a, [&](uint32_t x, uint32_t) { return x >> n; }); }
inline __m512i slli_epi16(__m512i a, unsigned n) {
  auto x = bits_of<Words>(a);
  return lanes<uint16_t>([&](int i) { return n > 15 ? 0 : x.v[i] << n; });
}
inline __m512i srli_epi16(__m512i a, unsigned n) {
  auto x = bits_of<Words>(a);
  return lanes<uint16_t>([&](int i) { return n > 15 ? 0 : x.v[i] >> n; });
}
inline __m512i mask_or_epi32(__m512i from, __mmask16 m, __m512i a, __m512i b) {
  auto kept = bits_of<Ints>(from), x = bits_of<Ints>(a), y = bits_of<Ints>(b);
  return lanes<int32_t>([&](int i) { return m >> i & 1 ? x.v[i] | y.v[i] : kept.v[i]; });
}
inline __m512i ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  auto x = bits_of<Bytes>(a), y = bits_of<Bytes>(b), z = bits_of<Bytes>(c);
  return lanes<uint8_t>([&](int i) {
    int r = 0;
    for (int bit = 0; bit < 8; ++bit)
      r |= (table >> ((x.v[i] >> bit & 1) << 2 | (y.v[i] >> bit & 1) << 1 | (z.v[i] >> bit & 1)) & 1) << bit;
    return r;
  });
}
inline __m512i shuffle_epi8(__m512i a, __m512i places) {
  auto x = bits_of<Bytes>(a), at = bits_of<Bytes>(places);
  return lanes<uint8_t>([&](int i) { return at.v[i] & 0x80 ? 0 : x.v[i / 16 * 16 + (at.v[i] & 15)]; });
}
inline __m512i broadcast_i32x4(__m128i a) { return bits_of<__m512i>(Lanes<__m128i>{{a, a, a, a}}); }
inline int32_t reduce_add_epi32(__m512i a) {
  uint32_t sum = 0;
  for (uint32_t x : bits_of<Lanes<uint32_t>>(a).v) sum += x;
  return int32_t(sum);
}
// Unsigned bytes of a times signed bytes of b, four to a lane; wraps.
inline __m512i dpbusd_epi32(__m512i acc, __m512i a, __m512i b) {
  auto sums = bits_of<Lanes<uint32_t>>(acc);
  auto x = bits_of<Bytes>(a);
  auto y = bits_of<Lanes<int8_t>>(b);
  return lanes<uint32_t>([&](int i) {
    int32_t four = 0;
    for (int j = 0; j < 4; ++j) four += int32_t(x.v[4 * i + j]) * y.v[4 * i + j];
    return sums.v[i] + uint32_t(four);
  });
}
// The odd product first, each addition rounded once to nearest; subnormal numbers are taken for zeros and made zeros.
inline __m512 dpbf16_ps(__m512 acc, __m512bh a, __m512bh b) {
  auto x = bits_of<Words>(a), y = bits_of<Words>(b);
  auto flushed = [](float v) { return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v; };
  auto wide = [&](uint16_t v) { return flushed(bits_of<float>(uint32_t(v) << 16)); };
  return floats([&](int i) {
    float sum = flushed(std::fma(wide(x.v[2 * i + 1]), wide(y.v[2 * i + 1]), flushed(acc[i])));
    return flushed(std::fma(wide(x.v[2 * i]), wide(y.v[2 * i]), sum));
  });
}

inline __m512i cvtps_epi32(__m512 a) { return lanes<int32_t>([&](int i) { return _mm_cvtss_si32(_mm_set_ss(a[i])); }); }
inline __m512 cvtepi32_ps(__m512i a) {
  auto x = bits_of<Ints>(a);
  return floats([&](int i) { return float(x.v[i]); });
}
template <class Narrow, class Part> inline __m512i widened(Part part) {
  auto x = bits_of<Lanes<Narrow, int(sizeof(Part) / sizeof(Narrow))>>(part);
  return lanes<int32_t>([&](int i) { return x.v[i]; });
}
inline __m512i cvtepi8_epi32(__m128i a) { return widened<int8_t>(a); }
inline __m512i cvtepu8_epi32(__m128i a) { return widened<uint8_t>(a); }
inline __m512i cvtepu16_epi32(__m256i a) { return widened<uint16_t>(a); }
template <class Part, class Narrow> inline Part narrowed(__m512i a) {  // the low bits
  auto x = bits_of<Ints>(a);
  Lanes<Narrow, 16> r;
  for (int i = 0; i < 16; ++i) r.v[i] = Narrow(x.v[i]);
  return bits_of<Part>(r);
}
inline __m128i cvtepi32_epi8(__m512i a) { return narrowed<__m128i, uint8_t>(a); }
inline __m256i cvtepi32_epi16(__m512i a) { return narrowed<__m256i, uint16_t>(a); }
inline __m512 cvtph_ps(__m256i a) {
  auto x = bits_of<Lanes<__m128i, 2>>(a);
  return bits_of<__m512>(Lanes<__m256>{{_mm256_cvtph_ps(x.v[0]), _mm256_cvtph_ps(x.v[1])}});
}
inline __m256i cvtps_ph(__m512 a, int) {  // to nearest
  auto x = bits_of<Lanes<__m256>>(a);
  return bits_of<__m256i>(Lanes<__m128i, 2>{{_mm256_cvtps_ph(x.v[0], 0), _mm256_cvtps_ph(x.v[1], 0)}});
}

}  // namespace emulated

#undef _mm512_abs_ps
#define _mm512_abs_ps emulated::abs_ps
#undef _mm512_add_epi32
#define _mm512_add_epi32 emulated::add_epi32
#undef _mm512_add_ps
#define _mm512_add_ps emulated::add_ps
#undef _mm512_and_si512
#define _mm512_and_si512 emulated::and_si512
#undef _mm512_broadcast_i32x4
#define _mm512_broadcast_i32x4 emulated::broadcast_i32x4
#undef _mm512_castps512_ps256
#define _mm512_castps512_ps256 emulated::castps512_ps256
#undef _mm512_castps_si512
#define _mm512_castps_si512 emulated::castps_si512
#undef _mm512_castsi512_ps
#define _mm512_castsi512_ps emulated::castsi512_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 emulated::cvtepi32_epi16
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8 emulated::cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#undef _mm512_cvtepi8_epi32
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#define _mm512_cvtepu8_epi32 emulated::cvtepu8_epi32
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps emulated::cvtph_ps
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emulated::cvtps_ph
#undef _mm512_div_ps
#define _mm512_div_ps emulated::div_ps
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emulated::dpbf16_ps
#undef _mm512_dpbusd_epi32
#define _mm512_dpbusd_epi32 emulated::dpbusd_epi32
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#undef _mm512_fmadd_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#undef _mm512_loadu_ps
#define _mm512_loadu_ps emulated::loadu_ps
#undef _mm512_loadu_si512
#define _mm512_loadu_si512 emulated::loadu_si512
#undef _mm512_mask_blend_ps
#define _mm512_mask_blend_ps emulated::mask_blend_ps
#undef _mm512_mask_or_epi32
#define _mm512_mask_or_epi32 emulated::mask_or_epi32
#undef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#undef _mm512_max_ps
#define _mm512_max_ps emulated::max_ps
#undef _mm512_min_ps
#define _mm512_min_ps emulated::min_ps
#undef _mm512_mul_ps
#define _mm512_mul_ps emulated::mul_ps
#undef _mm512_mullo_epi32
#define _mm512_mullo_epi32 emulated::mullo_epi32
#undef _mm512_permute_ps
#define _mm512_permute_ps emulated::permute_ps
#undef _mm512_reduce_add_epi32
#define _mm512_reduce_add_epi32 emulated::reduce_add_epi32
#undef _mm512_reduce_max_ps
#define _mm512_reduce_max_ps emulated::reduce_max_ps
#undef _mm512_set1_epi32
#define _mm512_set1_epi32 emulated::set1_epi32
#undef _mm512_set1_epi8
#define _mm512_set1_epi8 emulated::set1_epi8
#undef _mm512_set1_ps
#define _mm512_set1_ps emulated::set1_ps
#undef _mm512_setzero_ps
#define _mm512_setzero_ps emulated::setzero_ps
#undef _mm512_shuffle_epi8
#define _mm512_shuffle_epi8 emulated::shuffle_epi8
#undef _mm512_slli_epi16
#define _mm512_slli_epi16 emulated::slli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 emulated::slli_epi32
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 emulated::srli_epi16
#undef _mm512_srli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#undef _mm512_storeu_ps
#define _mm512_storeu_ps emulated::storeu_ps
#undef _mm512_sub_ps
#define _mm512_sub_ps emulated::sub_ps
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32 emulated::ternarylogic_epi32
