// A block is x = d q + m, with q whole in lowest..highest and m = 0 for the types that have no minimum. Given q, the d
// and m of the least squared error are linear regression; given them, q is rounding. Both are tried from several starts.
#include "quant/encode.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "quant/half.hpp"

namespace martlet {
namespace {

struct Grid {
  int lowest, highest;
  bool has_minimum;
  int tries;
};

Grid grid_of(Kind kind) {
  switch (kind) {
    case Kind::Q8_0: return {-127, 127, false, 1};
    case Kind::Q4_0: return {-8, 7, false, 10};
    case Kind::Q5_0: return {-16, 15, false, 10};
    case Kind::Q4_1: return {0, 15, true, 8};
    case Kind::Q5_1: return {0, 31, true, 8};
    default: throw std::invalid_argument(std::string("numbers are not encoded as ") + info(kind).name);
  }
}

struct Fit {
  float d = 0, m = 0, error = INFINITY;
  int q[kBlock] = {};
};

float stored(float x) { return half_to_float(float_to_half(x)); }

// To the nearest whole number, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

// Rounds to the grid of d and m, which a file stores in 16 bits.
Fit round_to(const Grid& g, const float* x, float d, float m) {
  Fit fit;
  fit.d = stored(d), fit.m = stored(m), fit.error = 0;
  const float inverse = fit.d == 0.0f ? 0.0f : 1.0f / fit.d;
  const float lowest = float(g.lowest), highest = float(g.highest);
  float off[kBlock];
  for (int i = 0; i < kBlock; ++i) {
    float place = (x[i] - fit.m) * inverse;
    place = nearest(place < lowest ? lowest : place > highest ? highest : place);
    fit.q[i] = int(place);
    off[i] = x[i] - (fit.d * place + fit.m);
  }
  for (float each : off) fit.error += each * each;
  return fit;
}

// The d and m that fit these q best.
Fit refit(const Grid& g, const float* x, const Fit& from) {
  double n = kBlock, sq = 0, sqq = 0, sx = 0, sxq = 0;
  for (int i = 0; i < kBlock; ++i) {
    double q = from.q[i];
    sq += q, sqq += q * q, sx += x[i], sxq += x[i] * q;
  }
  if (!g.has_minimum) return sqq > 0 ? round_to(g, x, float(sxq / sqq), 0.0f) : from;
  double spread = n * sqq - sq * sq;
  if (spread <= 0) return from;
  double d = (n * sxq - sq * sx) / spread;
  return round_to(g, x, float(d), float((sx - d * sq) / n));
}

Fit fit_block(Kind kind, const float* x) {
  const Grid g = grid_of(kind);
  float least = x[0], most = x[0], extreme = x[0];
  for (int i = 1; i < kBlock; ++i) {
    least = std::min(least, x[i]), most = std::max(most, x[i]);
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  }
  Fit best;
  auto consider = [&](const Fit& fit) {
    if (fit.error < best.error) best = fit;
  };
  for (int t = 0; t < g.tries; ++t) {
    // a grid a little narrower than the numbers clips the extremes and serves the others better
    float shrink = 0.1f * float(t);
    Fit fit;
    if (g.has_minimum)
      fit = round_to(g, x, (most - least) / (float(g.highest) + 0.5f - 2 * shrink), least + 0.5f * shrink * (most - least) / float(g.highest));
    else  // the side that goes further takes the extreme
      fit = round_to(g, x, extreme / (kind == Kind::Q8_0 ? 127.0f : float(g.lowest) + shrink), 0.0f);
    consider(fit);
  }
  for (int t = 0; t < 2 && kind != Kind::Q8_0; ++t) consider(refit(g, x, best));
  return best;
}

void put16(uint8_t*& out, uint16_t bits) {
  std::memcpy(out, &bits, 2);
  out += 2;
}

void encode_block(Kind kind, const float* x, uint8_t* out) {
  const Grid g = grid_of(kind);
  const Fit fit = fit_block(kind, x);
  put16(out, float_to_half(fit.d));
  if (g.has_minimum) put16(out, float_to_half(fit.m));
  if (kind == Kind::Q8_0) {
    for (int i = 0; i < kBlock; ++i) out[i] = uint8_t(int8_t(fit.q[i]));
    return;
  }
  if (kind == Kind::Q5_0 || kind == Kind::Q5_1) {
    uint32_t fifth = 0;
    for (int i = 0; i < kBlock; ++i) fifth |= uint32_t(((fit.q[i] - g.lowest) >> 4) & 1) << i;
    std::memcpy(out, &fifth, 4);
    out += 4;
  }
  for (int i = 0; i < kBlock / 2; ++i)
    out[i] = uint8_t(((fit.q[i] - g.lowest) & 15) | (((fit.q[i + 16] - g.lowest) & 15) << 4));
}

uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

bool is_encoded(Kind kind) {
  switch (kind) {
    case Kind::F32: case Kind::F16: case Kind::BF16:
    case Kind::Q8_0: case Kind::Q4_0: case Kind::Q4_1: case Kind::Q5_0: case Kind::Q5_1: return true;
    default: return false;
  }
}

void encode_row(Kind kind, const float* x, int k, uint8_t* out) {
  if (kind == Kind::F32) {
    std::memcpy(out, x, size_t(k) * 4);
  } else if (kind == Kind::F16 || kind == Kind::BF16) {
    for (int i = 0; i < k; ++i) put16(out, kind == Kind::F16 ? float_to_half(x[i]) : to_bf16(x[i]));
  } else {
    for (int b = 0; b < k / kBlock; ++b) encode_block(kind, x + b * kBlock, out + size_t(b) * info(kind).source_bytes);
  }
}

}  // namespace martlet
