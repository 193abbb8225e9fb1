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
INLINE void store_i8(int8_t* p, i32 a) {
  int32_t whole[16];
  _mm256_storeu_si256((__m256i*)whole, a.l), _mm256_storeu_si256((__m256i*)(whole + 8), a.h);
  for (int i = 0; i < 16; ++i) p[i] = int8_t(whole[i]);
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
INLINE void store_bf16(uint16_t* p, f32 a) {
  float whole[16];
  store(whole, a);
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, &whole[i], 4);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    p[i] = is_nan ? uint16_t((bits >> 16) | 0x40) : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
}
INLINE f32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
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
INLINE i32 dot6(i32 acc, u8 w, const int8_t* a) { return dot(acc, w, a); }
#else
INLINE i32 dot6(i32 acc, u8 w, const int8_t* a) {  // 63 * 128 * 2 fits 16 bits
  __m256i quad = quad_of(a), ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.l, _mm256_madd_epi16(_mm256_maddubs_epi16(w.l, quad), ones)),
          _mm256_add_epi32(acc.h, _mm256_madd_epi16(_mm256_maddubs_epi16(w.h, quad), ones))};
}
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {  // the low 6 bits and the high 2 apart: no 16-bit sum saturates
  __m256i mask = _mm256_set1_epi8(63);
  u8 high = iand(shift<-6>(w), _mm256_set1_epi8(3));
  i32 upper = dot6(iset1(0), high, a);
  upper = {_mm256_slli_epi32(upper.l, 6), _mm256_slli_epi32(upper.h, 6)};
  return iadd(dot6(acc, iand(w, mask), a), upper);
}
#endif
INLINE f32 dot_bf16(f32 acc, const uint16_t* w, const uint16_t* a) {
  int32_t pair;
  __builtin_memcpy(&pair, a, 4);
  __m256i mask = _mm256_set1_epi32(int32_t(0xffff0000u));
  u8 both = load_bytes((const uint8_t*)w);
  f32 odd = {_mm256_castsi256_ps(_mm256_and_si256(both.l, mask)), _mm256_castsi256_ps(_mm256_and_si256(both.h, mask))};
  f32 even = {_mm256_castsi256_ps(_mm256_slli_epi32(both.l, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(both.h, 16))};
  __m256 a1 = _mm256_castsi256_ps(_mm256_set1_epi32(pair & int32_t(0xffff0000u)));
  __m256 a0 = _mm256_castsi256_ps(_mm256_set1_epi32(int32_t(uint32_t(pair) << 16)));
  return fma(even, {a0, a0}, fma(odd, {a1, a1}, acc));
}
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
constexpr int kMaxTile = 4;
