// The kinds of packed matrices and their byte layouts. Shared by packing, the kernels and the graph; no code.
#pragma once
#include <cstddef>
#include <cstdint>

namespace martlet {

// A matrix of n rows and k columns is packed in groups of 16 rows (the last one filled with zeros), so that one vector
// holds one number of each row. Within a group the columns follow in blocks of 32:
//
//   quants   "quad" q is columns 4q..4q+3 of 16 rows, 64 bytes: byte 4 * row + column. Quants are unsigned.
//            4 bits: 4 vectors; the low nibbles of vector v are quad v, the high ones quad v + 4.
//            5 bits: and one vector of fifth bits; bit q of a byte belongs to quad q.
//            6 bits: and two vectors; bits 2q and 2q + 1 of the first belong to quad q, of the second to quad q + 4.
//            8 bits: 8 vectors of value + 128.
//   scales   16 fp16 numbers a block, after the quants; then 16 minimums where the type has them.
//   K types  every 256 columns open with 16 fp16 scales (and 16 of the minimums); each block then closes with integers:
//            Q4_K and Q5_K 16 scales and 16 minimums of one byte, Q6_K 32 signed scales (first and second half of the
//            block), IQ4_XS 16 signed scales.
//
// Float kinds have no blocks: F32 and F16 [column][16 rows], BF16 [column / 2][16 rows][2].
enum class Kind : uint8_t { F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, Q4_K, Q5_K, Q6_K, IQ4_XS };
constexpr int kNumKinds = 13;
constexpr int kRows = 16;        // rows of a group
constexpr int kBlock = 32;       // columns of a block
constexpr int kSuperBlock = 256;  // columns that share the fp16 scales of a K type

struct KindInfo {
  const char* name;
  int columns;            // k must be a multiple
  size_t bytes;           // of `columns` columns of a group
  size_t source_bytes;    // of `columns` columns of one row in a file
};

constexpr KindInfo kKinds[kNumKinds] = {
    {"F32", 1, 64, 4},
    {"F16", 1, 32, 2},
    {"BF16", 2, 64, 4},
    {"Q8_0", 32, 512 + 32, 34},
    {"Q4_0", 32, 256 + 32, 18},
    {"Q4_1", 32, 256 + 64, 20},
    {"Q5_0", 32, 320 + 32, 22},
    {"Q5_1", 32, 320 + 64, 24},
    {"IQ4_NL", 32, 256 + 32, 18},
    {"Q4_K", 256, 64 + 8 * (256 + 32), 144},
    {"Q5_K", 256, 64 + 8 * (320 + 32), 176},
    {"Q6_K", 256, 32 + 8 * (384 + 32), 210},
    {"IQ4_XS", 256, 32 + 8 * (256 + 16), 136},
};

constexpr const KindInfo& info(Kind kind) { return kKinds[int(kind)]; }
constexpr bool is_quantized(Kind kind) { return kind >= Kind::Q8_0; }

// IQ4's sixteen values, each plus 128: what its nibbles stand for.
constexpr uint8_t kIq4Values[16] = {1,   24,  45,  63,  79,  93,  106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

}  // namespace martlet
