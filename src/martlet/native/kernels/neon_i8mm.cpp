#define MARTLET_ISA neon_i8mm
#define MARTLET_NAME "neon_i8mm"
#define MARTLET_SIMD "simd/neon.hpp"
#include "kernels/all.inc"
