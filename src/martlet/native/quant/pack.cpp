#include "quant/pack.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "quant/half.hpp"

namespace martlet {

namespace {

uint16_t read16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
uint32_t read32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// A block of 32 as unsigned quants, whatever the type; bits in a byte each.
struct Block {
  uint8_t q[32];
};

// Scale and minimum `j` of the twelve bytes that Q4_K and Q5_K keep them in, six bits each.
void unpack_scales(const uint8_t* s, int j, uint8_t& scale, uint8_t& minimum) {
  if (j < 4) {
    scale = s[j] & 63, minimum = s[j + 4] & 63;
  } else {
    scale = uint8_t((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
    minimum = uint8_t((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
  }
}

Block nibbles(const uint8_t* p) {  // low nibbles are columns 0..15, high ones 16..31
  Block b;
  for (int i = 0; i < 16; ++i) b.q[i] = p[i] & 15, b.q[i + 16] = p[i] >> 4;
  return b;
}

// Block `b` of a super-block, its quants and integer scales.
Block block_of_super(Kind kind, const uint8_t* p, int b, int8_t scales[2], uint8_t& minimum) {
  Block out;
  minimum = 0;
  switch (kind) {
    case Kind::Q4_K:
    case Kind::Q5_K: {
      uint8_t scale;
      unpack_scales(p + 4, b, scale, minimum);
      scales[0] = int8_t(scale), scales[1] = 0;
      const uint8_t* high = p + 16;
      const uint8_t* q = p + (kind == Kind::Q5_K ? 48 : 16) + 32 * (b / 2);
      for (int i = 0; i < 32; ++i) {
        out.q[i] = b % 2 ? q[i] >> 4 : q[i] & 15;
        if (kind == Kind::Q5_K) out.q[i] |= uint8_t(((high[i] >> b) & 1) << 4);
      }
      return out;
    }
    case Kind::Q6_K: {  // two halves of 128: four blocks share 64 bytes of low bits and 32 of high bits
      int half = b / 4, part = b % 4;
      const uint8_t *low = p + 64 * half + 32 * (part % 2), *high = p + 128 + 32 * half;
      for (int i = 0; i < 32; ++i)
        out.q[i] = uint8_t((part < 2 ? low[i] & 15 : low[i] >> 4) | (((high[i] >> (2 * part)) & 3) << 4));
      scales[0] = int8_t(p[192 + 2 * b]), scales[1] = int8_t(p[192 + 2 * b + 1]);
      return out;
    }
    default: {  // IQ4_XS
      uint16_t high = read16(p + 2);
      int scale = ((p[4 + b / 2] >> (4 * (b % 2))) & 15) | (((high >> (2 * b)) & 3) << 4);
      scales[0] = int8_t(scale - 32), scales[1] = 0;
      return nibbles(p + 8 + 16 * b);
    }
  }
}

uint32_t word(const Block& b, int quad) { return read32(b.q + 4 * quad); }

constexpr int quant_bits(Kind kind) {
  switch (kind) {
    case Kind::Q8_0: return 8;
    case Kind::Q5_0:
    case Kind::Q5_1:
    case Kind::Q5_K: return 5;
    case Kind::Q6_K: return 6;
    default: return 4;
  }
}

void put32(uint8_t* p, uint32_t v) { std::memcpy(p, &v, 4); }

// The quants of row `lane` into a block of the packed layout, whose bits for the row are zero.
void put_quants(int bits, const Block& b, uint8_t* out, int lane) {
  uint8_t* at = out + 4 * lane;
  if (bits == 8) {
    for (int quad = 0; quad < 8; ++quad) put32(at + 64 * quad, word(b, quad));
    return;
  }
  for (int v = 0; v < 4; ++v)
    put32(at + 64 * v, (word(b, v) & 0x0f0f0f0fu) | ((word(b, v + 4) & 0x0f0f0f0fu) << 4));
  if (bits == 5) {
    uint32_t fifth = 0;
    for (int quad = 0; quad < 8; ++quad) fifth |= ((word(b, quad) >> 4) & 0x01010101u) << quad;
    put32(at + 256, fifth);
  }
  if (bits == 6)
    for (int part = 0; part < 2; ++part) {
      uint32_t high = 0;
      for (int quad = 0; quad < 4; ++quad) high |= ((word(b, quad + 4 * part) >> 4) & 0x03030303u) << (2 * quad);
      put32(at + 256 + 64 * part, high);
    }
}

Block get_quants(int bits, const uint8_t* packed, int lane) {
  Block b;
  const uint8_t* at = packed + 4 * lane;
  for (int quad = 0; quad < 8; ++quad)
    for (int j = 0; j < 4; ++j) {
      uint8_t& q = b.q[4 * quad + j];
      if (bits == 8) {
        q = at[64 * quad + j];
        continue;
      }
      q = uint8_t(quad < 4 ? at[64 * quad + j] & 15 : at[64 * (quad - 4) + j] >> 4);
      if (bits == 5) q |= uint8_t(((at[256 + j] >> quad) & 1) << 4);
      if (bits == 6) q |= uint8_t(((at[256 + 64 * (quad / 4) + j] >> (2 * (quad % 4))) & 3) << 4);
    }
  return b;
}

constexpr int quant_bytes(int bits) { return bits == 8 ? 512 : bits == 6 ? 384 : bits == 5 ? 320 : 256; }

// A block of a type without super-blocks: quants, scale, minimum.
Block block_of_plain(Kind kind, const uint8_t* p, uint16_t& scale, uint16_t& minimum) {
  scale = read16(p);
  minimum = 0;
  Block out;
  switch (kind) {
    case Kind::Q8_0:
      for (int i = 0; i < 32; ++i) out.q[i] = p[2 + i] ^ 0x80;  // signed + 128
      return out;
    case Kind::Q5_0:
    case Kind::Q5_1: {
      const uint8_t* bits = p + (kind == Kind::Q5_1 ? 4 : 2);
      uint32_t fifth = read32(bits);
      out = nibbles(bits + 4);
      for (int i = 0; i < 32; ++i) out.q[i] |= uint8_t(((fifth >> i) & 1) << 4);
      if (kind == Kind::Q5_1) minimum = read16(p + 2);
      return out;
    }
    case Kind::Q4_1: minimum = read16(p + 2); return nibbles(p + 4);
    default: return nibbles(p + 2);  // Q4_0, IQ4_NL
  }
}

constexpr bool has_minimum(Kind kind) { return kind == Kind::Q4_1 || kind == Kind::Q5_1; }
constexpr bool is_super(Kind kind) { return kind >= Kind::Q4_K; }
constexpr bool super_has_minimum(Kind kind) { return kind == Kind::Q4_K || kind == Kind::Q5_K; }

float value_of(Kind kind, uint8_t q) {
  switch (kind) {
    case Kind::Q8_0: return float(int(q) - 128);
    case Kind::Q4_0: return float(int(q) - 8);
    case Kind::Q5_0: return float(int(q) - 16);
    case Kind::Q6_K: return float(int(q) - 32);
    case Kind::IQ4_NL:
    case Kind::IQ4_XS: return float(int(kIq4Values[q]) - 128);
    default: return float(q);
  }
}

void pack_super_row(Kind kind, uint8_t* out, int lane, const uint8_t* source, int k) {
  const size_t quants = size_t(quant_bytes(quant_bits(kind)));
  const size_t extra = kind == Kind::Q6_K || super_has_minimum(kind) ? 32 : 16;
  for (int s = 0; s < k / kSuperBlock; ++s) {
    const uint8_t* p = source + s * info(kind).source_bytes;
    const uint8_t* scale = kind == Kind::Q6_K ? p + 208 : p;
    std::memcpy(out + 2 * lane, scale, 2);
    if (super_has_minimum(kind)) std::memcpy(out + 32 + 2 * lane, p + 2, 2);
    out += super_has_minimum(kind) ? 64 : 32;
    for (int b = 0; b < kSuperBlock / kBlock; ++b) {
      int8_t scales[2];
      uint8_t minimum;
      put_quants(quant_bits(kind), block_of_super(kind, p, b, scales, minimum), out, lane);
      out[quants + size_t(lane)] = uint8_t(scales[0]);
      if (kind == Kind::Q6_K) out[quants + 16 + size_t(lane)] = uint8_t(scales[1]);
      if (super_has_minimum(kind)) out[quants + 16 + size_t(lane)] = minimum;
      out += quants + extra;
    }
  }
}

void read_super_row(Kind kind, const uint8_t* source, int k, float* out) {
  for (int s = 0; s < k / kSuperBlock; ++s) {
    const uint8_t* p = source + s * info(kind).source_bytes;
    float d = half_to_float(read16(kind == Kind::Q6_K ? p + 208 : p));
    float dmin = super_has_minimum(kind) ? half_to_float(read16(p + 2)) : 0.0f;
    for (int b = 0; b < kSuperBlock / kBlock; ++b) {
      int8_t scales[2];
      uint8_t minimum;
      Block block = block_of_super(kind, p, b, scales, minimum);
      for (int i = 0; i < kBlock; ++i) {
        float scale = d * float(scales[kind == Kind::Q6_K ? i / 16 : 0]);
        *out++ = scale * value_of(kind, block.q[i]) - dmin * float(minimum);
      }
    }
  }
}

}  // namespace

namespace {

Matrix describe(Kind kind, int n, int k) {
  if (n < 1 || k < 1 || (is_quantized(kind) && k % info(kind).columns))
    throw std::invalid_argument(std::string("a matrix of ") + info(kind).name + " must have a multiple of " +
                                std::to_string(info(kind).columns) + " columns; found " + std::to_string(n) + " x " +
                                std::to_string(k));
  Matrix matrix;
  matrix.kind = kind, matrix.n = n, matrix.k = k;
  return matrix;
}

}  // namespace

size_t packed_bytes(Kind kind, int n, int k) {
  Matrix matrix = describe(kind, n, k);
  return size_t(matrix.groups()) * matrix.group_bytes();
}

Packed make_packed(Kind kind, int n, int k, Arena* arena) {
  Packed packed;
  packed.matrix = describe(kind, n, k);
  packed.bytes = packed_bytes(kind, n, k);
  packed.memory = arena ? arena->take(packed.bytes) : map_memory(packed.bytes);
  packed.matrix.data = packed.memory.get();
  if (n % kRows) {  // rows that are not there
    size_t last = size_t(n / kRows) * packed.matrix.group_bytes();
    std::memset(packed.memory.get() + last, 0, packed.bytes - last);
  }
  return packed;
}

void pack_row(Packed& packed, int row, const uint8_t* source) {
  const Matrix& m = packed.matrix;
  uint8_t* out = packed.memory.get() + size_t(row / kRows) * m.group_bytes();
  int lane = row % kRows;
  switch (m.kind) {
    case Kind::F32:
      for (int c = 0; c < m.k; ++c) std::memcpy(out + size_t(c) * 64 + 4 * lane, source + 4 * size_t(c), 4);
      return;
    case Kind::F16:
      for (int c = 0; c < m.k; ++c) std::memcpy(out + size_t(c) * 32 + 2 * lane, source + 2 * size_t(c), 2);
      return;
    case Kind::BF16:
      for (int c = 0; c < m.k; c += 2) {
        uint8_t* at = out + size_t(c / 2) * 64 + 4 * lane;
        std::memset(at, 0, 4);
        std::memcpy(at, source + 2 * size_t(c), c + 1 < m.k ? 4 : 2);
      }
      return;
    default: break;
  }
  if (is_super(m.kind)) return pack_super_row(m.kind, out, lane, source, m.k);
  const int bits = quant_bits(m.kind);
  const size_t quants = size_t(quant_bytes(bits));
  for (int b = 0; b < m.k / kBlock; ++b) {
    uint16_t scale, minimum;
    put_quants(bits, block_of_plain(m.kind, source + b * info(m.kind).source_bytes, scale, minimum), out, lane);
    std::memcpy(out + quants + 2 * lane, &scale, 2);
    if (has_minimum(m.kind)) std::memcpy(out + quants + 32 + 2 * lane, &minimum, 2);
    out += info(m.kind).bytes;
  }
}

namespace {

// The lanes of one block of a type without super-blocks, in whole words: a quad of four bits lies in a file as it is packed.
template <Kind kind> void pack_block(uint8_t* out, int lane, const uint8_t* p) {
  const int bits = quant_bits(kind);
  uint8_t* at = out + 4 * lane;
  uint8_t* scales = out + quant_bytes(bits) + 2 * lane;
  std::memcpy(scales, p, 2);
  if (has_minimum(kind)) std::memcpy(scales + 32, p + 2, 2);
  const uint8_t* q = p + (has_minimum(kind) ? 4 : 2);
  if (bits == 8) {
    for (int quad = 0; quad < 8; ++quad) put32(at + 64 * quad, read32(q + 4 * quad) ^ 0x80808080u);  // signed + 128
    return;
  }
  if (bits == 5) {
    uint32_t source = read32(q), fifth = 0;
    // the product puts bits 0..3 of a quad at the bottom of bytes 0..3
    for (int quad = 0; quad < 8; ++quad) fifth |= ((((source >> (4 * quad)) & 15) * 0x204081u) & 0x01010101u) << quad;
    put32(at + 256, fifth);
    q += 4;
  }
  for (int v = 0; v < 4; ++v) put32(at + 64 * v, read32(q + 4 * v));
}

template <Kind kind> void pack_blocks(uint8_t* out, const uint8_t* const* rows, int count, int k) {
  for (int b = 0; b < k / kBlock; ++b, out += info(kind).bytes)
    for (int lane = 0; lane < count; ++lane) pack_block<kind>(out, lane, rows[lane] + b * info(kind).source_bytes);
}

template <Kind kind> void pack_supers(uint8_t* out, const uint8_t* const* rows, int count, int k) {
  for (int s = 0; s < k / kSuperBlock; ++s, out += info(kind).bytes)
    for (int lane = 0; lane < count; ++lane)
      pack_super_row(kind, out, lane, rows[lane] + s * info(kind).source_bytes, kSuperBlock);
}

void pack_words(uint8_t* out, const uint8_t* const* rows, int count, int words) {  // F32 numbers, BF16 pairs
  constexpr int kTogether = 8;  // of a row at a time: one word of each costs four times as long
  int c = 0;
  for (; c + kTogether <= words; c += kTogether)
    for (int lane = 0; lane < count; ++lane)
      for (int i = 0; i < kTogether; ++i)
        put32(out + size_t(c + i) * 64 + 4 * lane, read32(rows[lane] + 4 * size_t(c + i)));
  for (; c < words; ++c)
    for (int lane = 0; lane < count; ++lane) put32(out + size_t(c) * 64 + 4 * lane, read32(rows[lane] + 4 * size_t(c)));
}

void pack_halves(uint8_t* out, const uint8_t* const* rows, int count, int k) {  // two columns of two rows at a time
  for (int c = 0; c + 1 < k; c += 2)
    for (int lane = 0; lane + 1 < count; lane += 2) {
      uint32_t a = read32(rows[lane] + 2 * size_t(c)), b = read32(rows[lane + 1] + 2 * size_t(c));
      put32(out + size_t(c) * 32 + 2 * lane, (a & 0xffffu) | (b << 16));
      put32(out + size_t(c + 1) * 32 + 2 * lane, (a >> 16) | (b & 0xffff0000u));
    }
  auto one = [&](int c, int lane) { std::memcpy(out + size_t(c) * 32 + 2 * lane, rows[lane] + 2 * size_t(c), 2); };
  for (int lane = 0; k % 2 && lane < count; ++lane) one(k - 1, lane);
  for (int c = 0; count % 2 && c < k; ++c) one(c, count - 1);
}

}  // namespace

void pack_group(Packed& packed, int group, const uint8_t* const* rows, int count) {
  const Matrix& m = packed.matrix;
  uint8_t* out = packed.memory.get() + size_t(group) * m.group_bytes();
  switch (m.kind) {
    case Kind::F32: return pack_words(out, rows, count, m.k);
    case Kind::F16: return pack_halves(out, rows, count, m.k);
    case Kind::BF16:
      pack_words(out, rows, count, m.k / 2);
      for (int lane = 0; m.k % 2 && lane < count; ++lane)
        put32(out + size_t(m.k / 2) * 64 + 4 * lane, read16(rows[lane] + 2 * size_t(m.k - 1)));
      return;
    case Kind::Q8_0: return pack_blocks<Kind::Q8_0>(out, rows, count, m.k);
    case Kind::Q4_0: return pack_blocks<Kind::Q4_0>(out, rows, count, m.k);
    case Kind::Q4_1: return pack_blocks<Kind::Q4_1>(out, rows, count, m.k);
    case Kind::Q5_0: return pack_blocks<Kind::Q5_0>(out, rows, count, m.k);
    case Kind::Q5_1: return pack_blocks<Kind::Q5_1>(out, rows, count, m.k);
    case Kind::IQ4_NL: return pack_blocks<Kind::IQ4_NL>(out, rows, count, m.k);
    case Kind::Q4_K: return pack_supers<Kind::Q4_K>(out, rows, count, m.k);
    case Kind::Q5_K: return pack_supers<Kind::Q5_K>(out, rows, count, m.k);
    case Kind::Q6_K: return pack_supers<Kind::Q6_K>(out, rows, count, m.k);
    case Kind::IQ4_XS: return pack_supers<Kind::IQ4_XS>(out, rows, count, m.k);
  }
}

bool is_finite_row(Kind kind, const uint8_t* source, int k) {
  constexpr uint16_t kHalf = 0x7c00, kBrain = 0x7f80;  // exponents of ones
  auto has = [&](const uint8_t* p, uint16_t exponent) { return (read16(p) & exponent) == exponent; };
  bool is_bad = false;
  if (!is_quantized(kind)) {
    const size_t step = kind == Kind::F32 ? 4 : 2, place = kind == Kind::F32 ? 2 : 0;
    const uint16_t exponent = kind == Kind::F16 ? kHalf : kBrain;
    for (size_t i = 0; i < size_t(k); ++i) is_bad |= has(source + i * step + place, exponent);
    return !is_bad;
  }
  const size_t bytes = info(kind).source_bytes, scale = kind == Kind::Q6_K ? 208 : 0;
  for (const uint8_t* p = source; p < source + size_t(k) / size_t(info(kind).columns) * bytes; p += bytes) {
    is_bad |= has(p + scale, kHalf);
    if (has_minimum(kind) || super_has_minimum(kind)) is_bad |= has(p + 2, kHalf);
  }
  return !is_bad;
}

void read_row(Kind kind, const uint8_t* source, int k, float* out) {
  switch (kind) {
    case Kind::F32: std::memcpy(out, source, size_t(k) * 4); return;
    case Kind::F16:
      for (int c = 0; c < k; ++c) out[c] = half_to_float(read16(source + 2 * size_t(c)));
      return;
    case Kind::BF16:
      for (int c = 0; c < k; ++c) {
        uint32_t bits = uint32_t(read16(source + 2 * size_t(c))) << 16;
        std::memcpy(out + c, &bits, 4);
      }
      return;
    default: break;
  }
  if (is_super(kind)) return read_super_row(kind, source, k, out);
  for (int b = 0; b < k / kBlock; ++b) {
    uint16_t scale, minimum;
    Block block = block_of_plain(kind, source + b * info(kind).source_bytes, scale, minimum);
    float d = half_to_float(scale), m = half_to_float(minimum);
    for (int i = 0; i < kBlock; ++i) *out++ = d * value_of(kind, block.q[i]) + (has_minimum(kind) ? m : 0.0f);
  }
}

void unpack_row(const Packed& packed, int row, float* out) {
  const Matrix& m = packed.matrix;
  const uint8_t* p = packed.memory.get() + size_t(row / kRows) * m.group_bytes();
  int lane = row % kRows;
  if (!is_quantized(m.kind)) {
    for (int c = 0; c < m.k; ++c) {
      const uint8_t* at = m.kind == Kind::F32   ? p + size_t(c) * 64 + 4 * lane
                          : m.kind == Kind::F16 ? p + size_t(c) * 32 + 2 * lane
                                                : p + size_t(c / 2) * 64 + 4 * lane + 2 * (c % 2);
      read_row(m.kind, at, 1, out + c);
    }
    return;
  }
  const int bits = quant_bits(m.kind);
  const size_t quants = size_t(quant_bytes(bits));
  float d = 0, dmin = 0;
  for (int b = 0; b < m.k / kBlock; ++b) {
    if (is_super(m.kind) && b % 8 == 0) {
      d = half_to_float(read16(p + 2 * lane));
      dmin = super_has_minimum(m.kind) ? half_to_float(read16(p + 32 + 2 * lane)) : 0.0f;
      p += super_has_minimum(m.kind) ? 64 : 32;
    }
    Block block = get_quants(bits, p, lane);
    for (int i = 0; i < kBlock; ++i) {
      float scale, minimum = 0.0f;
      if (!is_super(m.kind)) {
        scale = half_to_float(read16(p + quants + 2 * lane));
        if (has_minimum(m.kind)) minimum = half_to_float(read16(p + quants + 32 + 2 * lane));
      } else {
        size_t which = m.kind == Kind::Q6_K && i >= 16 ? 16 : 0;
        scale = d * float(int8_t(p[quants + which + size_t(lane)]));
        if (super_has_minimum(m.kind)) minimum = -dmin * float(p[quants + 16 + size_t(lane)]);
      }
      *out++ = scale * value_of(m.kind, block.q[i]) + minimum;
    }
    p += is_super(m.kind) ? quants + (m.kind == Kind::IQ4_XS ? 16 : 32) : info(m.kind).bytes;
  }
}

}  // namespace martlet
