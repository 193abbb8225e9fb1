#include "simd/cpu.hpp"

#ifdef MARTLET_NEON
#include <sys/auxv.h>
#endif

#include <stdexcept>

namespace martlet {

namespace scalar {
extern const Kernels kernels;
}
#ifdef MARTLET_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx2_vnni {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
#endif

#ifdef MARTLET_NEON
namespace neon {
extern const Kernels kernels;
}
namespace neon_i8mm {
extern const Kernels kernels;
}
#endif

const std::vector<InstructionSet>& instruction_sets() {
#ifdef MARTLET_X86
  // __builtin_cpu_supports asks cpuid and, for the wide registers, whether the operating system saves them (xgetbv).
#define HAS(feature) bool(__builtin_cpu_supports(feature))
  static const std::vector<InstructionSet> sets = [] {
    __builtin_cpu_init();
    bool has_avx2 = HAS("avx2") && HAS("fma") && HAS("f16c");
    bool has_512 = has_avx2 && HAS("avx512f") && HAS("avx512bw") && HAS("avx512vl") && HAS("avx512dq") &&
                   HAS("avx512vnni");
    return std::vector<InstructionSet>{
        {"scalar", &scalar::kernels, true, "nothing"},
        {"avx2", &avx2::kernels, has_avx2, "AVX2, FMA and F16C"},
        {"avx2_vnni", &avx2_vnni::kernels, has_avx2 && HAS("avxvnni"), "AVX2, FMA, F16C and AVX-VNNI"},
        {"avx512", &avx512::kernels, has_512, "AVX-512 F, BW, VL, DQ and VNNI"},
        {"avx512_bf16", &avx512_bf16::kernels, has_512 && HAS("avx512bf16"), "AVX-512 F, BW, VL, DQ, VNNI and BF16"},
    };
  }();
#undef HAS
#elif defined(MARTLET_NEON)
  // bits of Linux's auxiliary vector: what the kernel lets programs use
  static const std::vector<InstructionSet> sets = [] {
    bool has_dot = getauxval(AT_HWCAP) & (1ul << 20), has_i8mm = has_dot && (getauxval(AT_HWCAP2) & (1ul << 13));
    return std::vector<InstructionSet>{
        {"scalar", &scalar::kernels, true, "nothing"},
        {"neon", &neon::kernels, has_dot, "NEON with dot products (ARMv8.2)"},
        {"neon_i8mm", &neon_i8mm::kernels, has_i8mm, "NEON with dot products and 8-bit matrix products"},
    };
  }();
#else
  static const std::vector<InstructionSet> sets = {{"scalar", &scalar::kernels, true, "nothing"}};
#endif
  return sets;
}

const Kernels& find_kernels(const std::string& name) {
  const auto& sets = instruction_sets();
  std::string known;
  for (auto set = sets.rbegin(); set != sets.rend(); ++set) {
    if (name.empty() ? set->is_usable : name == set->name) {
      if (set->is_usable) return *set->kernels;
      throw std::invalid_argument("instruction set " + name + " needs " + set->needs +
                                  ", which this processor or operating system does not have");
    }
    known = set->name + (known.empty() ? "" : ", " + known);
  }
  throw std::invalid_argument("instruction set must be one of " + known + "; found " + name);
}

}  // namespace martlet
