// Loops of nothing but multiplications, by instruction set.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace martlet {

struct PeakLoop {
  const char* operand;
  const char* how;
  void (*run)(int64_t rounds);
  double operations;  // of one round
};

// The loops of a set that is usable here. Throws std::invalid_argument for a set that has none.
std::vector<PeakLoop> peak_loops(const std::string& isa);

}  // namespace martlet
