// Numbers into GGUF's bytes, the scale of each block chosen for the least squared error.
#pragma once
#include <cstddef>
#include <cstdint>

#include "quant/kinds.hpp"

namespace martlet {

// Whether encode_row takes it: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
bool is_encoded(Kind kind);

// k numbers as they lie in a file. k must be a multiple of what the kind's blocks hold. Numbers must be finite.
void encode_row(Kind kind, const float* x, int k, uint8_t* out);

}  // namespace martlet
