// softmax(q k' * scale) v over pages of 16 positions, in chunks of 256 whose sums are merged in order:
//
//   chunk:  m = max s_j,  l = sum exp(s_j - m),  o = sum exp(s_j - m) v_j
//   merge:  m = max(m1, m2),  l = l1 exp(m1 - m) + l2 exp(m2 - m),  o alike
//
// Chunks begin at absolute positions, so a query's result is the same whoever computes which chunk, and however many
// queries stand beside it: what a query may not see adds exact zeros.
#pragma once

constexpr float kMinusInfinity = -__builtin_inff();
constexpr int kTogether = kFloatTile < 4 ? 4 : kFloatTile;  // queries, or heads of one query, that share a load of keys
constexpr int kMostTogether = 32;                       // and that share a page widened to float32

// Numbers of a page. From `first_lost` on a finite float32 would be rounded to infinity. Parted, sixteen numbers are loaded in
// the order that costs the set least, and `in_order` sets sums of them right.
struct KvBf16 {
  using type = uint16_t;
  static constexpr bool is_wide = false, is_parted = true;
  static constexpr float first_lost = 0x1.ffp127f;
  static INLINE f32 load(const type* p) { return load_bf16(p); }
  static INLINE f32 load_parted(const type* p) { return MARTLET_ISA::load_bf16_parted(p); }
  static INLINE void store(type* p, f32 a) { store_bf16(p, a); }
};
struct KvF16 {
  using type = uint16_t;
  static constexpr bool is_wide = false, is_parted = false;
  static constexpr float first_lost = 65520.0f;
  static INLINE f32 load(const type* p) { return load_f16(p); }
  static INLINE f32 load_parted(const type* p) { return load_f16(p); }
  static INLINE void store(type* p, f32 a) { store_f16(p, a); }
};
struct KvF32 {
  using type = float;
  static constexpr bool is_wide = true, is_parted = false;
  static constexpr float first_lost = __builtin_inff();
  static INLINE f32 load(const type* p) { return MARTLET_ISA::load(p); }
  static INLINE f32 load_parted(const type* p) { return MARTLET_ISA::load(p); }
  static INLINE void store(type* p, f32 a) { MARTLET_ISA::store(p, a); }
};

INLINE f32 counting(float first) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = first + float(i);
  return load(lanes);
}

// The queries of one pass over the pages, a head's query each: where they are, what they see, what they give.
struct Queries {
  int count = 0;
  const float* q[kMostTogether];
  float *out[kMostTogether], *stats[kMostTogether];
  float low[kMostTogether], high[kMostTogether];  // positions
  int64_t lowest = INT64_MAX, highest = 0;
};

// `key(d)` gives dimension d of the page's sixteen keys.
template <int N, bool Parted, class Key>
INLINE void score_page(const AttentionTask& t, const Queries& u, int first, int position, float (*scores)[kChunk],
                       int place, Key&& key) {
  f32 sums[N];
  for (int i = 0; i < N; ++i) sums[i] = zero();
  for (int d = 0; d < t.head_dim; ++d) {
    f32 k = key(d);
    for (int i = 0; i < N; ++i) sums[i] = fma(k, set1(u.q[first + i][d]), sums[i]);
  }
  f32 positions = counting(float(position)), hidden = set1(kMinusInfinity);
  for (int i = 0; i < N; ++i) {
    f32 s = mul(Parted ? in_order(sums[i]) : sums[i], set1(t.scale));
    if (t.softcap != 0.0f) s = mul(set1(t.softcap), tanh(div(s, set1(t.softcap))));
    s = select_less(set1(u.high[first + i]), positions, hidden, s);
    s = select_less(positions, set1(u.low[first + i]), hidden, s);
    store(scores[first + i] + place, s);
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
    f32 e = select_less(s, set1(-3e38f), zero(), exp(sub(s, set1(m))));  // hidden positions: exactly zero; NaN goes on
    store(scores + j, e);
    total = add(total, e);
  }
  stats[0] = m, stats[1] = sum(total);
}

// Adds a page's sixteen values, weighted, to 16 * Width dimensions from d on; `value(j, d)` gives sixteen of them.
template <int N, int Width, class Value>
INLINE void weigh_page(float (*weights)[kChunk], int first, int place, int d, float* const* out, Value&& value) {
  f32 acc[N][Width];
  for (int i = 0; i < N; ++i)
    for (int w = 0; w < Width; ++w) acc[i][w] = place ? load(out[first + i] + d + 16 * w) : zero();
  for (int j = 0; j < kPage; ++j) {
    f32 v[Width];
    for (int w = 0; w < Width; ++w) v[w] = value(j, d + 16 * w);
    for (int i = 0; i < N; ++i) {
      f32 weight = set1(weights[first + i][place + j]);
      for (int w = 0; w < Width; ++w) acc[i][w] = fma(weight, v[w], acc[i][w]);
    }
  }
  for (int i = 0; i < N; ++i)
    for (int w = 0; w < Width; ++w) store(out[first + i] + d + 16 * w, acc[i][w]);
}

// Dimensions past the last sixteen.
template <class Kv>
INLINE void weigh_rest(int head_dim, const typename Kv::type* values, const float* weights, int place, float* out) {
  const int d = head_dim / 16 * 16, count = head_dim - d;
  f32 acc = place ? load_part(out + d, count) : zero();
  for (int j = 0; j < kPage; ++j) {
    typename Kv::type whole[16] = {};
    for (int i = 0; i < count; ++i) whole[i] = values[size_t(j) * size_t(head_dim) + size_t(d + i)];
    acc = fma(set1(weights[place + j]), Kv::load(whole), acc);
  }
  store_part(out + d, acc, count);
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

// Calls f(first, how many) for tiles of queries.
template <class F> INLINE void in_tiles(int count, F&& f) {
  int i = 0;
  for (; i + kTogether <= count; i += kTogether) f(i, Int<kTogether>{});
  if (kTogether > 4 && i + 4 <= count) f(i, Int<4>{}), i += 4;
  if (i + 3 <= count) f(i, Int<3>{}), i += 3;
  for (; i < count; ++i) f(i, Int<1>{});
}

// Blocks of pages lie far apart: the processor does not foresee the next.
template <class Kv> INLINE void prefetch_block(const uint8_t* block, int head_dim) {
  const int bytes = head_dim * kPage * int(sizeof(typename Kv::type));
  for (int line = 0; line < bytes; line += 64) prefetch(block + line);
}

// Many queries pass over a page that is widened to float32 once; few read it as it lies.
template <class Kv, bool Widens> INLINE void score_pages(const AttentionTask& t, const Queries& u, int first_page,
                                                         int num_pages, float (*scores)[kChunk]) {
  alignas(64) float wide[Widens ? kMaxHeadDim * kPage : 1];
  for (int p = 0; p < num_pages; ++p) {
    const auto* keys = (const typename Kv::type*)(t.pages[first_page + p] + t.key_offset);
    if (!Widens && p + 1 < num_pages) prefetch_block<Kv>(t.pages[first_page + p + 1] + t.key_offset, t.head_dim);
    if constexpr (Widens)
      for (int d = 0; d < t.head_dim; ++d) store(wide + d * kPage, Kv::load(keys + d * kPage));
    in_tiles(u.count, [&](int first, auto n) INLINED {
      score_page<n.value, !Widens && Kv::is_parted>(
          t, u, first, (first_page + p) * kPage, scores, p * kPage, [&](int d) INLINED {
            return Widens ? load(wide + d * kPage) : Kv::load_parted(keys + d * kPage);
          });
    });
  }
}

template <class Kv, bool Widens> INLINE void weigh_pages(const AttentionTask& t, const Queries& u, int first_page,
                                                         int num_pages, float (*weights)[kChunk], float* const* out) {
  alignas(64) float wide[Widens ? kMaxHeadDim * kPage : 1];
  const int n = t.head_dim;
  for (int p = 0; p < num_pages; ++p) {
    const auto* values = (const typename Kv::type*)(t.pages[first_page + p] + t.value_offset);
    if (!Widens && p + 1 < num_pages) prefetch_block<Kv>(t.pages[first_page + p + 1] + t.value_offset, n);
    if constexpr (Widens)
      for (int i = 0; i + 16 <= n * kPage; i += 16) store(wide + i, Kv::load(values + i));
    auto value = [&](int j, int d) INLINED {
      return Widens ? load(wide + j * n + d) : Kv::load_parted(values + j * n + d);
    };
    in_tiles(u.count, [&](int first, auto tile) INLINED {
      int d = 0;
      for (; d + 16 * kValuesWide <= n; d += 16 * kValuesWide)
        weigh_page<tile.value, kValuesWide>(weights, first, p * kPage, d, out, value);
      for (; d + 16 <= n; d += 16) weigh_page<tile.value, 1>(weights, first, p * kPage, d, out, value);
      for (int i = 0; i < tile.value && d < n; ++i)
        weigh_rest<Kv>(n, values, weights[first + i], p * kPage, out[first + i]);
    });
  }
  if (!Widens && Kv::is_parted && num_pages)
    for (int i = 0; i < u.count; ++i)
      for (int d = 0; d + 16 <= n; d += 16) store(out[i] + d, in_order(load(out[i] + d)));
  for (int i = 0; i < u.count && num_pages == 0; ++i)
    for (int d = 0; d < n; ++d) out[i][d] = 0.0f;
}

template <class Kv, bool Widens> INLINE void attend_to(const AttentionTask& t, const Queries& u) {
  alignas(64) float scores[kMostTogether][kChunk];
  float next_out[kMostTogether][kMaxHeadDim], next_stats[kMostTogether][2], *sums[kMostTogether];
  for (int c = t.chunk_begin; c < t.chunk_end; ++c) {
    const bool is_first = c == t.chunk_begin;
    int64_t begin = int64_t(c) * kChunk, end = begin + kChunk <= u.highest + 1 ? begin + kChunk : u.highest + 1;
    int first_page = int((begin > u.lowest ? begin : u.lowest) / kPage), last_page = int((end + kPage - 1) / kPage);
    int num_pages = last_page > first_page ? last_page - first_page : 0;
    score_pages<Kv, Widens>(t, u, first_page, num_pages, scores);
    for (int i = 0; i < u.count; ++i) {
      exponentiate(scores[i], num_pages * kPage, is_first ? u.stats[i] : next_stats[i]);
      sums[i] = is_first ? u.out[i] : next_out[i];
    }
    weigh_pages<Kv, Widens>(t, u, first_page, num_pages, scores, sums);
    for (int i = 0; i < u.count && !is_first; ++i) merge(u.out[i], u.stats[i], next_out[i], next_stats[i], t.head_dim);
  }
}

template <class Kv> void attend(const AttentionTask& t) {
  const int pairs = t.num_queries * t.group;
  for (int begin = 0; begin < pairs; begin += kMostTogether) {
    Queries u;
    for (int pair = begin; pair < pairs && u.count < kMostTogether; ++pair) {
      int i = u.count++, query = pair / t.group, head = pair % t.group;
      u.q[i] = t.q + size_t(query) * t.q_stride + size_t(head) * t.head_dim;
      u.out[i] = t.out + size_t(query) * t.out_stride + size_t(head) * t.head_dim;
      u.stats[i] = t.stats + (size_t(query) * t.group + head) * 2;
      int64_t high = t.first_position + query, low = t.window && high >= t.window ? high - t.window + 1 : 0;
      u.low[i] = float(low), u.high[i] = float(high);
      u.lowest = low < u.lowest ? low : u.lowest, u.highest = high > u.highest ? high : u.highest;
    }
    if (!Kv::is_wide && u.count > 2 * kTogether)
      attend_to<Kv, !Kv::is_wide>(t, u);
    else
      attend_to<Kv, false>(t, u);
  }
}

// Rounds a row, calls put(first dimension, how many, numbers), and tells whether no finite number was lost.
template <class Kv, class Put> INLINE bool round_row(const float* x, int n, Put&& put) {
  typename Kv::type rounded[16];
  f32 largest_finite = zero();
  in_sixteens(n, [&](int i, int count) INLINED {
    f32 a = get(x + i, count), size = abs(a);
    Kv::store(rounded, a);
    largest_finite = max(select_less(size, set1(__builtin_inff()), size, zero()), largest_finite);
    put(i, count, rounded);
  });
  return largest(largest_finite) < Kv::first_lost;
}

template <class Kv> bool store_key(const float* k, int head_dim, uint8_t* keys, int slot) {
  auto* to = (typename Kv::type*)keys;
  return round_row<Kv>(k, head_dim, [&](int d, int count, const typename Kv::type* rounded) INLINED {
    for (int j = 0; j < count; ++j) to[size_t(d + j) * kPage + size_t(slot)] = rounded[j];
  });
}
template <class Kv> bool store_value(const float* v, int head_dim, uint8_t* values, int slot) {
  auto* to = (typename Kv::type*)values + size_t(slot) * size_t(head_dim);
  return round_row<Kv>(v, head_dim, [&](int d, int count, const typename Kv::type* rounded) INLINED {
    for (int j = 0; j < count; ++j) to[d + j] = rounded[j];
  });
}
