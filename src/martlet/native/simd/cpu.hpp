// Which instruction sets this processor and operating system have, and the kernels for the best of them.
#pragma once
#include <string>
#include <vector>

#include "kernels/table.hpp"

namespace martlet {

struct InstructionSet {
  const char* name;
  const Kernels* kernels;
  bool is_usable;
  const char* needs;  // what has to be there
};

// All that were compiled in, the plainest first.
const std::vector<InstructionSet>& instruction_sets();

// The set named, or with "" the best usable one. Throws std::invalid_argument naming what there is.
const Kernels& find_kernels(const std::string& name);

}  // namespace martlet
