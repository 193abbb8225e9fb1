// What this machine gives: bytes read and products multiplied a second, by loops that do nothing else. Portable C++ and,
// where the processor has them, the same instructions the kernels use; every operand but the bytes read is in registers.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace martlet {

// Rates of `num_threads` threads at work together: the best and the median of the repetitions, both per second.
struct Rate {
  double best = 0, median = 0;
};

// One way of multiplying that an instruction set has.
struct Peak {
  std::string operand;  // "int8": 8-bit quants by 8-bit activations; "int4": quants below 16; "bf16"; "fp32"
  std::string how;      // the instructions
  Rate operations;      // two for each multiplication and addition
};

// Bytes read from `num_bytes` of memory, each thread reading its own part again and again. Throws std::bad_alloc.
Rate measure_read(size_t num_bytes, int num_threads, int repeats);

// What the instruction set `isa` (a name of instruction_sets(), usable here) can multiply. `seconds` for each repetition.
std::vector<Peak> measure_peaks(const std::string& isa, int num_threads, int repeats, double seconds);

// Bytes of the largest cache, 0 where the system does not say.
size_t largest_cache_bytes();

}  // namespace martlet
