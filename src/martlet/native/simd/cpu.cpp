#include "simd/cpu.hpp"

#ifdef MARTLET_X86
#include <cpuid.h>
#elif defined(MARTLET_NEON)
#include <sys/auxv.h>
#endif

#include <initializer_list>
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

Processor this_processor() {
  Processor p;
#ifdef MARTLET_X86
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) p.leaf1_ecx = ecx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
    p.leaf7_ebx = ebx, p.leaf7_ecx = ecx;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) p.leaf7_1_eax = eax;
  }
  if (p.leaf1_ecx & bit_OSXSAVE) {  // else the instruction is not there
    asm("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    p.xcr0 = uint64_t(edx) << 32 | eax;
  }
#elif defined(MARTLET_NEON)
  p.hwcap = getauxval(AT_HWCAP), p.hwcap2 = getauxval(AT_HWCAP2);
#endif
  return p;
}

std::vector<InstructionSet> sets_of([[maybe_unused]] const Processor& p) {
  std::vector<InstructionSet> sets = {{"scalar", &scalar::kernels, true, "nothing"}};
#ifdef MARTLET_X86
  auto has = [](uint64_t word, std::initializer_list<int> bits) {
    for (int bit : bits)
      if (!(word >> bit & 1)) return false;
    return true;
  };
  const bool asks = has(p.leaf1_ecx, {27});                 // OSXSAVE: xcr0 says which registers are saved
  const bool saves_256 = asks && has(p.xcr0, {1, 2});       // xmm, ymm
  const bool saves_512 = saves_256 && has(p.xcr0, {5, 6, 7});  // masks, upper halves of zmm0-15, zmm16-31
  const bool has_avx2 = saves_256 && has(p.leaf1_ecx, {12, 28, 29}) && has(p.leaf7_ebx, {5});  // FMA, AVX, F16C; AVX2
  const bool has_512 = has_avx2 && saves_512 && has(p.leaf7_ebx, {16, 17, 30, 31}) && has(p.leaf7_ecx, {11});
  sets.push_back({"avx2", &avx2::kernels, has_avx2, "AVX2, FMA and F16C"});
  sets.push_back(
      {"avx2_vnni", &avx2_vnni::kernels, has_avx2 && has(p.leaf7_1_eax, {4}), "AVX2, FMA, F16C and AVX-VNNI"});
  sets.push_back({"avx512", &avx512::kernels, has_512, "AVX-512 F, BW, VL, DQ and VNNI"});
  sets.push_back({"avx512_bf16", &avx512_bf16::kernels, has_512 && has(p.leaf7_1_eax, {5}),
                  "AVX-512 F, BW, VL, DQ, VNNI and BF16"});
#elif defined(MARTLET_NEON)
  const bool has_dot = p.hwcap >> 20 & 1, has_i8mm = has_dot && (p.hwcap2 >> 13 & 1);
  sets.push_back({"neon", &neon::kernels, has_dot, "NEON with dot products (ARMv8.2)"});
  sets.push_back({"neon_i8mm", &neon_i8mm::kernels, has_i8mm, "NEON with dot products and 8-bit matrix products"});
#endif
  return sets;
}

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = sets_of(this_processor());
  return sets;
}

const Kernels& find_kernels(const std::string& name, const std::vector<InstructionSet>& sets) {
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
