// Rows into passes, and a pass's attention into items; what a pass computes is in step.cpp.
#include <algorithm>
#include <new>
#include <utility>

#include "graph/pass.hpp"

namespace martlet {

Engine::Engine(std::shared_ptr<const Model> model, const Kernels& kernels, int num_threads, KvDtype kv_dtype,
               int64_t max_pages)
    : model_(std::move(model)),
      kernels_(kernels),
      team_(num_threads),
      cache_(int(model_->layers.size()) * model_->arch.num_key_value_heads, model_->arch.head_dim, kv_dtype, max_pages),
      space_(std::make_unique<Space>()) {
  space_->claims.reset(new std::atomic<int>[size_t(num_phases()) * size_t(team_.size())]);
}

Engine::~Engine() = default;

size_t Engine::workspace_bytes() const {
  const Space& s = *space_;
  size_t bytes = s.in.bytes() + s.mlp_in.bytes() + s.embedding_rows.bytes() + s.position_rows.bytes();
  for (const Buffer<float>* b : {&s.x, &s.attention, &s.out, &s.mlp_out, &s.qkv, &s.gate_up, &s.logits, &s.cos, &s.sin,
                                 &s.parts, &s.part_stats, &s.stats})
    bytes += b->bytes();
  return bytes;
}

int64_t Engine::pages_needed(std::span<const RowStep> rows) const {
  int64_t needed = 0;
  for (const RowStep& row : rows) needed += cache_.pages_needed(row.sequence, int64_t(row.tokens.size()));
  return needed;
}

void Engine::step(std::span<const RowStep> rows, float* logits) { take(rows, logits, nullptr); }

std::vector<Chosen> Engine::choose(std::span<const RowStep> rows) {
  std::vector<Chosen> chosen(rows.size());
  take(rows, nullptr, chosen.data());
  return chosen;
}

// Logits of all rows, or what their choosers make of them.
void Engine::take(std::span<const RowStep> rows, float* logits, Chosen* chosen) {
  if (pages_needed(rows) > cache_.pages_free()) throw std::bad_alloc();
  std::vector<int64_t> before;
  for (const RowStep& row : rows) before.push_back(cache_.length(row.sequence));
  try {
    std::vector<size_t> done(rows.size(), 0);
    size_t first_row = 0;
    while (first_row < rows.size()) {
      Pass pass;
      int room = kMaxTokens, num_wanted = 0;
      for (size_t r = first_row; r < rows.size() && room > 0; ++r) {
        const RowStep& row = rows[r];
        int count = int(std::min(size_t(room), row.tokens.size() - done[r]));
        int64_t past = cache_.length(row.sequence);
        cache_.extend(row.sequence, count);
        pass.rows.push_back({&row, int(pass.tokens.size()), count, past});
        for (int i = 0; i < count; ++i) {
          bool is_last = done[r] + size_t(i) + 1 == row.tokens.size();
          if (row.wants_all || is_last) pass.wanted.push_back(int(pass.tokens.size())), ++num_wanted;
          pass.tokens.push_back({int(pass.rows.size()) - 1, row.tokens[done[r] + size_t(i)], past + i});
        }
        done[r] += size_t(count);
        room -= count;
        if (done[r] == row.tokens.size()) first_row = r + 1;
      }
      run(pass, logits, chosen);
      if (logits) logits += size_t(num_wanted) * size_t(model_->arch.vocab_size);
      if (chosen) chosen += num_wanted;
    }
  } catch (...) {
    for (size_t r = 0; r < rows.size(); ++r) cache_.truncate(rows[r].sequence, before[r]);
    throw;
  }
}

void Engine::plan_attention(Pass& pass) const {
  const Arch& a = model_->arch;
  const int heads = a.num_key_value_heads;
  int64_t longest = 0;
  for (const PassRow& row : pass.rows) longest = std::max(longest, row.past + row.count);
  // Few tokens and long pasts: chunks are shared out as well, or a thread would wait for another's row.
  bool in_pieces = longest > kChunk && pass.tokens.size() * size_t(heads) < size_t(8 * team_.size());
  if (in_pieces) pass.pieces = int((longest - 1) / kChunk) + 1;
  // so many that a page of keys is widened once for about 30 heads' queries, and items stay small
  const int queries_together = std::max(1, 30 * heads / a.num_attention_heads);
  for (size_t r = 0; r < pass.rows.size(); ++r) {
    const PassRow& row = pass.rows[r];
    int together = in_pieces ? 1 : queries_together;
    for (int begin = 0; begin < row.count; begin += together) {
      int count = std::min(together, row.count - begin);
      for (int h = 0; h < heads; ++h)
        if (in_pieces)
          for (int c = 0; c <= int((row.past + begin) / kChunk); ++c) pass.items.push_back({int(r), h, begin, count, c});
        else
          pass.items.push_back({int(r), h, begin, count, -1});
    }
  }
  // The longest items first, so that nobody is left with one at the end.
  std::stable_sort(pass.items.begin(), pass.items.end(), [&](const AttentionItem& l, const AttentionItem& r) {
    return pass.rows[size_t(l.row)].past + l.first_query > pass.rows[size_t(r.row)].past + r.first_query;
  });
}

}  // namespace martlet
