// One row at a time: preparing it for matrices, norms, activations, rotation, residual sums. Everything in float32.
#pragma once

// Calls f(begin, count) for runs of 16 numbers and a last one of fewer.
template <class F> INLINE void in_sixteens(int n, F&& f) {
  int i = 0;
  for (; i + 16 <= n; i += 16) f(i, 16);
  if (i < n) f(i, n - i);
}
INLINE f32 get(const float* p, int count) { return count == 16 ? load(p) : load_part(p, count); }
INLINE void put(float* p, f32 a, int count) {
  if (count == 16)
    store(p, a);
  else
    store_part(p, a, count);
}

// Blocks of 32 become 8-bit numbers times max|x| / 127. A block with NaN or infinity gets a scale of NaN.
void prepare(const float* x, int k, const Activations& out, int row, int block_begin, int block_end) {
  for (int b = block_begin; b < block_end; ++b) {
    int left = k - b * kBlock;
    f32 low = left <= 0 ? zero() : get(x + b * kBlock, left < 16 ? left : 16);
    f32 high = left <= 16 ? zero() : get(x + b * kBlock + 16, left < 32 ? left - 16 : 16);
    size_t at = size_t(row) * out.stride + size_t(b) * kBlock;
    if (out.bf16) store_bf16(out.bf16 + at, low), store_bf16(out.bf16 + at + 16, high);
    if (out.rounded) {
      uint16_t bf16[32];
      store_bf16(bf16, low), store_bf16(bf16 + 16, high);
      store(out.rounded + at, swap_pairs(load_bf16(bf16)));
      store(out.rounded + at + 16, swap_pairs(load_bf16(bf16 + 16)));
    }
    if (!out.q8) continue;
    size_t block = out.block_of(row, b);
    float largest_x = largest(max(abs(low), abs(high)));
    float poison = sum(add(sub(low, low), sub(high, high)));  // 0, or NaN
    float inverse = largest_x > 0.0f ? 127.0f / largest_x : 0.0f;
    i32 q_low = round_to_i32(mul(low, set1(inverse))), q_high = round_to_i32(mul(high, set1(inverse)));
    store_i8(out.q8 + block * kBlock, q_low), store_i8(out.q8 + block * kBlock + 16, q_high);
    float scale = largest_x / 127.0f + poison;
    int32_t half = isum(q_low), total = half + isum(q_high);
    out.scale[block] = scale;
    if (out.total) out.total[block] = total, out.half[block] = half;
    if (out.minus) {
      int32_t* minus = out.minus + block;
      minus[0] = -8 * total, minus[out.plane] = -16 * total, minus[2 * out.plane] = -128 * total;
      minus[3 * out.plane] = -32 * half, minus[4 * out.plane] = -32 * (total - half);
    }
    out.sum[block] = scale * float(total);
  }
}

void norm(NormKind kind, const float* x, const float* weight, const float* bias, float eps, int n, float* y) {
  float mean = 0.0f;
  if (kind == NormKind::LAYER) {
    f32 total = zero();
    in_sixteens(n, [&](int i, int count) INLINED { total = add(total, get(x + i, count)); });
    mean = sum(total) / float(n);
  }
  f32 squares = zero(), middle = set1(mean);
  in_sixteens(n, [&](int i, int count) INLINED {
    f32 d = get(x + i, count);
    if (kind == NormKind::LAYER) {
      d = sub(d, middle);
      if (count < 16) {  // lanes past the end hold 0 - mean
        float lanes[16];
        store(lanes, d);
        d = load_part(lanes, count);
      }
    }
    squares = fma(d, d, squares);
  });
  f32 scale = set1(1.0f / __builtin_sqrtf(sum(squares) / float(n) + eps));
  in_sixteens(n, [&](int i, int count) INLINED {
    f32 w = get(weight + i, count), v = get(x + i, count);
    if (kind == NormKind::LAYER)
      v = fma(mul(sub(v, middle), scale), w, bias ? get(bias + i, count) : zero());
    else
      v = mul(mul(v, scale), kind == NormKind::RMS_PLUS_ONE ? add(w, set1(1.0f)) : w);
    put(y + i, v, count);
  });
}

void add_scaled(float* x, const float* y, float scale, int n) {
  in_sixteens(n, [&](int i, int count) INLINED { put(x + i, fma(get(y + i, count), set1(scale), get(x + i, count)), count); });
}
void add_rows(float* x, const float* y, int n) {
  in_sixteens(n, [&](int i, int count) INLINED { put(x + i, add(get(x + i, count), get(y + i, count)), count); });
}
void multiply(float* x, float scale, int n) {
  in_sixteens(n, [&](int i, int count) INLINED { put(x + i, mul(get(x + i, count), set1(scale)), count); });
}

template <class F> INLINE void activate_with(const float* gate, const float* up, int n, float* y, F&& f) {
  in_sixteens(n, [&](int i, int count) INLINED {
    f32 v = f(get(gate + i, count));
    put(y + i, up ? mul(v, get(up + i, count)) : v, count);
  });
}
void activate(Act act, const float* gate, const float* up, int n, float* y) {
  switch (act) {
    case Act::SILU: return activate_with(gate, up, n, y, [](f32 x) { return silu(x); });
    case Act::GELU: return activate_with(gate, up, n, y, [](f32 x) { return gelu(x); });
    case Act::GELU_TANH: return activate_with(gate, up, n, y, [](f32 x) { return gelu_tanh(x); });
    case Act::RELU: return activate_with(gate, up, n, y, [](f32 x) { return max(zero(), x); });
  }
}

void rotate(float* x, const Rotation& turn) {
  int half = turn.rotated / 2;
  in_sixteens(half, [&](int i, int count) INLINED {
    f32 c = get(turn.cos + i, count), s = get(turn.sin + i, count);
    f32 a = get(x + i, count), b = get(x + half + i, count);
    put(x + i, fma(sub(zero(), b), s, mul(a, c)), count);
    put(x + half + i, fma(a, s, mul(b, c)), count);
  });
}

void softcap(float* x, float cap, int n) {
  in_sixteens(n, [&](int i, int count) INLINED {
    put(x + i, mul(set1(cap), tanh(div(get(x + i, count), set1(cap)))), count);
  });
}
