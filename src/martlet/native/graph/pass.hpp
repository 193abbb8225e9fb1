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

// Which forms of its input a group of matrices reads.
struct Forms {
  bool bf16 = false, q8 = false;
  void add(const Linear& linear) {
    bf16 |= linear.matrix().kind == Kind::BF16;
    q8 |= is_quantized(linear.matrix().kind);
  }
};

// The input of products, in the forms they read.
struct Inputs {
  Buffer<float> f32, rounded, scale, sum;
  Buffer<uint16_t> bf16;
  Buffer<int8_t> q8;
  Buffer<int32_t> total, half, minus;

  Activations reserve(int rows, int stride, const Forms& forms, const Kernels& k) {
    const size_t numbers = size_t(rows) * size_t(stride), blocks = size_t((rows + 3) / 4 * 4) * size_t(stride) / kBlock;
    Activations in;
    in.stride = stride;
    in.f32 = f32.reserve(numbers);
    if (forms.bf16 && k.multiplies_bf16) in.bf16 = bf16.reserve(numbers);
    if (forms.bf16 && !k.multiplies_bf16) in.rounded = rounded.reserve(numbers);
    if (forms.q8) {
      in.q8 = q8.reserve(blocks * kBlock);
      in.scale = scale.reserve(blocks), in.sum = sum.reserve(blocks);
      if (k.sums_in_16)
        in.total = total.reserve(blocks), in.half = half.reserve(blocks);
      else
        in.minus = minus.reserve(blocks * kMinus), in.plane = blocks;
    }
    return in;
  }
  size_t bytes() const {
    return f32.bytes() + rounded.bytes() + scale.bytes() + sum.bytes() + bf16.bytes() + q8.bytes() + total.bytes() +
           half.bytes() + minus.bytes();
  }
};

// Buffers of a pass, [token][...].
struct Engine::Space {
  Inputs in, mlp_in;
  Buffer<float> x, attention, out, mlp_out, qkv, gate_up, logits, cos, sin, parts, part_stats, stats;
  Buffer<uint8_t> embedding_rows, position_rows;
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
