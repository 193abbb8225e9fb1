// Sixteen lanes as four vectors of NEON: ARMv8.2 with dot products, and i8mm where the translation unit has it.
#pragma once

struct f32 {
  float32x4_t v[4];
};
struct i32 {
  int32x4_t v[4];
};
struct u8 {
  uint8x16_t v[4];
};

#define EACH(expression)                              \
  for (int i = 0; i < 4; ++i) r.v[i] = (expression); \
  return r

INLINE f32 set1(float x) { f32 r; EACH(vdupq_n_f32(x)); }
INLINE f32 zero() { return set1(0.0f); }
INLINE f32 load(const float* p) { f32 r; EACH(vld1q_f32(p + 4 * i)); }
INLINE f32 load_part(const float* p, int n) {
  float whole[16] = {};
  for (int i = 0; i < n; ++i) whole[i] = p[i];
  return load(whole);
}
INLINE void store(float* p, f32 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
INLINE void store_part(float* p, f32 a, int n) {
  float whole[16];
  store(whole, a);
  for (int i = 0; i < n; ++i) p[i] = whole[i];
}
INLINE f32 add(f32 a, f32 b) { f32 r; EACH(vaddq_f32(a.v[i], b.v[i])); }
INLINE f32 sub(f32 a, f32 b) { f32 r; EACH(vsubq_f32(a.v[i], b.v[i])); }
INLINE f32 mul(f32 a, f32 b) { f32 r; EACH(vmulq_f32(a.v[i], b.v[i])); }
INLINE f32 div(f32 a, f32 b) { f32 r; EACH(vdivq_f32(a.v[i], b.v[i])); }
INLINE f32 fma(f32 a, f32 b, f32 c) { f32 r; EACH(vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
// The second operand where the first is not greater, or either is NaN: vmaxq would give NaN.
INLINE f32 max(f32 a, f32 b) { f32 r; EACH(vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
INLINE f32 min(f32 a, f32 b) { f32 r; EACH(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
INLINE f32 abs(f32 a) { f32 r; EACH(vabsq_f32(a.v[i])); }
INLINE f32 select_less(f32 a, f32 b, f32 yes, f32 no) {
  f32 r;
  EACH(vbslq_f32(vcltq_f32(a.v[i], b.v[i]), yes.v[i], no.v[i]));
}
INLINE i32 round_to_i32(f32 a) { i32 r; EACH(vcvtnq_s32_f32(a.v[i])); }
INLINE f32 to_f32(i32 a) { f32 r; EACH(vcvtq_f32_s32(a.v[i])); }
// Halves are added to halves: lanes 0..7 to 8..15, then fours, pairs, the last two.
INLINE float sum(f32 a) {
  float32x4_t q = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  float32x2_t p = vadd_f32(vget_low_f32(q), vget_high_f32(q));
  return vget_lane_f32(p, 0) + vget_lane_f32(p, 1);
}
INLINE float largest(f32 a) {
  f32 r = a;
  auto greater = [](float32x4_t x, float32x4_t y) INLINED { return vbslq_f32(vcgtq_f32(x, y), x, y); };
  float lanes[4];
  vst1q_f32(lanes, greater(greater(r.v[0], r.v[2]), greater(r.v[1], r.v[3])));
  float x = lanes[0] > lanes[2] ? lanes[0] : lanes[2], y = lanes[1] > lanes[3] ? lanes[1] : lanes[3];
  return x > y ? x : y;
}

INLINE i32 iset1(int32_t x) { i32 r; EACH(vdupq_n_s32(x)); }
INLINE i32 iadd(i32 a, i32 b) { i32 r; EACH(vaddq_s32(a.v[i], b.v[i])); }
INLINE i32 imul(i32 a, i32 b) { i32 r; EACH(vmulq_s32(a.v[i], b.v[i])); }
INLINE i32 load_i8(const int8_t* p) {
  int8x16_t bytes = vld1q_s8(p);
  int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
           vmovl_s16(vget_high_s16(high))}};
}
INLINE i32 load_u8(const uint8_t* p) {
  uint8x16_t bytes = vld1q_u8(p);
  uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  auto wide = [](uint16x4_t x) INLINED { return vreinterpretq_s32_u32(vmovl_u16(x)); };
  return {{wide(vget_low_u16(low)), wide(vget_high_u16(low)), wide(vget_low_u16(high)), wide(vget_high_u16(high))}};
}
INLINE f32 scale_pow2(f32 a, i32 n) {
  f32 r;
  EACH(vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23))));
}
INLINE void store_i8(int8_t* p, i32 a) {  // the low bytes
  int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
INLINE int32_t isum(i32 a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}

INLINE f32 load_bf16(const uint16_t* p) {
  f32 r;
  EACH(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
INLINE f32 load_bf16_parted(const uint16_t* p) { return load_bf16(p); }
INLINE f32 in_order(f32 parted) { return parted; }
INLINE void store_bf16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN
  for (int i = 0; i < 4; ++i) {
    uint32x4_t bits = vreinterpretq_u32_f32(a.v[i]), top = vshrq_n_u32(bits, 16);
    uint32x4_t even = vandq_u32(top, vdupq_n_u32(1));
    uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(even, vdupq_n_u32(0x7fff))), 16);
    uint32x4_t is_number = vceqq_f32(a.v[i], a.v[i]);
    vst1_u16(p + 4 * i, vmovn_u32(vbslq_u32(is_number, rounded, vorrq_u32(top, vdupq_n_u32(0x40)))));
  }
}
INLINE f32 load_f16(const uint16_t* p) {
  f32 r;
  EACH(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
INLINE void store_f16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN, too large becomes infinity
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

INLINE u8 load_bytes(const uint8_t* p) { u8 r; EACH(vld1q_u8(p + 16 * i)); }
INLINE u8 low_nibbles(u8 a) { u8 r; EACH(vandq_u8(a.v[i], vdupq_n_u8(15))); }
INLINE u8 high_nibbles(u8 a) { u8 r; EACH(vshrq_n_u8(a.v[i], 4)); }
template <int N> INLINE uint8x16_t shift_bytes(uint8x16_t a) {  // left by N, or right by -N
  if constexpr (N >= 0)
    return vshlq_n_u8(a, N);
  else
    return vshrq_n_u8(a, -N);
}
template <int Q> INLINE u8 fifth_bit(u8 quants, u8 bits) {
  u8 r;
  EACH(vorrq_u8(quants.v[i], vandq_u8(shift_bytes<4 - Q>(bits.v[i]), vdupq_n_u8(16))));
}
template <int Q> INLINE u8 sixth_bits(u8 quants, u8 bits) {
  u8 r;
  EACH(vorrq_u8(quants.v[i], vandq_u8(shift_bytes<4 - 2 * Q>(bits.v[i]), vdupq_n_u8(48))));
}
INLINE u8 look_up(u8 nibbles, const uint8_t* table16) {
  uint8x16_t table = vld1q_u8(table16);
  u8 r;
  EACH(vqtbl1q_u8(table, nibbles.v[i]));
}
INLINE int32x4_t quad_of(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, 4);
  return vdupq_n_s32(quad);
}
#ifdef __ARM_FEATURE_MATMUL_INT8
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {  // usdot: unsigned times signed bytes
  int8x16_t quad = vreinterpretq_s8_s32(quad_of(a));
  i32 r;
  EACH(vusdotq_s32(acc.v[i], w.v[i], quad));
}
#else
// sdot wants both signed: w - 128, and 128 times the sum of a, which a second dot product of ones gives.
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {
  int8x16_t quad = vreinterpretq_s8_s32(quad_of(a));
  int32x4_t offset = vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), quad), 7);
  i32 r;
  EACH(vdotq_s32(vaddq_s32(acc.v[i], offset), vreinterpretq_s8_u8(veorq_u8(w.v[i], vdupq_n_u8(0x80))), quad));
}
#endif
INLINE f32 swap_pairs(f32 a) { f32 r; EACH(vrev64q_f32(a.v[i])); }
INLINE f32 even_bf16(const uint16_t* p) {
  f32 r;
  EACH(vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(vld1q_u16(p + 8 * i)), 16)));
}
INLINE f32 odd_bf16(const uint16_t* p) {
  f32 r;
  EACH(vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(vld1q_u16(p + 8 * i)), vdupq_n_u32(0xffff0000u))));
}
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
constexpr int kMaxTile = 4;     // rows of x that share the registers
constexpr int kFloatTile = 4;   // the same where W is float32
constexpr int kValuesWide = 1;  // vectors of values beside them, in attention
#undef EACH
