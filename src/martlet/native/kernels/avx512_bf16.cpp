#define MARTLET_ISA avx512_bf16
#define MARTLET_NAME "avx512_bf16"
#define MARTLET_SIMD "simd/avx512.hpp"
#include "kernels/all.inc"
