/* backend_cpu.h - the CPU backend in exact mode: the oracle of every other.
 *
 * Each output element is summed in one fixed order, whatever the batch, the
 * chunking, the number of threads and the instruction set: 16 fp32 partial
 * sums over k mod 16 by fused multiply-add, k ascending, combined as a tree
 * (+8, +4, +2, +1).  AVX-512, AVX2+FMA and the plain-C twin run one shared
 * kernel body on 16-lane vectors and give the same bits.  Threads split output
 * rows and (row, kv head) pairs only, never a sum.
 *
 * Weights stay where they are (usually the mapped file) and are streamed once
 * a step.  Workers sleep on a futex between ops after a spin of some
 * microseconds, and are all gone after destroy(). */
#ifndef LLM_BACKEND_CPU_BACKEND_CPU_H
#define LLM_BACKEND_CPU_BACKEND_CPU_H

#include "engine/backend/backend.h"

#define CPU_THREADS_MAX  256

enum cpu_isa { CPU_ISA_AUTO, CPU_ISA_PLAIN, CPU_ISA_AVX2, CPU_ISA_AVX512 };

struct backend_cpu_options {
    int           num_threads;   /* 0: the CPUs this process may run on */
    enum cpu_isa  isa;           /* AUTO: the best this CPU has; asking for one
                                    it lacks is an ERROR */
};

int backend_cpu_create(struct backend **out,
                       const struct backend_cpu_options *options,
                       struct err *err);

/* "plain", "avx2", "avx512"; what AUTO chooses here. */
const char *cpu_isa_name(enum cpu_isa isa);
enum cpu_isa cpu_isa_best(void);

#endif
