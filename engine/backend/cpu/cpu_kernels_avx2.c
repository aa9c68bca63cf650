/* cpu_kernels_avx2.c - cpu_kernels.inc over cpu_simd_avx2.h; see flags.mk for the
 * instruction set this file is compiled for. */
#include "engine/backend/cpu/cpu_simd_avx2.h"

#define CPU_KERNELS_TABLE  cpu_kernels_avx2
#include "engine/backend/cpu/cpu_kernels.inc"
