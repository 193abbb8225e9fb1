// softmax(q k' * scale) v over pages of 16 positions, in chunks of 256 whose sums are merged in order:
//
//   chunk:  m = max s_j,  l = sum exp(s_j - m),  o = sum exp(s_j - m) v_j
//   merge:  m = max(m1, m2),  l = l1 exp(m1 - m) + l2 exp(m2 - m),  o alike
//
// Chunks begin at absolute positions, so a query's result is the same whoever computes which chunk, and however many
// queries stand beside it: what a query may not see adds exact zeros.
#pragma once

constexpr float kMinusInfinity = -__builtin_inff();
constexpr int kTogether = 4;  // queries, or heads of one query, that share a load of keys

INLINE f32 counting(float first) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = first + float(i);
  return load(lanes);
}

struct Seen {  // positions low..high of the queries of one tile
  float low[kTogether], high[kTogether];
};

template <int N>
INLINE void score_page(const AttentionTask& t, const float* const (&q)[N], const uint16_t* keys, int position,
                       const Seen& seen, float (*scores)[kChunk], int place) {
  f32 even[N], odd[N];
  for (int i = 0; i < N; ++i) even[i] = odd[i] = zero();
  int d = 0;
  for (; d + 2 <= t.head_dim; d += 2) {
    f32 k0 = load_bf16(keys + d * kPage), k1 = load_bf16(keys + (d + 1) * kPage);
    for (int i = 0; i < N; ++i) {
      even[i] = fma(k0, set1(q[i][d]), even[i]);
      odd[i] = fma(k1, set1(q[i][d + 1]), odd[i]);
    }
  }
  if (d < t.head_dim) {
    f32 k0 = load_bf16(keys + d * kPage);
    for (int i = 0; i < N; ++i) even[i] = fma(k0, set1(q[i][d]), even[i]);
  }
  f32 positions = counting(float(position)), hidden = set1(kMinusInfinity);
  for (int i = 0; i < N; ++i) {
    f32 s = mul(add(even[i], odd[i]), set1(t.scale));
    if (t.softcap != 0.0f) s = mul(set1(t.softcap), tanh(div(s, set1(t.softcap))));
    s = select_less(set1(seen.high[i]), positions, hidden, s);
    s = select_less(positions, set1(seen.low[i]), hidden, s);
    store(scores[i] + place, s);
  }
}

// Turns scores into exponentials; m and l of the chunk.
INLINE void exponentiate(float* scores, int count, float* stats) {
  f32 highest = set1(kMinusInfinity);
  for (int j = 0; j < count; j += 16) highest = max(highest, load(scores + j));
  float m = largest(highest);
  f32 total = zero();
  for (int j = 0; j < count; j += 16) {
    f32 s = load(scores + j);
    f32 e = select_less(set1(-3e38f), s, exp(sub(s, set1(m))), zero());  // hidden positions: exactly zero
    if (m != m) e = s;                                                   // NaN goes on
    store(scores + j, e);
    total = add(total, e);
  }
  stats[0] = m, stats[1] = sum(total);
}

template <int N, int Width>
INLINE void weigh_values(const AttentionTask& t, float (*weights)[kChunk], int first_page, int num_pages, int d,
                         float* const (&out)[N]) {
  f32 acc[N][Width];
  for (int i = 0; i < N; ++i)
    for (int w = 0; w < Width; ++w) acc[i][w] = zero();
  for (int p = 0; p < num_pages; ++p) {
    const uint16_t* values = t.pages[first_page + p] + t.value_offset + d;
    for (int j = 0; j < kPage; ++j) {
      f32 v[Width];
      for (int w = 0; w < Width; ++w) v[w] = load_bf16(values + size_t(j) * t.head_dim + 16 * w);
      for (int i = 0; i < N; ++i) {
        f32 weight = set1(weights[i][p * kPage + j]);
        for (int w = 0; w < Width; ++w) acc[i][w] = fma(weight, v[w], acc[i][w]);
      }
    }
  }
  for (int i = 0; i < N; ++i)
    for (int w = 0; w < Width; ++w) store(out[i] + d + 16 * w, acc[i][w]);
}

// Dimensions past the last sixteen, one by one.
INLINE void weigh_rest(const AttentionTask& t, const float* weights, int first_page, int num_pages, float* out) {
  for (int d = t.head_dim / 16 * 16; d < t.head_dim; ++d) {
    float acc = 0.0f;
    for (int p = 0; p < num_pages; ++p)
      for (int j = 0; j < kPage; ++j) {
        uint32_t bits = uint32_t(t.pages[first_page + p][t.value_offset + size_t(j) * t.head_dim + d]) << 16;
        float v;
        __builtin_memcpy(&v, &bits, 4);
        acc = __builtin_fmaf(weights[p * kPage + j], v, acc);
      }
    out[d] = acc;
  }
}

void merge(float* out, float* stats, const float* next_out, const float* next_stats, int head_dim) {
  float m = stats[0] > next_stats[0] ? stats[0] : next_stats[0];
  if (stats[0] != stats[0]) m = stats[0];
  float kept = stats[0] == kMinusInfinity ? 0.0f : exp1(stats[0] - m);
  float gained = next_stats[0] == kMinusInfinity ? 0.0f : exp1(next_stats[0] - m);
  in_sixteens(head_dim, [&](int i, int count) INLINED {
    put(out + i, fma(get(next_out + i, count), set1(gained), mul(get(out + i, count), set1(kept))), count);
  });
  stats[1] = __builtin_fmaf(next_stats[1], gained, stats[1] * kept);
  stats[0] = m;
}

void finish(float* out, const float* stats, int head_dim) {
  in_sixteens(head_dim, [&](int i, int count) INLINED { put(out + i, div(get(out + i, count), set1(stats[1])), count); });
}

template <int N> INLINE void attend_tile(const AttentionTask& t, int pair) {
  const float* q[N];
  float *out[N], *stats[N], *sums[N];
  float next_out[N][kMaxHeadDim], next_stats[N][2];
  Seen seen;
  int64_t lowest = INT64_MAX, highest = 0;
  for (int i = 0; i < N; ++i) {
    int query = (pair + i) / t.group, head = (pair + i) % t.group;
    q[i] = t.q + size_t(query) * t.q_stride + size_t(head) * t.head_dim;
    out[i] = t.out + size_t(query) * t.out_stride + size_t(head) * t.head_dim;
    stats[i] = t.stats + (size_t(query) * t.group + head) * 2;
    int64_t high = t.first_position + query, low = t.window && high >= t.window ? high - t.window + 1 : 0;
    seen.low[i] = float(low), seen.high[i] = float(high);
    lowest = low < lowest ? low : lowest, highest = high > highest ? high : highest;
  }
  float scores[N][kChunk];
  bool is_first = true;
  for (int c = t.chunk_begin; c < t.chunk_end; ++c) {
    int64_t begin = int64_t(c) * kChunk, end = begin + kChunk <= highest + 1 ? begin + kChunk : highest + 1;
    int first_page = int((begin > lowest ? begin : lowest) / kPage), last_page = int((end + kPage - 1) / kPage);
    int num_pages = last_page > first_page ? last_page - first_page : 0;
    for (int p = 0; p < num_pages; ++p)
      score_page(t, q, t.pages[first_page + p] + t.key_offset, (first_page + p) * kPage, seen, scores, p * kPage);
    for (int i = 0; i < N; ++i) {
      exponentiate(scores[i], num_pages * kPage, is_first ? stats[i] : next_stats[i]);
      sums[i] = is_first ? out[i] : next_out[i];
    }
    int d = 0;
    for (; d + 64 <= t.head_dim; d += 64) weigh_values<N, 4>(t, scores, first_page, num_pages, d, sums);
    for (; d + 16 <= t.head_dim; d += 16) weigh_values<N, 1>(t, scores, first_page, num_pages, d, sums);
    for (int i = 0; i < N && d < t.head_dim; ++i) weigh_rest(t, scores[i], first_page, num_pages, sums[i]);
    if (!is_first)
      for (int i = 0; i < N; ++i) merge(out[i], stats[i], next_out[i], next_stats[i], t.head_dim);
    is_first = false;
  }
}

void attend(const AttentionTask& t) {
  int pairs = t.num_queries * t.group, pair = 0;
  for (; pair + kTogether <= pairs; pair += kTogether) attend_tile<kTogether>(t, pair);
  for (; pair + 3 <= pairs; pair += 3) attend_tile<3>(t, pair);
  for (; pair < pairs; ++pair) attend_tile<1>(t, pair);
}

void store_key(const float* k, int head_dim, uint16_t* page, int slot) {
  uint16_t rounded[16];
  in_sixteens(head_dim, [&](int i, int count) INLINED {
    store_bf16(rounded, get(k + i, count));
    for (int j = 0; j < count; ++j) page[size_t(i + j) * kPage + slot] = rounded[j];
  });
}
void store_value(const float* v, int head_dim, uint16_t* page, int slot) {
  uint16_t rounded[16];
  in_sixteens(head_dim, [&](int i, int count) INLINED {
    store_bf16(rounded, get(v + i, count));
    for (int j = 0; j < count; ++j) page[size_t(slot) * head_dim + i + j] = rounded[j];
  });
}
