// What a step is made of inside: passes of at most kMaxTokens tokens, their attention cut into items, and their buffers.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "graph/step.hpp"

namespace martlet {

// T tokens of this pass, from several rows.
struct Token {
  int row;
  int32_t id;
  int64_t position;
};

struct PassRow {
  const RowStep* step;
  int first;       // its first token among the pass's
  int count;
  int64_t past;    // positions held before
};

// Queries of one row and key/value head; in pieces, one chunk of positions alone.
struct AttentionItem {
  int row, head, first_query, num_queries;
  int piece;  // -1: all chunks
};

// Buffers of a pass, [token][...].
struct Engine::Space {
  Buffer<float> x, input, attention, out, mlp_out, qkv, gate_up, logits, cos, sin, parts, part_stats, stats, rounded;
  Buffer<uint16_t> bf16;
  Buffer<uint8_t> embedding_rows, position_rows;
  Buffer<int8_t> q8;
  Buffer<float> scale, sum;
  Buffer<int32_t> total, half;
  std::unique_ptr<std::atomic<int>[]> claims;
};

struct Engine::Pass {
  std::vector<PassRow> rows;
  std::vector<Token> tokens;
  std::vector<int> wanted;  // tokens whose logits are asked for
  std::vector<AttentionItem> items;
  int pieces = 0;  // chunks of the longest row, when attention is cut into chunks; 0: it is not
};

}  // namespace martlet
