#define MARTLET_ISA avx512
#define MARTLET_NAME "avx512"
#define MARTLET_SIMD "simd/avx512.hpp"
#include "kernels/all.inc"
