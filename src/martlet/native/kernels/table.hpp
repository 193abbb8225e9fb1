// What every instruction set provides, as plain functions: filled once a set by kernels/all.inc, chosen by simd/cpu.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

#include "quant/kinds.hpp"

namespace martlet {

// One packed matrix: y = W x, n rows of k columns.
struct Matrix {
  Kind kind = Kind::F32;
  int n = 0, k = 0;
  const uint8_t* data = nullptr;
  int groups() const { return (n + kRows - 1) / kRows; }
  size_t group_bytes() const { return size_t(k + info(kind).columns - 1) / info(kind).columns * info(kind).bytes; }
};

constexpr int kMinus = 5;  // offsets, see `minus`

// Rows of activations, in the forms the matrices that read them ask for. Rows lie `stride` numbers apart, `stride` a
// multiple of 32 and not below k; numbers from k on are zero. The 8-bit forms lie in blocks of 32, four rows side by side,
// [row / 4][block][row % 4]: room for a multiple of four rows, and a product's first row is a multiple of four.
struct Activations {
  int stride = 0;
  float* f32 = nullptr;
  uint16_t* bf16 = nullptr;   // where the set multiplies bf16 numbers
  float* rounded = nullptr;   // elsewhere: rounded to bf16, columns 2i and 2i + 1 exchanged
  int8_t* q8 = nullptr;       // x = q8 * scale, a scale for each block of 32
  float* scale = nullptr;
  float* sum = nullptr;       // scale * total
  int32_t* total = nullptr;   // sum of a block's q8, where a set sums in 16 bits
  int32_t* half = nullptr;    // sum of its first 16
  // Elsewhere what the offset of unsigned quants takes off a block's products, to be loaded as it is: -8, -16 and -128
  // times the sum of its q8, -32 times that of its first 16 and of the others; kMinus planes, laid out as scale is.
  int32_t* minus = nullptr;
  size_t plane = 0;           // numbers of one
  size_t block_of(int row, int block) const {
    return (size_t(row / 4) * size_t(stride / kBlock) + size_t(block)) * 4 + size_t(row % 4);
  }
};

struct Rotation {
  int rotated;       // dimensions of a head that turn; 0: none
  const float* cos;  // rotated / 2 each
  const float* sin;
};

// The numbers of keys and values in their pages.
enum class KvDtype : uint8_t { BF16, F16, F32 };
constexpr int kNumKvDtypes = 3;
struct KvDtypeInfo {
  const char* name;
  size_t bytes;    // of a number
  float largest;   // finite number
};
constexpr KvDtypeInfo kKvDtypes[kNumKvDtypes] = {
    {"bfloat16", 2, 0x1.fep127f}, {"float16", 2, 65504.0f}, {"float32", 4, 0x1.fffffep127f}};
constexpr const KvDtypeInfo& info(KvDtype dtype) { return kKvDtypes[int(dtype)]; }

// Attention of queries that lie one after the other in one sequence, over that sequence's pages.
struct AttentionTask {
  const float* q;            // [query][head of the group][head_dim], rows q_stride apart
  size_t q_stride;
  int num_queries, group, head_dim;
  int64_t first_position;    // of query 0; query i sees positions up to first_position + i
  int window;                // 0: all
  float scale, softcap;      // softcap 0: none
  const uint8_t* const* pages;   // keys and values of this head: page p holds positions 16p..16p+15
  size_t key_offset, value_offset;  // of this layer and head inside a page, in bytes
  int chunk_begin, chunk_end;    // chunks of kChunk positions to read
  float* out;                // [query][head][head_dim] unnormalised sums, rows out_stride apart
  size_t out_stride;
  float* stats;              // [query][head][2]: largest score, sum of exponentials
};
constexpr int kMaxHeadDim = 1024;
constexpr int kPage = 16;    // positions of a page: keys [head_dim][16], values [16][head_dim]
constexpr int kChunk = 256;  // positions whose softmax is taken at once

enum class Act : uint8_t { SILU, GELU, GELU_TANH, RELU };
enum class NormKind : uint8_t { RMS, RMS_PLUS_ONE, LAYER };

struct Kernels {
  const char* name;
  bool multiplies_bf16;  // which form BF16 matrices read
  bool sums_in_16;       // which sums of q8 are read
  // y[row][16 * group ...] of rows row_begin..row_end; y_stride numbers between rows
  void (*matmul[kNumKinds])(const Matrix&, int group_begin, int group_end, const Activations&, int row_begin,
                            int row_end, float* y, size_t y_stride);
  // fills the forms that are not null, but f32, from row x of k numbers
  void (*prepare)(const float* x, int k, const Activations& out, int row, int block_begin, int block_end);
  void (*norm)(NormKind, const float* x, const float* weight, const float* bias, float eps, int n, float* y);
  void (*add_scaled)(float* x, const float* y, float scale, int n);    // x += y * scale
  void (*add)(float* x, const float* y, int n);                        // x += y
  void (*multiply)(float* x, float scale, int n);                      // x *= scale
  void (*activate)(Act, const float* gate, const float* up, int n, float* y);  // act(gate) * up; up null: act(gate)
  void (*rotate)(float* x, const Rotation&);                           // one head, pairs (d, d + rotated / 2)
  void (*softcap)(float* x, float cap, int n);                         // cap * tanh(x / cap)
  // a function for each KvDtype; storing tells whether every finite number is one in the page as well
  bool (*store_key[kNumKvDtypes])(const float* k, int head_dim, uint8_t* keys, int slot);      // into [head_dim][16]
  bool (*store_value[kNumKvDtypes])(const float* v, int head_dim, uint8_t* values, int slot);  // into [16][head_dim]
  void (*attend[kNumKvDtypes])(const AttentionTask&);
  // folds the sums of the next chunk into those of the chunks before it, heads rows of head_dim
  void (*merge)(float* out, float* stats, const float* next_out, const float* next_stats, int head_dim);
  void (*finish)(float* out, const float* stats, int head_dim);        // divides by the sum of exponentials
};

}  // namespace martlet
