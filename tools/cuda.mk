# cuda.mk - the CUDA backend, a library of its own that the engine loads when
# it is there: build/CONFIG/nginx-llm-cuda.so.  Without nvcc `make cuda` says so
# and succeeds; nothing else of the build needs it.
#
# Machine code for Hopper (sm_90a), and PTX that the driver compiles at the
# first start on other GPUs from Ampere on.

NVCC_PATH  := $(or $(if $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc)),$(shell command -v $(NVCC) 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA_DIR   := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC_PATH)))
# CUDA's headers, which are enough to compile the backend's own C files.
CUDA_INCLUDE := $(patsubst %/cublasLt.h,%,$(firstword $(wildcard $(addsuffix /include/cublasLt.h,$(CUDA_DIR) $(CUDA_HOME) /usr/local/cuda /usr))))
CUDA_SO    := $(B)/nginx-llm-cuda.so
CUDA_ARCH  ?= -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=compute_80
NVCCFLAGS  := -std=c++17 -O3 -lineinfo -I. $(CUDA_ARCH) -Xcompiler -fPIC,-Wall,-Wextra,-fno-exceptions,-fno-rtti --Werror all-warnings
CUDA_OBJ   := $(patsubst %,$(B)/obj/%.o,$(basename $(wildcard kernels/*.cu engine/backend/cuda/*.c)))
$(B)/obj/engine/backend/cuda/%.o $(B)/obj/tests/sim/cuda/%.o: CFLAGS += -isystem $(CUDA_INCLUDE)

.PHONY: cuda test-gpu time-gpu report-gpu test-gpu-sanitize
ifeq ($(CUDA_DIR),)
cuda:                   ## the CUDA backend, nginx-llm-cuda.so; needs nvcc (CUDA_HOME=dir)
	@echo "SKIP: nginx-llm-cuda.so is not built, there is no nvcc (set CUDA_HOME)"
else ifeq ($(filter release debug,$(CONFIG)),)
cuda:
	@echo "SKIP: nginx-llm-cuda.so is not built with CONFIG=$(CONFIG)"
else
cuda: $(CUDA_SO)
$(B)/obj/kernels/%.o: kernels/%.cu
	@mkdir -p $(@D)
	$(call say,NVCC $<)
	$(Q)$(NVCC_PATH) $(NVCCFLAGS) -MMD -MP -c $< -o $@
$(CUDA_SO): $(CUDA_OBJ) $(call libs_of,engine/base) engine/backend/cuda/exports.map
	$(call say,LD $@)
	$(Q)$(NVCC_PATH) -shared -cudart static $(filter %.o %.a,$^) -lcublasLt -lpthread \
	    -Xlinker --version-script=engine/backend/cuda/exports.map -Xlinker -z,defs \
	    -Xlinker -rpath,$(CUDA_DIR)/lib64 -o $@
$(B)/gpu-ceilings: tools/gpu_ceilings.cu
	$(call say,NVCC $@)
	$(Q)$(NVCC_PATH) -O3 $(CUDA_ARCH) -cudart static $< -lcublasLt -Xlinker -rpath,$(CUDA_DIR)/lib64 -o $@
endif

# A library that is there is kept up to date: the engine refuses an old one.
ifneq ($(wildcard $(CUDA_SO)),)
engine: cuda
endif

# Programs that compare and time the backends; they load the library as the
# engine does, so they build without CUDA.
GPU_PROGRAMS := $(B)/test-backend-cuda $(B)/time-backend-cuda $(B)/time-steps
GPU_TEST_OBJ := $(patsubst %,$(B)/obj/tests/gpu/%.o,test_backend_cuda gpu_test gpu_side gpu_ops gpu_kv gpu_attention gpu_models gpu_sample gpu_graphs gpu_fused gpu_world gpu_engine) \
                $(B)/obj/tests/sim/late_backend.o
$(B)/test-backend-cuda: $(GPU_TEST_OBJ)
$(B)/time-backend-cuda: $(B)/obj/tests/gpu/time_backend_cuda.o $(B)/obj/tests/gpu/time_common.o
$(B)/time-steps: $(B)/obj/tests/gpu/time_steps.o $(B)/obj/tests/gpu/time_common.o
$(GPU_PROGRAMS): $(call libs_of,$(DEPS_engine/core))
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) $(LIBS) -o $@
test-gpu: cuda $(GPU_PROGRAMS) ## CUDA against the CPU backend; skips without a GPU; A=op runs some
	@$(B)/test-backend-cuda $(A)
time-gpu: cuda $(GPU_PROGRAMS) ## decode and prefill times on dummy weights; A=DIR
	@$(B)/time-backend-cuda $(A)
# ceilings measured in the same run; tools/gpu_report.sh says what it needs
report-gpu: cuda engine tools module $(B)/time-steps $(if $(CUDA_DIR),$(B)/gpu-ceilings) ## every figure of the engine on this GPU, one table; A=--quick
	@BIN=$(B) tools/gpu_report.sh $(A)
# each tool over the small shapes; a finding is an error
test-gpu-sanitize: cuda $(GPU_PROGRAMS) ## compute-sanitizer over test-gpu's small shapes; TOOL=memcheck A=linear
	@BIN=$(B) tools/gpu_sanitize.sh $(or $(TOOL),memcheck racecheck initcheck) -- $(A)
