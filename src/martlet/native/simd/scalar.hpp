// Sixteen lanes without intrinsics: the reference that the instruction sets are held against, and what any machine runs.
// Included by one translation unit an instruction set, inside its own namespace; uses nothing of the standard library
// that could leave a copy compiled for that set behind.
#pragma once

struct f32 {
  float v[16];
};
struct i32 {
  int32_t v[16];
};
struct u8 {
  uint8_t v[64];
};

#define LANES(expression)                    \
  for (int i = 0; i < 16; ++i) r.v[i] = (expression); \
  return r

INLINE f32 set1(float x) { f32 r; LANES(x); }
INLINE f32 zero() { return set1(0.0f); }
INLINE f32 load(const float* p) { f32 r; LANES(p[i]); }
INLINE f32 load_part(const float* p, int n) { f32 r; LANES(i < n ? p[i] : 0.0f); }
INLINE void store(float* p, f32 a) { for (int i = 0; i < 16; ++i) p[i] = a.v[i]; }
INLINE void store_part(float* p, f32 a, int n) { for (int i = 0; i < n; ++i) p[i] = a.v[i]; }
INLINE f32 add(f32 a, f32 b) { f32 r; LANES(a.v[i] + b.v[i]); }
INLINE f32 sub(f32 a, f32 b) { f32 r; LANES(a.v[i] - b.v[i]); }
INLINE f32 mul(f32 a, f32 b) { f32 r; LANES(a.v[i] * b.v[i]); }
INLINE f32 div(f32 a, f32 b) { f32 r; LANES(a.v[i] / b.v[i]); }
INLINE f32 fma(f32 a, f32 b, f32 c) { f32 r; LANES(__builtin_fmaf(a.v[i], b.v[i], c.v[i])); }
INLINE f32 max(f32 a, f32 b) { f32 r; LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
INLINE f32 min(f32 a, f32 b) { f32 r; LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
INLINE f32 abs(f32 a) { f32 r; LANES(__builtin_fabsf(a.v[i])); }
INLINE f32 select_less(f32 a, f32 b, f32 yes, f32 no) { f32 r; LANES(a.v[i] < b.v[i] ? yes.v[i] : no.v[i]); }
INLINE i32 round_to_i32(f32 a) { i32 r; LANES(int32_t(__builtin_rintf(a.v[i]))); }
INLINE f32 to_f32(i32 a) { f32 r; LANES(float(a.v[i])); }
INLINE float sum(f32 a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] + a.v[i + width];
  return a.v[0];
}
INLINE float largest(f32 a) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
  return a.v[0];
}

INLINE i32 iset1(int32_t x) { i32 r; LANES(x); }
INLINE i32 iadd(i32 a, i32 b) { i32 r; LANES(a.v[i] + b.v[i]); }
INLINE i32 imul(i32 a, i32 b) { i32 r; LANES(a.v[i] * b.v[i]); }
INLINE i32 load_i8(const int8_t* p) { i32 r; LANES(p[i]); }
INLINE i32 load_u8(const uint8_t* p) { i32 r; LANES(p[i]); }
INLINE f32 scale_pow2(f32 a, i32 n) {  // a * 2^n, n in -126..127
  f32 r;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits = uint32_t(n.v[i] + 127) << 23;
    float power;
    __builtin_memcpy(&power, &bits, 4);
    r.v[i] = a.v[i] * power;
  }
  return r;
}
INLINE void store_i8(int8_t* p, i32 a) { for (int i = 0; i < 16; ++i) p[i] = int8_t(a.v[i]); }
INLINE int32_t isum(i32 a) {
  int32_t s = 0;
  for (int i = 0; i < 16; ++i) s += a.v[i];
  return s;
}

INLINE f32 load_bf16(const uint16_t* p) {
  f32 r;
  for (int i = 0; i < 16; ++i) {
    uint32_t bits = uint32_t(p[i]) << 16;
    __builtin_memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
INLINE f32 load_bf16_parted(const uint16_t* p) { return load_bf16(p); }
INLINE f32 in_order(f32 parted) { return parted; }
INLINE void store_bf16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, &a.v[i], 4);
    bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    p[i] = is_nan ? uint16_t((bits >> 16) | 0x40) : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
  }
}
INLINE float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3ff, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0);
  } else if (exponent) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float small = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    __builtin_memcpy(&bits, &small, 4);
    bits |= sign;
  }
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}
INLINE f32 load_f16(const uint16_t* p) { f32 r; LANES(half_to_float(p[i])); }
INLINE void store_f16(uint16_t* p, f32 a) {  // to nearest, ties to even; NaN stays NaN, too large becomes infinity
  for (int i = 0; i < 16; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, &a.v[i], 4);
    uint32_t sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffffu, half;
    if (size > 0x7f800000u) {
      half = 0x7e00 | ((size >> 13) & 0x3ff);
    } else if (size >= 0x477ff000u) {  // 65520
      half = 0x7c00;
    } else if (size < 0x38800000u) {  // below 2^-14: added to 0.5, the sum's last bit is 2^-24
      float sum;
      __builtin_memcpy(&sum, &size, 4);
      sum += 0.5f;
      __builtin_memcpy(&half, &sum, 4);
      half -= 0x3f000000u;
    } else {
      half = (size + 0xfff + ((size >> 13) & 1) - 0x38000000u) >> 13;
    }
    p[i] = uint16_t(sign | half);
  }
}

INLINE u8 load_bytes(const uint8_t* p) { u8 r; __builtin_memcpy(r.v, p, 64); return r; }
INLINE u8 low_nibbles(u8 a) { for (auto& x : a.v) x &= 15; return a; }
INLINE u8 high_nibbles(u8 a) { for (auto& x : a.v) x >>= 4; return a; }
template <int Q> INLINE u8 fifth_bit(u8 quants, u8 bits) {  // bit Q of each byte of `bits` becomes bit 4
  for (int i = 0; i < 64; ++i) quants.v[i] |= uint8_t(((bits.v[i] >> Q) & 1) << 4);
  return quants;
}
template <int Q> INLINE u8 sixth_bits(u8 quants, u8 bits) {  // bits 2Q and 2Q+1 become bits 4 and 5
  for (int i = 0; i < 64; ++i) quants.v[i] |= uint8_t(((bits.v[i] >> (2 * Q)) & 3) << 4);
  return quants;
}
INLINE u8 look_up(u8 nibbles, const uint8_t* table16) {
  for (auto& x : nibbles.v) x = table16[x];
  return nibbles;
}
// Lane i gains w[4i..4i+3] . a[0..3]: unsigned bytes times signed bytes, exact.
INLINE i32 dot(i32 acc, u8 w, const int8_t* a) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 4; ++j) acc.v[i] += int32_t(w.v[4 * i + j]) * a[j];
  return acc;
}
INLINE f32 swap_pairs(f32 a) { f32 r; LANES(a.v[i ^ 1]); }
// The even, or the odd, of 32 bf16 numbers.
INLINE f32 even_bf16(const uint16_t* p) {
  uint16_t half[16];
  for (int i = 0; i < 16; ++i) half[i] = p[2 * i];
  return load_bf16(half);
}
INLINE f32 odd_bf16(const uint16_t* p) {
  uint16_t half[16];
  for (int i = 0; i < 16; ++i) half[i] = p[2 * i + 1];
  return load_bf16(half);
}
INLINE void prefetch(const void* p) { __builtin_prefetch(p); }
constexpr int kMaxTile = 2;     // rows of x that share the registers
constexpr int kFloatTile = 2;   // the same where W is float32
constexpr int kValuesWide = 1;  // vectors of values beside them, in attention
#undef LANES
