#define MARTLET_ISA neon
#define MARTLET_NAME "neon"
#define MARTLET_SIMD "simd/neon.hpp"
#include "kernels/all.inc"
