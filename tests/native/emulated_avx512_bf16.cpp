#ifdef __x86_64__
#include "emulated_avx512.hpp"
#define __AVX512BF16__
#define MARTLET_ISA emulated_avx512_bf16
#define MARTLET_NAME "avx512_bf16"
#define MARTLET_SIMD "simd/avx512.hpp"
#include "kernels/all.inc"
#endif
