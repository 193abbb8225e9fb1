// Which instruction sets are found: what the processor has and the operating system does not save is not used.
#include <algorithm>

#include "check.hpp"
#include "measure/peaks.hpp"
#include "simd/cpu.hpp"

using namespace martlet;

namespace {

std::string usable(const Processor& processor) {
  std::string names;
  for (const InstructionSet& set : sets_of(processor))
    if (set.is_usable) names += (names.empty() ? "" : " ") + std::string(set.name);
  return names;
}
std::string best(const Processor& processor) { return find_kernels("", sets_of(processor)).name; }

}  // namespace

#ifdef __x86_64__
namespace {

Processor with_everything() {
  Processor p;
  p.leaf1_ecx = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;                    // FMA, OSXSAVE, AVX, F16C
  p.leaf7_ebx = 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;          // AVX2, AVX-512 F, DQ, BW, VL
  p.leaf7_ecx = 1u << 11;                                                     // AVX-512 VNNI
  p.leaf7_1_eax = 1u << 4 | 1u << 5;                                          // AVX-VNNI, AVX-512 BF16
  p.xcr0 = 0xe7;
  return p;
}

}  // namespace

TEST(the_operating_system_is_asked_which_registers_it_saves) {
  Processor p = with_everything();
  CHECK(usable(p) == "scalar avx2 avx2_vnni avx512 avx512_bf16" && best(p) == "avx512_bf16");
  for (int bit : {5, 6, 7}) {  // masks, halves of zmm0-15, zmm16-31
    p.xcr0 = 0xe7 & ~(1u << bit);
    CHECK(usable(p) == "scalar avx2 avx2_vnni" && best(p) == "avx2_vnni");
    CHECK_THROWS(find_kernels("avx512", sets_of(p)), "operating system does not have");
  }
  for (uint64_t narrow : {0xe3, 0xe5, 0x03, 0x00}) {
    p.xcr0 = narrow;
    CHECK(usable(p) == "scalar" && best(p) == "scalar");
    CHECK_THROWS(find_kernels("avx2", sets_of(p)), "instruction set avx2 needs AVX2, FMA and F16C");
  }
  p = with_everything();
  p.leaf1_ecx &= ~(1u << 27);  // no OSXSAVE: whatever xcr0 holds was not asked
  CHECK(usable(p) == "scalar");
}

TEST(a_set_needs_each_of_its_features) {
  const Processor all = with_everything();
  auto without = [&](uint32_t Processor::* word, int bit) {
    Processor p = all;
    p.*word &= ~(1u << bit);
    return usable(p);
  };
  for (int bit : {12, 28, 29}) CHECK(without(&Processor::leaf1_ecx, bit) == "scalar");
  CHECK(without(&Processor::leaf7_ebx, 5) == "scalar");
  for (int bit : {16, 17, 30, 31}) CHECK(without(&Processor::leaf7_ebx, bit) == "scalar avx2 avx2_vnni");
  CHECK(without(&Processor::leaf7_ecx, 11) == "scalar avx2 avx2_vnni");
  CHECK(without(&Processor::leaf7_1_eax, 4) == "scalar avx2 avx512 avx512_bf16");
  CHECK(without(&Processor::leaf7_1_eax, 5) == "scalar avx2 avx2_vnni avx512");
}

TEST(this_processor_is_read_as_the_compiler_reads_it) {
  __builtin_cpu_init();
  std::string names = " " + usable(this_processor()) + " ";
  auto is = [&](const char* name) { return names.find(" " + std::string(name) + " ") != std::string::npos; };
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vnni");
  CHECK(is("avx2") == has_avx2 && is("avx512") == has_512);
  CHECK(is("avx512_bf16") == (has_512 && __builtin_cpu_supports("avx512bf16")));
}
#elif defined(__aarch64__)
TEST(linux_is_asked_what_programs_may_use) {
  Processor p;
  CHECK(usable(p) == "scalar");
  p.hwcap2 = 1u << 13;
  CHECK(usable(p) == "scalar");
  p.hwcap = 1u << 20;
  CHECK(usable(p) == "scalar neon neon_i8mm" && best(p) == "neon_i8mm");
  p.hwcap2 = 0;
  CHECK(usable(p) == "scalar neon" && best(p) == "neon");
  CHECK_THROWS(find_kernels("neon_i8mm", sets_of(p)), "8-bit matrix products");
}
#endif

TEST(a_processor_with_none_of_the_fast_sets_has_the_plain_one) {
  CHECK(usable(Processor{}) == "scalar" && best(Processor{}) == "scalar");
  CHECK_THROWS(find_kernels("altivec", sets_of(Processor{})), "must be one of scalar");
}

TEST(every_set_has_loops_that_measure_it) {
  for (const InstructionSet& set : instruction_sets()) {
    if (!set.is_usable) continue;
    std::vector<PeakLoop> loops = peak_loops(set.name);
    CHECK(loops.size() == 4);
    for (const PeakLoop& loop : loops) loop.run(3);
  }
  CHECK_THROWS(peak_loops("altivec"), "altivec");
}
