#define MARTLET_ISA avx2
#define MARTLET_NAME "avx2"
#define MARTLET_SIMD "simd/avx2.hpp"
#include "kernels/all.inc"
