# flags.mk - instruction sets of the CPU backend's kernel files.  Everything
# else is built for the baseline CPU; backend_cpu.c picks a table at run time.
# -O3 unrolls the register blocks; sums keep their order (no -ffast-math).
# Variable tracking takes minutes on the unrolled code under the sanitizers.
# gcc 12 stores 64-byte vectors, aligned, into frames that the sanitizer's stack
# of after-return checks aligns to 32 bytes only (gcc bug 110027): not here.
CPU_KERNEL_OPT := $(if $(filter release,$(CONFIG)),-O3,-fno-var-tracking) \
                  $(if $(filter asan,$(CONFIG)),--param asan-use-after-return=0)
CFLAGS_engine/backend/cpu/cpu_kernels_plain.c  := $(CPU_KERNEL_OPT)
CFLAGS_engine/backend/cpu/cpu_kernels_avx2.c   := $(CPU_KERNEL_OPT) -mavx2 -mfma -mf16c
# Without optimisation gcc's own _mm512_cvtps_ph is a macro that -Wsign-conversion minds.
CFLAGS_engine/backend/cpu/cpu_kernels_avx512.c := $(CPU_KERNEL_OPT) \
    $(if $(filter debug cover,$(CONFIG)),-Wno-sign-conversion) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c
