// Sixteen lanes of AVX-512 (F, BW, VL, DQ, VNNI; BF16 where the translation unit is compiled with it).
#pragma once

using f32 = __m512;
using i32 = __m512i;
using u8 = __m512i;

INLINE __mmask16 first(int n) { return __mmask16((1u << n) - 1); }
INLINE f32 set1(float x) { return _mm512_set1_ps(x); }
INLINE f32 zero() { return _mm512_setzero_ps(); }
INLINE f32 load(const float* p) { return _mm512_loadu_ps(p); }
INLINE f32 load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
INLINE void store(float* p, f32 a) { _mm512_storeu_ps(p, a); }
INLINE void store_part(float* p, f32 a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
INLINE f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
INLINE f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
INLINE f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
INLINE f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
INLINE f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
INLINE f32 min(f32 a, f32 b) { return _mm512_min_ps(a, b); }
INLINE f32 abs(f32 a) { return _mm512_abs_ps(a); }
INLINE f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
INLINE i32 round_to_i32(f32 a) { return _mm512_cvtps_epi32(a); }
INLINE f32 to_f32(i32 a) { return _mm512_cvtepi32_ps(a); }
INLINE float sum(f32 a) {
  __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
INLINE float largest(f32 a) { return _mm512_reduce_max_ps(a); }

INLINE i32 iset1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE i32 iadd(i32 a, i32 b) { return _mm512_add_epi32(a, b); }
INLINE i32 imul(i32 a, i32 b) { return _mm512_mullo_epi32(a, b); }
INLINE i32 load_i8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
INLINE i32 load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
INLINE f32 scale_pow2(f32 a, i32 n) {
  return mul(a, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, iset1(127)), 23)));
}
INLINE void store_i8(int8_t* p, i32 a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a)); }
INLINE int32_t isum(i32 a) { return _mm512_reduce_add_epi32(a); }

INLINE f32 load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INLINE f32 load_bf16_parted(const uint16_t* p) { return load_bf16(p); }
INLINE f32 in_order(f32 parted) { return parted; }
INLINE void store_bf16(uint16_t* p, f32 a) {
  i32 bits = _mm512_castps_si512(a), top = _mm512_srli_epi32(bits, 16);
  i32 even = _mm512_and_si512(top, iset1(1));
  i32 rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(even, iset1(0x7fff))), 16);
  __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, is_nan, top, iset1(0x40));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(rounded));
}
INLINE f32 load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE void store_f16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN, too large becomes infinity
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}

INLINE u8 load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
INLINE u8 low_nibbles(u8 a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
INLINE u8 high_nibbles(u8 a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
template <int Q> INLINE u8 fifth_bit(u8 quants, u8 bits) {
  u8 moved = Q < 4 ? _mm512_slli_epi16(bits, 4 - Q) : _mm512_srli_epi16(bits, Q - 4);
  return _mm512_ternarylogic_epi32(quants, moved, _mm512_set1_epi8(16), 0xf8);  // quants | (moved & 16)
}
template <int Q> INLINE u8 sixth_bits(u8 quants, u8 bits) {
  u8 moved = Q < 2 ? _mm512_slli_epi16(bits, 4 - 2 * Q) : _mm512_srli_epi16(bits, 2 * Q - 4);
  return _mm512_ternarylogic_epi32(quants, moved, _mm512_set1_epi8(48), 0xf8);
}
INLINE u8 look_up(u8 nibbles, const uint8_t* table16) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table16)), nibbles);
}
// Four bytes of a for all lanes. Written out: GCC (12) loads and spreads them by an instruction of its own.
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {
#ifdef __AVX512VNNI__  // these instructions, not tests/native/emulated_avx512.hpp
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(const int8_t(*)[4])a));
  return acc;
#else
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(quad));
#endif
}
INLINE f32 swap_pairs(f32 a) { return _mm512_permute_ps(a, 0xb1); }
#ifdef __AVX512BF16__
#define MARTLET_DOT_BF16
INLINE f32 dot_bf16(f32 acc, const uint16_t* w, const uint16_t* a) {
#ifdef __AVX512VNNI__  // these instructions, not tests/native/emulated_avx512.hpp
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(_mm512_loadu_si512(w)), "m"(*(const uint16_t(*)[2])a));
  return acc;
#else
  int32_t pair;
  __builtin_memcpy(&pair, a, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(w), (__m512bh)_mm512_set1_epi32(pair));
#endif
}
#else
INLINE f32 even_bf16(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
INLINE f32 odd_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), iset1(int32_t(0xffff0000u))));
}
#endif
INLINE void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
constexpr int kMaxTile = 8;     // rows of x that share the registers
constexpr int kFloatTile = 8;   // the same where W is float32
constexpr int kValuesWide = 2;  // vectors of values beside them, in attention
