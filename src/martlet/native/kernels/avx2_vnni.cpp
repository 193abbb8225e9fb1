#define MARTLET_ISA avx2_vnni
#define MARTLET_NAME "avx2_vnni"
#define MARTLET_SIMD "simd/avx2.hpp"
#include "kernels/all.inc"
