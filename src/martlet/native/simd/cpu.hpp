// Which instruction sets this processor and operating system have, and the kernels for the best of them.
#pragma once
#include <cstdint>
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

// What the processor says of itself, and what the operating system saves of it when it changes tasks or lets programs use.
struct Processor {
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, leaf7_ecx = 0, leaf7_1_eax = 0;  // x86: cpuid
  uint64_t xcr0 = 0;                                                      // x86: xgetbv
  uint64_t hwcap = 0, hwcap2 = 0;  // ARM: Linux's auxiliary vector
};
Processor this_processor();

// All that were compiled in, the plainest first, and which of them `processor` can run.
std::vector<InstructionSet> sets_of(const Processor& processor);

// Those of this machine.
const std::vector<InstructionSet>& instruction_sets();

// The set named, or with "" the best usable one. Throws std::invalid_argument naming what there is.
const Kernels& find_kernels(const std::string& name, const std::vector<InstructionSet>& sets = instruction_sets());

}  // namespace martlet
