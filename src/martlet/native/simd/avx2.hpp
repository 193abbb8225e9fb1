// Sixteen lanes as two vectors of AVX2 with FMA and F16C; AVX-VNNI where the translation unit is compiled with it.
#pragma once

struct f32 {
  __m256 l, h;
};
struct i32 {
  __m256i l, h;
};
using u8 = i32;

INLINE f32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE f32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE f32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE f32 load_part(const float* p, int n) {
  float whole[16] = {};
  for (int i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
}
INLINE void store(float* p, f32 a) { _mm256_storeu_ps(p, a.l), _mm256_storeu_ps(p + 8, a.h); }
INLINE void store_part(float* p, f32 a, int n) {
  float whole[16];
  store(whole, a);
  for (int i = 0; i < n; ++i) p[i] = whole[i];
}
INLINE f32 add(f32 a, f32 b) { return {_mm256_add_ps(a.l, b.l), _mm256_add_ps(a.h, b.h)}; }
INLINE f32 sub(f32 a, f32 b) { return {_mm256_sub_ps(a.l, b.l), _mm256_sub_ps(a.h, b.h)}; }
INLINE f32 mul(f32 a, f32 b) { return {_mm256_mul_ps(a.l, b.l), _mm256_mul_ps(a.h, b.h)}; }
INLINE f32 div(f32 a, f32 b) { return {_mm256_div_ps(a.l, b.l), _mm256_div_ps(a.h, b.h)}; }
INLINE f32 fma(f32 a, f32 b, f32 c) { return {_mm256_fmadd_ps(a.l, b.l, c.l), _mm256_fmadd_ps(a.h, b.h, c.h)}; }
INLINE f32 max(f32 a, f32 b) { return {_mm256_max_ps(a.l, b.l), _mm256_max_ps(a.h, b.h)}; }
INLINE f32 min(f32 a, f32 b) { return {_mm256_min_ps(a.l, b.l), _mm256_min_ps(a.h, b.h)}; }
INLINE f32 abs(f32 a) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.l), _mm256_andnot_ps(sign, a.h)};
}
INLINE f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return {_mm256_blendv_ps(no.l, yes.l, _mm256_cmp_ps(a.l, b.l, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.h, yes.h, _mm256_cmp_ps(a.h, b.h, _CMP_LT_OQ))};
}
INLINE i32 round_to_i32(f32 a) { return {_mm256_cvtps_epi32(a.l), _mm256_cvtps_epi32(a.h)}; }
INLINE f32 to_f32(i32 a) { return {_mm256_cvtepi32_ps(a.l), _mm256_cvtepi32_ps(a.h)}; }
INLINE float sum(f32 a) {
  __m256 h = _mm256_add_ps(a.l, a.h);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
INLINE float largest(f32 a) {
  __m256 h = _mm256_max_ps(a.l, a.h);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

INLINE i32 iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE i32 iadd(i32 a, i32 b) { return {_mm256_add_epi32(a.l, b.l), _mm256_add_epi32(a.h, b.h)}; }
INLINE i32 imul(i32 a, i32 b) { return {_mm256_mullo_epi32(a.l, b.l), _mm256_mullo_epi32(a.h, b.h)}; }
INLINE i32 load_i8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
INLINE i32 load_u8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)),
          _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
INLINE f32 scale_pow2(f32 a, i32 n) {
  i32 biased = iadd(n, iset1(127));
  return mul(a, {_mm256_castsi256_ps(_mm256_slli_epi32(biased.l, 23)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(biased.h, 23))});
}
INLINE void store_i8(int8_t* p, i32 a) {  // the low bytes
  const __m256i low = _mm256_set1_epi32(255);
  __m256i words = _mm256_packus_epi32(_mm256_and_si256(a.l, low), _mm256_and_si256(a.h, low));
  words = _mm256_permute4x64_epi64(words, 0xd8);
  __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)p, bytes);
}
INLINE int32_t isum(i32 a) {
  __m256i h = _mm256_add_epi32(a.l, a.h);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

INLINE __m256 widen_bf16(__m128i a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)); }
INLINE f32 load_bf16(const uint16_t* p) {
  return {widen_bf16(_mm_loadu_si128((const __m128i*)p)), widen_bf16(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
INLINE f32 load_bf16_parted(const uint16_t* p) {  // the even ones, then the odd ones
  __m256i both = _mm256_loadu_si256((const __m256i*)p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int32_t(0xffff0000u))))};
}
INLINE f32 in_order(f32 parted) {
  __m256 low = _mm256_unpacklo_ps(parted.l, parted.h), high = _mm256_unpackhi_ps(parted.l, parted.h);
  return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
INLINE __m256i round_to_bf16(__m256 a) {  // to nearest, ties to even; NaN stays NaN
  __m256i bits = _mm256_castps_si256(a), top = _mm256_srli_epi32(bits, 16);
  __m256i even = _mm256_and_si256(top, _mm256_set1_epi32(1));
  __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
  __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(rounded, _mm256_or_si256(top, _mm256_set1_epi32(0x40)), is_nan);
}
INLINE void store_bf16(uint16_t* p, f32 a) {
  __m256i words = _mm256_packus_epi32(round_to_bf16(a.l), round_to_bf16(a.h));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(words, 0xd8));
}
INLINE f32 swap_pairs(f32 a) { return {_mm256_permute_ps(a.l, 0xb1), _mm256_permute_ps(a.h, 0xb1)}; }
INLINE f32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
INLINE void store_f16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN, too large becomes infinity
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.l, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(a.h, _MM_FROUND_TO_NEAREST_INT));
}

INLINE u8 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
INLINE u8 iand(u8 a, __m256i b) { return {_mm256_and_si256(a.l, b), _mm256_and_si256(a.h, b)}; }
INLINE u8 ior(u8 a, u8 b) { return {_mm256_or_si256(a.l, b.l), _mm256_or_si256(a.h, b.h)}; }
template <int N> INLINE u8 shift(u8 a) {  // left by N, or right by -N, in 16-bit lanes
  if constexpr (N > 0)
    return {_mm256_slli_epi16(a.l, N), _mm256_slli_epi16(a.h, N)};
  else
    return {_mm256_srli_epi16(a.l, -N), _mm256_srli_epi16(a.h, -N)};
}
INLINE u8 low_nibbles(u8 a) { return iand(a, _mm256_set1_epi8(15)); }
INLINE u8 high_nibbles(u8 a) { return iand(shift<-4>(a), _mm256_set1_epi8(15)); }
template <int Q> INLINE u8 fifth_bit(u8 quants, u8 bits) {
  return ior(quants, iand(shift<4 - Q>(bits), _mm256_set1_epi8(16)));
}
template <int Q> INLINE u8 sixth_bits(u8 quants, u8 bits) {
  return ior(quants, iand(shift<4 - 2 * Q>(bits), _mm256_set1_epi8(48)));
}
INLINE u8 look_up(u8 nibbles, const uint8_t* table16) {
  __m256i table = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table16));
  return {_mm256_shuffle_epi8(table, nibbles.l), _mm256_shuffle_epi8(table, nibbles.h)};
}
INLINE __m256i quad_of(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return _mm256_set1_epi32(quad);
}
#ifdef __AVXVNNI__
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {
  __m256i quad = quad_of(a);
  return {_mm256_dpbusd_avx_epi32(acc.l, w.l, quad), _mm256_dpbusd_avx_epi32(acc.h, w.h, quad)};
}
#else
#define MARTLET_SUMS_IN_16
using i16 = i32;  // pairs: lanes 2i and 2i + 1 belong to lane i of an i32
INLINE i16 set1_i16(int x) { return {_mm256_set1_epi16(int16_t(x)), _mm256_set1_epi16(int16_t(x))}; }
INLINE i16 add_i16(i16 a, i16 b) { return {_mm256_add_epi16(a.l, b.l), _mm256_add_epi16(a.h, b.h)}; }
// Computed here and not where it is used: GCC holds all products of a block back to add them at once, which takes three
// times the registers there are.
INLINE void settle(i16& a) { asm("" : "+x"(a.l), "+x"(a.h)); }
INLINE i16 pairs_of_i8(const int8_t* p) {  // each of 16 numbers twice
  i32 wide = load_i8(p), low = {_mm256_and_si256(wide.l, _mm256_set1_epi32(0xffff)),
                                _mm256_and_si256(wide.h, _mm256_set1_epi32(0xffff))};
  return {_mm256_or_si256(low.l, _mm256_slli_epi32(wide.l, 16)), _mm256_or_si256(low.h, _mm256_slli_epi32(wide.h, 16))};
}
INLINE u8 bytes_of(const int8_t* quad) {
  __m256i q = quad_of(quad);
  return {q, q};
}
INLINE u8 without_offset(u8 w) {  // w - 128, as signed bytes
  __m256i top = _mm256_set1_epi8(char(0x80));
  return {_mm256_xor_si256(w.l, top), _mm256_xor_si256(w.h, top)};
}
INLINE u8 sizes_of(u8 a) { return {_mm256_abs_epi8(a.l), _mm256_abs_epi8(a.h)}; }
INLINE u8 with_signs(const int8_t* quad, u8 of) {
  __m256i q = quad_of(quad);
  return {_mm256_sign_epi8(q, of.l), _mm256_sign_epi8(q, of.h)};
}
// w[2i] a[2i] + w[2i + 1] a[2i + 1], w without a sign: saturates unless w is at most 128 and a above -128.
INLINE i16 multiply_bytes(u8 w, u8 a) {
  return {_mm256_maddubs_epi16(w.l, a.l), _mm256_maddubs_epi16(w.h, a.h)};
}
INLINE i32 multiply_pairs(i16 a, i16 b) { return {_mm256_madd_epi16(a.l, b.l), _mm256_madd_epi16(a.h, b.h)}; }
#endif
INLINE f32 even_bf16(const uint16_t* p) {
  u8 both = load_bytes((const uint8_t*)p);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both.l, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(both.h, 16))};
}
INLINE f32 odd_bf16(const uint16_t* p) {
  u8 odd = iand(load_bytes((const uint8_t*)p), _mm256_set1_epi32(int32_t(0xffff0000u)));
  return {_mm256_castsi256_ps(odd.l), _mm256_castsi256_ps(odd.h)};
}
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
constexpr int kMaxTile = 4;     // rows of x that share the registers
constexpr int kFloatTile = 6;   // the same where W is float32
constexpr int kValuesWide = 1;  // vectors of values beside them, in attention
