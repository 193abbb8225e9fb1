// Rows of a checkpoint's tensor into packed matrices, and single rows into float32 (the plain reading of each type).
#pragma once
#include <cstdint>
#include <memory>

#include "kernels/table.hpp"
#include "quant/arena.hpp"
#include "quant/kinds.hpp"

namespace martlet {

// A packed matrix and the memory it lies in.
struct Packed {
  Matrix matrix;
  std::shared_ptr<uint8_t> memory;
  size_t bytes = 0;
};

// A matrix of `kind` in the arena's memory, or in its own, to be filled. Throws std::invalid_argument if k does not fit
// the kind, std::bad_alloc.
Packed make_packed(Kind kind, int n, int k, Arena* arena = nullptr);

// Bytes that it takes.
size_t packed_bytes(Kind kind, int n, int k);

// Puts source row `row` into row `row` of the matrix: the plain way, which pack_group is held against.
void pack_row(Packed& packed, int row, const uint8_t* source);

// The first `count` rows of a group, 1 to 16, from where each begins; groups may be filled by different threads.
void pack_group(Packed& packed, int group, const uint8_t* const* rows, int count);

// Whether every number of a source row is finite: of a block that its scales are.
bool is_finite_row(Kind kind, const uint8_t* source, int k);

// k numbers of one row as they lie in a file.
void read_row(Kind kind, const uint8_t* source, int k, float* out);

// The source bytes of one row of a packed matrix; only for tests: pack_row undone, numbers and not bytes.
void unpack_row(const Packed& packed, int row, float* out);

}  // namespace martlet
