// Every loop keeps kSums independent sums in registers, enough to hide an instruction's latency. An empty asm with a
// register operand costs no instruction; after it the compiler no longer knows the value and cannot lift it out.
#include "measure/peaks.hpp"

#include <stdexcept>

#ifdef MARTLET_X86
#include <immintrin.h>
#elif defined(MARTLET_NEON)
#include <arm_neon.h>
#endif

namespace martlet {
namespace {

#ifdef MARTLET_NEON
constexpr int kSums = 16;  // four pipelines of four cycles
#else
constexpr int kSums = 10;
#endif

// Portable code: sixteen numbers at a time, in whatever vectors the compiler's baseline has.
void scalar_fp32(int64_t rounds) {
  float sums[kSums][4] = {}, x[4] = {1.0f, 1.0f, 1.0f, 1.0f}, y[4] = {1e-9f, 1e-9f, 1e-9f, 1e-9f};
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" ::"r"(x), "r"(y) : "memory");
    for (int s = 0; s < kSums; ++s)
      for (int i = 0; i < 4; ++i) sums[s][i] += x[i] * y[i];
  }
  asm volatile("" ::"r"(sums) : "memory");
}
void scalar_int8(int64_t rounds) {
  int32_t sum = 0;
  int8_t x[64] = {}, y[64] = {};
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" ::"r"(x), "r"(y) : "memory");
    for (int i = 0; i < 64; ++i) sum += int32_t(x[i]) * y[i];
  }
  asm volatile("" ::"r"(&sum) : "memory");
}

#define LOOP(name, features, type, zero_of, step)              \
  __attribute__((target(features))) void name(int64_t rounds) { \
    type sums[kSums], x = zero_of, y = zero_of;                 \
    for (type& sum : sums) sum = zero_of;                       \
    for (int64_t r = 0; r < rounds; ++r) {                      \
      _Pragma("GCC unroll 16") for (int s = 0; s < kSums; ++s) { \
        asm volatile("" : CONSTRAINT(x), CONSTRAINT(y));        \
        type& sum = sums[s];                                    \
        step;                                                   \
      }                                                         \
    }                                                           \
    for (type& sum : sums) asm volatile("" : CONSTRAINT(sum));  \
  }

#ifdef MARTLET_X86
#define CONSTRAINT(v) "+x"(v)
LOOP(avx2_fp32, "avx2,fma", __m256, _mm256_setzero_ps(), sum = _mm256_fmadd_ps(x, y, sum))
// 16-bit pairs, widened at once: any 7-bit operands
LOOP(avx2_int8, "avx2,fma", __m256i, _mm256_setzero_si256(),
     sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1))))
// quants below 16 leave room for eight products in 16 bits: 8 * 2 * 15 * 128 < 2^15, so widening is rare
__attribute__((target("avx2,fma"))) void avx2_int4(int64_t rounds) {
  constexpr int kPairs = 4;
  __m256i sums[kPairs], x = _mm256_setzero_si256(), y = x, ones = _mm256_set1_epi16(1);
  for (__m256i& sum : sums) sum = x;
  for (int64_t r = 0; r < rounds; ++r) {
    __m256i narrow[kPairs];
    _Pragma("GCC unroll 8") for (int s = 0; s < kPairs; ++s) {
      asm volatile("" : "+x"(x), "+x"(y));
      narrow[s] = _mm256_maddubs_epi16(x, y);
    }
    _Pragma("GCC unroll 8") for (int i = 1; i < 8; ++i) {
      _Pragma("GCC unroll 8") for (int s = 0; s < kPairs; ++s) {
        asm volatile("" : "+x"(x), "+x"(y));
        narrow[s] = _mm256_add_epi16(narrow[s], _mm256_maddubs_epi16(x, y));
      }
    }
    for (int s = 0; s < kPairs; ++s) sums[s] = _mm256_add_epi32(sums[s], _mm256_madd_epi16(narrow[s], ones));
  }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
}
LOOP(vnni_int8, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), sum = _mm256_dpbusd_avx_epi32(sum, x, y))
#undef CONSTRAINT
#define CONSTRAINT(v) "+v"(v)
LOOP(avx512_fp32, "avx512f", __m512, _mm512_setzero_ps(), sum = _mm512_fmadd_ps(x, y, sum))
LOOP(avx512_int8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), sum = _mm512_dpbusd_epi32(sum, x, y))
LOOP(avx512_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
     sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(x), (__m512bh)_mm512_castps_si512(y)))
#elif defined(MARTLET_NEON)
#define CONSTRAINT(v) "+w"(v)
LOOP(neon_fp32, "arch=armv8.2-a", float32x4_t, vdupq_n_f32(0), sum = vfmaq_f32(sum, x, y))
LOOP(neon_int8, "arch=armv8.2-a+dotprod", int32x4_t, vdupq_n_s32(0),
     sum = vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y)))
LOOP(neon_i8mm_int8, "arch=armv8.2-a+dotprod+i8mm", int32x4_t, vdupq_n_s32(0),
     sum = vusdotq_s32(sum, vreinterpretq_u8_s32(x), vreinterpretq_s8_s32(y)))
#endif
#undef CONSTRAINT
#undef LOOP

}  // namespace

std::vector<PeakLoop> peak_loops(const std::string& isa) {
  const PeakLoop plain[] = {{"int8", "portable code", scalar_int8, 2.0 * 64},
                            {"int4", "portable code", scalar_int8, 2.0 * 64},
                            {"bf16", "portable code, fp32", scalar_fp32, 2.0 * 4 * kSums},
                            {"fp32", "portable code", scalar_fp32, 2.0 * 4 * kSums}};
  if (isa == "scalar") return {std::begin(plain), std::end(plain)};
#ifdef MARTLET_X86
  if (isa == "avx2")
    return {{"int8", "vpmaddubsw, vpmaddwd, vpaddd", avx2_int8, 2.0 * 32 * kSums},
            {"int4", "vpmaddubsw, vpaddw", avx2_int4, 2.0 * 32 * 4 * 8},
            {"bf16", "widened to fp32, vfmadd", avx2_fp32, 2.0 * 8 * kSums},
            {"fp32", "vfmadd", avx2_fp32, 2.0 * 8 * kSums}};
  if (isa == "avx2_vnni")
    return {{"int8", "vpdpbusd", vnni_int8, 2.0 * 32 * kSums},
            {"int4", "vpdpbusd", vnni_int8, 2.0 * 32 * kSums},
            {"bf16", "widened to fp32, vfmadd", avx2_fp32, 2.0 * 8 * kSums},
            {"fp32", "vfmadd", avx2_fp32, 2.0 * 8 * kSums}};
  if (isa == "avx512" || isa == "avx512_bf16") {
    bool has_bf16 = isa == "avx512_bf16";
    return {{"int8", "vpdpbusd", avx512_int8, 2.0 * 64 * kSums},
            {"int4", "vpdpbusd", avx512_int8, 2.0 * 64 * kSums},
            {"bf16", has_bf16 ? "vdpbf16ps" : "widened to fp32, vfmadd", has_bf16 ? avx512_bf16 : avx512_fp32,
             has_bf16 ? 2.0 * 32 * kSums : 2.0 * 16 * kSums},
            {"fp32", "vfmadd", avx512_fp32, 2.0 * 16 * kSums}};
  }
#endif
#ifdef MARTLET_NEON
  if (isa == "neon" || isa == "neon_i8mm") {
    const bool has_i8mm = isa == "neon_i8mm";
    const char* how = has_i8mm ? "usdot" : "sdot";
    void (*run)(int64_t) = has_i8mm ? neon_i8mm_int8 : neon_int8;
    return {{"int8", how, run, 2.0 * 16 * kSums},
            {"int4", how, run, 2.0 * 16 * kSums},
            {"bf16", "widened to fp32, fmla", neon_fp32, 2.0 * 4 * kSums},
            {"fp32", "fmla", neon_fp32, 2.0 * 4 * kSums}};
  }
#endif
  throw std::invalid_argument("there is no loop that measures instruction set " + isa);
}

}  // namespace martlet
