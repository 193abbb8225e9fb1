// exp and what is made of it, sixteen lanes at a time; the same operations in the same order on every instruction set.
#pragma once

// exp(x) to 2 ulp for x in -87.3..88; below that 2^-126, above exp(88). NaN stays NaN: the bound is max's first operand.
INLINE f32 exp(f32 x) {
  x = max(set1(-87.33654f), x);
  x = min(set1(88.0f), x);
  i32 n = round_to_i32(mul(x, set1(1.44269504f)));
  f32 whole = to_f32(n);
  f32 r = fma(whole, set1(-0.693359375f), x);  // ln 2 in two parts, so that the product is exact (Cephes, expf)
  r = fma(whole, set1(2.12194440e-4f), r);
  f32 p = fma(set1(1.9875691500e-4f), r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), set1(1.0f));
  return scale_pow2(p, n);
}

INLINE float exp1(float x) {
  float lanes[16];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

INLINE f32 silu(f32 x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

// x * Phi(x); Phi by Abramowitz & Stegun 7.1.26 on the side where nothing cancels, within 1.5e-7.
INLINE f32 gelu(f32 x) {
  f32 z = mul(abs(x), set1(0.70710678f));
  f32 t = div(set1(1.0f), fma(z, set1(0.3275911f), set1(1.0f)));
  f32 p = fma(set1(1.061405429f), t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  f32 tail = mul(mul(set1(0.5f), mul(p, t)), exp(sub(zero(), mul(z, z))));
  return mul(x, select_less(x, zero(), tail, sub(set1(1.0f), tail)));
}

// 0.5 x (1 + tanh(u)) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3)
INLINE f32 gelu_tanh(f32 x) {
  f32 u = mul(mul(set1(1.5957691216f), x), fma(mul(set1(0.044715f), x), x, set1(1.0f)));
  return div(x, add(set1(1.0f), exp(sub(zero(), u))));
}

INLINE f32 tanh(f32 x) {
  f32 e = exp(add(x, x));
  return sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
}
