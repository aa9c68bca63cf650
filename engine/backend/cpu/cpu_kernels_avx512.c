/* cpu_kernels_avx512.c - cpu_kernels.inc over cpu_simd_avx512.h; see flags.mk for the
 * instruction set this file is compiled for. */
#include "engine/backend/cpu/cpu_simd_avx512.h"

#define CPU_KERNELS_TABLE  cpu_kernels_avx512
#include "engine/backend/cpu/cpu_kernels.inc"
