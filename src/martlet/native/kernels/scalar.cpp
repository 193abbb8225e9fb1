#define MARTLET_ISA scalar
#define MARTLET_NAME "scalar"
#define MARTLET_SIMD "simd/scalar.hpp"
#include "kernels/all.inc"
