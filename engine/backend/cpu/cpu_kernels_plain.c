/* cpu_kernels_plain.c - cpu_kernels.inc over cpu_simd_plain.h; see flags.mk for the
 * instruction set this file is compiled for. */
#include "engine/backend/cpu/cpu_simd_plain.h"

#define CPU_KERNELS_TABLE  cpu_kernels_plain
#include "engine/backend/cpu/cpu_kernels.inc"
