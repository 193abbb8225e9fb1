// The path of a step, phase by phase; between phases all threads meet. Items of a phase are claimed by whoever is free,
// and write to places of their own, so that results do not depend on who computed what.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "graph/pass.hpp"

namespace martlet {

namespace {

int round_up(int n, int to) { return (n + to - 1) / to * to; }

constexpr int kRowsTogether = 128;  // of x: they stay in the second cache beside a few groups of W

struct Product {
  const Linear* linear;
  float* y;
  size_t y_stride;
};

// What every phase needs; one a thread.
struct Worker {
  const Model& model;
  const Kernels& k;
  Team& team;
  std::atomic<int>* claims;
  int num_phases, thread;
  int phase = 0;
  bool is_open = false;  // the phase before may not be done yet

  // Every item of a phase by one thread or another, once the phase before is done. A single item costs no barrier more.
  template <class F> void share(int num_items, F&& f) {
    if (num_items == 1 && is_open) {
      team.meet(thread, [&] { f(0); });
      is_open = false;
      return;
    }
    if (is_open) team.meet(thread);
    std::atomic<int>& next = claims[phase++];
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < num_items;) f(i);
    is_open = true;
  }

  // The same, where items that follow one another lie so in memory: each thread takes a run of them, in order, so that what it
  // fetches ahead it will read; who is done helps the others.
  template <class F> void share_runs(int num_items, F&& f) {
    if (is_open) team.meet(thread);
    const int size = team.present();
    for (int i = 0; i < size; ++i) {
      const int whose = (thread + i) % size;
      const int begin = int(int64_t(num_items) * whose / size), end = int(int64_t(num_items) * (whose + 1) / size);
      std::atomic<int>& next = claims[whose * num_phases + phase];
      if (begin + next.load(std::memory_order_relaxed) >= end) continue;
      for (int item; (item = begin + next.fetch_add(1, std::memory_order_relaxed)) < end;) f(item);
    }
    ++phase;
    is_open = true;
  }

  // Every row of a phase. Four at a time where there are many: their 8-bit forms lie side by side in the same cache lines.
  template <class F> void share_rows(int num_rows, F&& f) {
    const int together = num_rows >= 8 * team.size() ? 4 : 1;
    share((num_rows + together - 1) / together, [&](int item) {
      for (int t = item * together; t < std::min((item + 1) * together, num_rows); ++t) f(t);
    });
  }

  // Groups of a product that one thread takes at a time: each thread has some, and nobody waits long for the last.
  int groups_together(std::span<const Product> products, int num_rows) const {
    constexpr size_t kMostBytes = 1 << 17;
    int groups = 0;
    size_t bytes = 1;
    for (const Product& p : products)
      groups += p.linear->matrix().groups(), bytes = std::max(bytes, p.linear->matrix().group_bytes());
    return std::clamp(groups / (team.size() * 6), 1, num_rows > 8 ? 8 : std::max(1, int(kMostBytes / bytes)));
  }

  // The same number of rows of each of several products at a time, and then `done(row of x, first column, end)`.
  template <class F>
  void multiply_beside(std::span<const Product> products, const Activations& x, int num_rows, F&& done) {
    constexpr int kColumns = kBlock / kRows;  // groups whose columns are a block
    const int groups = products[0].linear->matrix().groups(), blocks = (num_rows + kRowsTogether - 1) / kRowsTogether;
    const int together = round_up(std::max(1, groups_together(products, num_rows) / int(products.size())), kColumns);
    const int pieces = (groups + together - 1) / together;
    share_runs(blocks * pieces, [&](int item) {
      const int begin = item % pieces * together, end = std::min(begin + together, groups);
      const int row = item / pieces * kRowsTogether, row_end = std::min(row + kRowsTogether, num_rows);
      for (const Product& p : products) {
        const Matrix& w = p.linear->matrix();
        k.matmul[int(w.kind)](w, begin, end, x, row, row_end, p.y, p.y_stride);
      }
      for (int t = row; t < row_end; ++t) done(t, begin * kRows, std::min(end * kRows, products[0].linear->matrix().n));
    });
  }

  // Products of the same input, rows row_begin..row_end of it.
  void multiply(std::span<const Product> products, const Activations& x, int num_rows) {
    const int blocks = (num_rows + kRowsTogether - 1) / kRowsTogether, together = groups_together(products, num_rows);
    int per_block = 0;
    for (const Product& p : products) per_block += (p.linear->matrix().groups() + together - 1) / together;
    share_runs(blocks * per_block, [&](int item) {
      int block = item / per_block, place = item % per_block;
      for (const Product& p : products) {
        const Matrix& w = p.linear->matrix();
        int pieces = (w.groups() + together - 1) / together;
        if (place < pieces) {
          int begin = place * together, row = block * kRowsTogether;
          k.matmul[int(w.kind)](w, begin, std::min(begin + together, w.groups()), x, row,
                                std::min(row + kRowsTogether, num_rows), p.y, p.y_stride);
          return;
        }
        place -= pieces;
      }
    });
  }
};

// The first of a step's keys and values that a page does not hold.
struct Lost {
  size_t layer = SIZE_MAX;
  int token = 0, head = 0;
  float value = 0;
};

float largest_finite(const float* key, const float* value, int n) {
  float largest = 0;
  for (const float* row : {key, value})
    for (int i = 0; i < n; ++i)
      if (std::isfinite(row[i]) && std::fabs(row[i]) > std::fabs(largest)) largest = row[i];
  return largest;
}

void add_bias(const Kernels& k, const Linear& linear, float* y) {
  if (!linear.bias.empty()) k.add(y, linear.bias.data(), int(linear.bias.size()));
}
void add_bias(const Kernels& k, const Linear& linear, float* y, int begin, int end) {
  if (!linear.bias.empty()) k.add(y + begin, linear.bias.data() + begin, end - begin);
}

void apply_norm(const Model& model, const Kernels& k, const Norm& norm, const float* x, float* y) {
  const Arch& a = model.arch;
  k.norm(a.norm, x, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), a.norm_eps, a.hidden_size, y);
}

}  // namespace

void Engine::run(Pass& pass, float* logits, Chosen* chosen) {
  const Model& m = *model_;
  const Arch& a = m.arch;
  const Kernels& k = kernels_;
  Space& s = *space_;
  const int T = int(pass.tokens.size()), W = int(pass.wanted.size()), D = a.hidden_size;
  const int Q = a.query_size(), KV = a.key_value_size(), F = a.intermediate_size;
  const int group = a.num_attention_heads / a.num_key_value_heads;
  const int Qp = round_up(Q, kRows), KVp = round_up(KV, kRows), Fp = round_up(F, kRows), Dp = round_up(D, kRows);
  const size_t num_layers = m.layers.size();
  int half_max = 1;
  for (int rotated : a.rotated) half_max = std::max(half_max, rotated / 2);

  Forms forms, mlp_forms;
  for (const LayerWeights& w : m.layers) {
    for (const Linear* l : {&w.q, &w.k, &w.v, &w.o, &w.up}) forms.add(*l);
    if (a.gated) forms.add(w.gate);
    mlp_forms.add(w.down);
  }
  forms.add(m.head);
  if (a.embedding_size) forms.add(m.project_in), forms.add(m.project_out);

  const int places = std::max(T, W);
  float* x = s.x.reserve(size_t(T) * Dp);
  float* attention = s.attention.reserve(size_t(T) * Qp);
  float* out = s.out.reserve(size_t(places) * std::max(Dp, round_up(a.embedding_size, kRows)));
  float* mlp_out = s.mlp_out.reserve(size_t(T) * Dp);
  float* qkv = s.qkv.reserve(size_t(T) * (Qp + 2 * KVp));
  float* gate_up = s.gate_up.reserve(size_t(T) * 2 * Fp);
  float* stats = s.stats.reserve(size_t(T) * a.num_attention_heads * 2);
  float* cos = s.cos.reserve(a.rotated.size() * T * half_max);
  float* sin = s.sin.reserve(a.rotated.size() * T * half_max);
  const Activations in = s.in.reserve(places, round_up(std::max({D, Q, a.embedding_size}), kBlock), forms, k);
  const Activations mlp_in = s.mlp_in.reserve(T, round_up(F, kBlock), mlp_forms, k);

  plan_attention(pass);
  float *parts = nullptr, *part_stats = nullptr;
  if (pass.pieces) {
    parts = s.parts.reserve(size_t(T) * pass.pieces * Q);
    part_stats = s.part_stats.reserve(size_t(T) * pass.pieces * a.num_attention_heads * 2);
  }
  const int phases = num_phases();
  for (int i = 0; i < phases * team_.size(); ++i) s.claims[size_t(i)].store(0, std::memory_order_relaxed);

  auto input = [&](int t) { return in.f32 + size_t(t) * in.stride; };
  auto prepare_columns = [&](const Activations& x, int t, int width, int begin, int end) {
    if (x.bf16 || x.rounded || x.q8) k.prepare(x.f32 + size_t(t) * x.stride, width, x, t, begin / kBlock, end / kBlock);
  };
  auto prepare = [&](int t, int width) { prepare_columns(in, t, width, 0, in.stride); };
  auto residual = [&](int t) { return x + size_t(t) * Dp; };

  auto feed_attention = [&](size_t layer, int t) {
    const float* from = residual(t);
    bool plain = a.placement == Placement::POST || a.placement == Placement::OUTPUT;
    if (plain)
      std::memcpy(input(t), from, size_t(D) * sizeof(float));
    else
      apply_norm(m, k, m.layers[layer].norms[0], from, input(t));
    prepare(t, D);
  };
  auto feed_mlp = [&](const LayerWeights& w, int t) {  // takes the attention's part in `out`
    float *to = residual(t), *got = out + size_t(t) * Dp;
    add_bias(k, w.o, got);
    switch (a.placement) {
      case Placement::PRE:
        k.add_scaled(to, got, a.residual_scale, D);
        apply_norm(m, k, w.norms[1], to, input(t));
        break;
      case Placement::POST:
        k.add_scaled(to, got, a.residual_scale, D);
        apply_norm(m, k, w.norms[0], to, to);
        std::memcpy(input(t), to, size_t(D) * sizeof(float));
        break;
      case Placement::OUTPUT:
        apply_norm(m, k, w.norms[0], got, got);
        k.add_scaled(to, got, a.residual_scale, D);
        std::memcpy(input(t), to, size_t(D) * sizeof(float));
        break;
      case Placement::SANDWICH:
        apply_norm(m, k, w.norms[1], got, got);
        k.add_scaled(to, got, a.residual_scale, D);
        apply_norm(m, k, w.norms[2], to, input(t));
        break;
      case Placement::PARALLEL: apply_norm(m, k, w.norms[1], to, input(t)); break;
      case Placement::PARALLEL_SHARED: apply_norm(m, k, w.norms[0], to, input(t)); break;
    }
    prepare(t, D);
  };
  auto take_mlp = [&](const LayerWeights& w, int t) {
    float *to = residual(t), *got = mlp_out + size_t(t) * Dp;
    add_bias(k, w.down, got);
    switch (a.placement) {
      case Placement::PRE: k.add_scaled(to, got, a.residual_scale, D); break;
      case Placement::POST:
        k.add_scaled(to, got, a.residual_scale, D);
        apply_norm(m, k, w.norms[1], to, to);
        break;
      case Placement::OUTPUT:
        apply_norm(m, k, w.norms[1], got, got);
        k.add_scaled(to, got, a.residual_scale, D);
        break;
      case Placement::SANDWICH:
        apply_norm(m, k, w.norms[3], got, got);
        k.add_scaled(to, got, a.residual_scale, D);
        break;
      default:
        k.add(got, out + size_t(t) * Dp, D);
        k.add_scaled(to, got, a.residual_scale, D);
    }
  };
  // Rows of the tables are read before any thread starts: reading can fail.
  const size_t row_bytes = m.embedding.row_bytes, position_bytes = m.positions.row_bytes;
  uint8_t* embedding_rows = s.embedding_rows.reserve(size_t(T) * row_bytes);
  uint8_t* position_rows = a.position_table ? s.position_rows.reserve(size_t(T) * position_bytes) : nullptr;
  for (int t = 0; t < T; ++t) {
    const Token& token = pass.tokens[size_t(t)];
    m.embedding.read(token.id, embedding_rows + size_t(t) * row_bytes);
    if (position_rows) m.positions.read(int(token.position) + a.position_offset, position_rows + size_t(t) * position_bytes);
  }
  auto embed = [&](int t) {
    float* to = a.embedding_size ? input(t) : residual(t);
    int width = m.embedding.columns;
    read_row(m.embedding.kind, embedding_rows + size_t(t) * row_bytes, width, to);
    if (a.embed_scale != 1.0f) k.multiply(to, a.embed_scale, width);
    if (a.embedding_size) prepare(t, width);
  };
  auto place = [&](int t) {  // positions: learned ones, and the turns of each rope
    const Token& token = pass.tokens[size_t(t)];
    if (a.position_table) {
      read_row(m.positions.kind, position_rows + size_t(t) * position_bytes, D, input(t));
      k.add(residual(t), input(t), D);
    }
    const PassRow& row = pass.rows[size_t(token.row)];
    for (size_t r = 0; r < a.rotated.size(); ++r)
      for (int i = 0; i < a.rotated[r] / 2; ++i) {
        // the product is rounded to float32 as the reference's is
        float angle = float(token.position) * row.step->frequencies[r][i];
        size_t at = (r * T + t) * size_t(half_max) + size_t(i);
        cos[at] = float(std::cos(double(angle))) * a.attention_factors[r];
        sin[at] = float(std::sin(double(angle))) * a.attention_factors[r];
      }
  };
  std::exception_ptr failed;
  Lost lost;
  std::mutex failing;
  // Biases, norms and turns of the new queries and keys; keys and values go to their pages. By key/value head, with the
  // queries that read it, but for norms over all heads.
  auto norm_all_heads = [&](const LayerWeights& w, int t) {
    float *q = qkv + size_t(t) * (Qp + 2 * KVp), *key = q + Qp;
    add_bias(k, w.q, q), add_bias(k, w.k, key);
    k.norm(norm_of_heads(), q, w.q_norm.data(), nullptr, a.norm_eps, Q, q);
    k.norm(norm_of_heads(), key, w.k_norm.data(), nullptr, a.norm_eps, KV, key);
  };
  auto remember_head = [&](size_t layer, int t, int h) {
    const LayerWeights& w = m.layers[layer];
    float *q = qkv + size_t(t) * (Qp + 2 * KVp), *key = q + Qp, *value = key + KVp;
    const int begin = h * a.head_dim, end = begin + a.head_dim;
    if (a.qk_norm != QKNorm::FULL) add_bias(k, w.q, q, begin * group, end * group), add_bias(k, w.k, key, begin, end);
    add_bias(k, w.v, value, begin, end);
    auto turn = [&](float* head, const std::vector<float>& norm) {
      if (a.qk_norm == QKNorm::HEAD) k.norm(norm_of_heads(), head, norm.data(), nullptr, a.norm_eps, a.head_dim, head);
      if (int rope = a.layers[layer].rope; rope >= 0) {
        size_t at = (size_t(rope) * T + t) * half_max;
        k.rotate(head, {a.rotated[size_t(rope)], cos + at, sin + at});
      }
    };
    for (int i = h * group; i < (h + 1) * group; ++i) turn(q + i * a.head_dim, w.q_norm);
    turn(key + begin, w.k_norm);
    const Token& token = pass.tokens[size_t(t)];
    uint8_t* page = cache_.pages(pass.rows[size_t(token.row)].step->sequence)[size_t(token.position / kPage)];
    const int dtype = int(cache_.dtype()), slot = int(token.position % kPage);
    const int head = int(layer) * a.num_key_value_heads + h;
    bool fits = k.store_key[dtype](key + begin, a.head_dim, page + cache_.key_offset(head), slot);
    fits &= k.store_value[dtype](value + begin, a.head_dim, page + cache_.value_offset(head), slot);
    if (!fits) {
      std::lock_guard lock(failing);
      if (std::tuple(layer, t, h) < std::tuple(lost.layer, lost.token, lost.head))
        lost = {layer, t, h, largest_finite(key + begin, value + begin, a.head_dim)};
    }
  };
  // A token a row, whose heads need nothing of each other: one thread takes a head from its turn to its sums.
  bool heads_alone = !pass.pieces && a.qk_norm != QKNorm::FULL && group * a.head_dim % kBlock == 0;
  for (const PassRow& row : pass.rows) heads_alone &= row.count == 1;
  const auto attend_pages = k.attend[int(cache_.dtype())];
  auto attend = [&](size_t layer, const AttentionItem& item) {
    const PassRow& row = pass.rows[size_t(item.row)];
    int first = row.first + item.first_query, head = int(layer) * a.num_key_value_heads + item.head;
    AttentionTask task;
    task.q = qkv + size_t(first) * (Qp + 2 * KVp) + size_t(item.head) * group * a.head_dim;
    task.q_stride = size_t(Qp + 2 * KVp);
    task.num_queries = item.num_queries, task.group = group, task.head_dim = a.head_dim;
    task.first_position = row.past + item.first_query;
    task.window = a.layers[layer].window;
    task.scale = a.score_scale, task.softcap = a.attn_softcap;
    task.pages = cache_.pages(row.step->sequence).data();
    task.key_offset = cache_.key_offset(head), task.value_offset = cache_.value_offset(head);
    int64_t last = task.first_position + item.num_queries - 1;
    int64_t low = task.window ? std::max<int64_t>(0, task.first_position - task.window + 1) : 0;
    task.chunk_begin = int(low / kChunk), task.chunk_end = int(last / kChunk) + 1;
    task.out = attention + size_t(first) * Qp + size_t(item.head) * group * a.head_dim;
    task.out_stride = size_t(Qp);
    // an item's queries lie together: [query][head of the group], in the room of its key/value head
    task.stats = stats + (size_t(item.head) * T + size_t(first)) * group * 2;
    if (item.piece >= 0) {  // one query: its heads' sums of this chunk alone
      if (item.piece < task.chunk_begin || item.piece >= task.chunk_end) return;
      task.chunk_begin = item.piece, task.chunk_end = item.piece + 1;
      size_t at = size_t(first) * pass.pieces + size_t(item.piece);
      task.out = parts + at * Q + size_t(item.head) * group * a.head_dim;
      task.stats = part_stats + (at * a.num_attention_heads + size_t(item.head) * group) * 2;
      return attend_pages(task);
    }
    attend_pages(task);
    for (int i = 0; i < item.num_queries; ++i)
      for (int h = 0; h < group; ++h)
        k.finish(task.out + size_t(i) * Qp + size_t(h) * a.head_dim, task.stats + (size_t(i) * group + h) * 2, a.head_dim);
  };
  // A token's chunks, merged in order.
  auto gather = [&](size_t layer, int t) {
    int64_t position = pass.tokens[size_t(t)].position;
    int window = a.layers[layer].window;
    int begin = window ? int(std::max<int64_t>(0, position - window + 1) / kChunk) : 0, end = int(position / kChunk) + 1;
    for (int h = 0; h < a.num_attention_heads; ++h) {
      float* sums = attention + size_t(t) * Qp + size_t(h) * a.head_dim;
      float running[2];
      for (int c = begin; c < end; ++c) {
        size_t at = size_t(t) * pass.pieces + size_t(c);
        const float* part = parts + at * Q + size_t(h) * a.head_dim;
        const float* its = part_stats + (at * a.num_attention_heads + size_t(h)) * 2;
        if (c == begin) {
          std::memcpy(sums, part, size_t(a.head_dim) * sizeof(float));
          running[0] = its[0], running[1] = its[1];
        } else {
          k.merge(sums, running, part, its, a.head_dim);
        }
      }
      k.finish(sums, running, a.head_dim);
    }
  };

  const int V = a.vocab_size, Vp = round_up(V, kRows);
  float* scores = V == Vp && logits ? logits : s.logits.reserve(size_t(W) * Vp);

  team_.share([&](int thread) {
    Worker work{m, k, team_, s.claims.get(), phases, thread};
    work.share_rows(T, embed);
    if (a.embedding_size) {
      Product product[] = {{&m.project_in, x, size_t(Dp)}};
      work.multiply(product, in, T);
    }
    work.share_rows(T, [&](int t) {
      if (a.embedding_size) add_bias(k, m.project_in, residual(t));
      place(t);
      feed_attention(0, t);
    });
    for (size_t layer = 0; layer < num_layers; ++layer) {
      const LayerWeights& w = m.layers[layer];
      const size_t stride = size_t(Qp + 2 * KVp);
      Product into_qkv[] = {{&w.q, qkv, stride}, {&w.k, qkv + Qp, stride}, {&w.v, qkv + Qp + KVp, stride}};
      work.multiply(into_qkv, in, T);
      if (heads_alone) {
        work.share(int(pass.items.size()), [&](int i) {
          const AttentionItem& item = pass.items[size_t(i)];
          const int t = pass.rows[size_t(item.row)].first, begin = item.head * group * a.head_dim;
          remember_head(layer, t, item.head);
          attend(layer, item);
          const int end = item.head + 1 == a.num_key_value_heads ? in.stride : begin + group * a.head_dim;
          std::memcpy(input(t) + begin, attention + size_t(t) * Qp + begin, size_t(group * a.head_dim) * sizeof(float));
          prepare_columns(in, t, Q, begin, end);
        });
      } else {
        work.share_rows(T, [&](int t) {
          if (a.qk_norm == QKNorm::FULL) norm_all_heads(w, t);
          for (int h = 0; h < a.num_key_value_heads; ++h) remember_head(layer, t, h);
        });
        work.share(int(pass.items.size()), [&](int i) { attend(layer, pass.items[size_t(i)]); });
        work.share_rows(T, [&](int t) {
          if (pass.pieces) gather(layer, t);
          std::memcpy(input(t), attention + size_t(t) * Qp, size_t(Q) * sizeof(float));
          prepare(t, Q);
        });
      }
      Product into_out[] = {{&w.o, out, size_t(Dp)}};
      work.multiply(into_out, in, T);
      work.share_rows(T, [&](int t) { feed_mlp(w, t); });
      Product up[] = {{&w.up, gate_up + Fp, size_t(2 * Fp)}, {&w.gate, gate_up, size_t(2 * Fp)}};
      work.multiply_beside({up, size_t(a.gated ? 2 : 1)}, in, T, [&](int t, int begin, int end) {
        float *gate = gate_up + size_t(t) * 2 * Fp, *plain = gate + Fp, *to = mlp_in.f32 + size_t(t) * mlp_in.stride;
        add_bias(k, w.up, plain, begin, end);
        if (a.gated) add_bias(k, w.gate, gate, begin, end);
        k.activate(a.activation, (a.gated ? gate : plain) + begin, a.gated ? plain + begin : nullptr, end - begin,
                   to + begin);
        prepare_columns(mlp_in, t, F, begin, round_up(end, kBlock));
      });
      Product into_mlp[] = {{&w.down, mlp_out, size_t(Dp)}};
      work.multiply(into_mlp, mlp_in, T);
      work.share_rows(T, [&](int t) {
        take_mlp(w, t);
        if (layer + 1 < num_layers) feed_attention(layer + 1, t);
      });
    }
    work.share_rows(W, [&](int i) {
      const float* from = residual(pass.wanted[size_t(i)]);
      if (a.final_norm)
        apply_norm(m, k, m.final_norm, from, input(i));
      else
        std::memcpy(input(i), from, size_t(D) * sizeof(float));
      prepare(i, D);
    });
    if (a.embedding_size) {
      const size_t stride = size_t(round_up(a.embedding_size, kRows));
      Product product[] = {{&m.project_out, out, stride}};
      work.multiply(product, in, W);
      work.share_rows(W, [&](int i) {
        float* got = out + size_t(i) * stride;
        add_bias(k, m.project_out, got);
        std::memcpy(input(i), got, size_t(a.embedding_size) * sizeof(float));
        prepare(i, a.embedding_size);
      });
    }
    Product into_logits[] = {{&m.head, scores, size_t(Vp)}};
    work.multiply(into_logits, in, W);
    work.share(W, [&](int i) {
      float* row = scores + size_t(i) * Vp;
      add_bias(k, m.head, row);
      if (a.logit_scale != 1.0f) k.multiply(row, a.logit_scale, V);
      if (a.logit_softcap != 0.0f) k.softcap(row, a.logit_softcap, V);
      if (!chosen) {
        if (scores != logits) std::memcpy(logits + size_t(i) * V, row, size_t(V) * sizeof(float));
        return;
      }
      const Token& token = pass.tokens[size_t(pass.wanted[size_t(i)])];
      try {
        chosen[i] = pass.rows[size_t(token.row)].step->chooser->choose(row, token.position + 1);
      } catch (...) {
        std::lock_guard lock(failing);
        failed = std::current_exception();
      }
    });
  });
  if (lost.layer != SIZE_MAX) {
    char found[96];
    std::snprintf(found, sizeof(found), "%.6g in layer %zu at position %lld", double(lost.value), lost.layer,
                  static_cast<long long>(pass.tokens[size_t(lost.token)].position));
    throw std::overflow_error(found);
  }
  if (failed) std::rethrow_exception(failed);
}

NormKind Engine::norm_of_heads() const {
  return model_->arch.norm == NormKind::RMS_PLUS_ONE ? NormKind::RMS_PLUS_ONE : NormKind::RMS;
}

}  // namespace martlet
