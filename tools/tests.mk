# tests.mk - unit tests: tests/unit/<layer>/test_<file>.c mirrors engine/<layer>/<file>.c
# (wire tests in tests/unit/wire).  Each is one cmocka program that links its
# layer and the layers below, nothing above.

UNIT_SRC  := $(wildcard tests/unit/*/test_*.c tests/unit/*/*/test_*.c)
# Compiles the CUDA backend's C files: needs CUDA's headers, no GPU and no nvcc.
ifeq ($(CUDA_INCLUDE),)
UNIT_SKIP := tests/unit/model/test_model_cuda.c
UNIT_SRC  := $(filter-out $(UNIT_SKIP),$(UNIT_SRC))
endif
UNIT_BIN  := $(patsubst %.c,$(B)/%,$(UNIT_SRC))
unit_dir   = $(patsubst tests/unit/%/,%,$(dir $(1)))
unit_layer = $(if $(filter wire,$(call unit_dir,$(1))),wire,engine/$(call unit_dir,$(1)))

# Helpers in tests/lib that a test links with.
EXTRA_tests/unit/core/test_exact.c       := tests/sim/late_backend.c
EXTRA_tests/unit/core/test_engine.c      := tests/sim/fake_model.c
EXTRA_tests/unit/core/test_engine_report.c := tests/sim/fake_model.c
EXTRA_tests/unit/core/test_sim.c         := tests/sim/fake_model.c
EXTRA_tests/unit/wire/test_llm_ring_stress.c := tests/fuzz/fuzz_wire.c engine/base/check.c
EXTRA_tests/unit/backend/cuda/test_cuda_plan.c := engine/backend/cuda/cuda_plan.c
EXTRA_tests/unit/model/test_model_cuda.c := $(patsubst %.c,$(B)/obj/%.o,$(wildcard engine/backend/cuda/*.c tests/sim/cuda/*.c))
EXTRA_tests/unit/server/test_server.c    := tests/lib/wire_client.c tests/lib/fake_api.c
EXTRA_tests/unit/server/test_reply.c     := tests/lib/wire_client.c tests/lib/fake_api.c
EXTRA_tests/unit/server/test_session.c   := tests/lib/wire_client.c tests/lib/fake_api.c
EXTRA_tests/unit/server/test_transport.c := tests/lib/wire_client.c
EXTRA_tests/unit/tools/test_bench_dataset.c := tools/bench_dataset.c tools/bench_options.c engine/engine_options.c
EXTRA_tests/unit/tools/test_bench_request.c := tools/bench_request.c
EXTRA_tests/unit/tools/test_bench_sse.c     := tools/bench_sse.c
EXTRA_tests/unit/tools/test_bench_stats.c   := tools/bench_stats.c
EXTRA_tests/unit/tools/test_load_parse.c    := tools/load_parse.c
# The programs' own parts are no layer; a test names what it needs of them.
DEPS_engine/tools := $(DEPS_engine)

define unit_rule
$(patsubst %.c,$(B)/%,$(1)): $(1) $(EXTRA_$(1)) $(call libs_of,$(DEPS_$(call unit_layer,$(1))))
	@mkdir -p $$(@D)
	$$(call say,LD $$@)
	$$(Q)$$(CC) $$(CFLAGS) -Wno-missing-prototypes $$(LDFLAGS) $$(filter-out %.h,$$^) $$(LIBS) -lcmocka -o $$@
endef
$(foreach t,$(UNIT_SRC),$(eval $(call unit_rule,$(t))))
-include $(wildcard $(addsuffix .d,$(UNIT_BIN)))

# The engine without a model that the module's tests drive.
MOCK_OBJ := $(patsubst %,$(B)/obj/%.o,tools/llm_mock_engine tools/mock_cli tools/mock_plan tools/mock_reply tools/mock_welcome \
              engine/supervise engine/supervise_owner engine/supervise_out)
# ASAN_LOG: where tools/asan_nginx.sh wants the sanitizers' reports.
ifdef ASAN_LOG
$(B)/nginx-llm-engine: $(B)/obj/tests/asan/asan_options.o
MOCK_OBJ += $(B)/obj/tests/asan/asan_options.o
CFLAGS_tests/asan/asan_options.c := '-DLLM_ASAN_LOG="$(ASAN_LOG)"'
endif
$(B)/nginx-llm-mock-engine: $(MOCK_OBJ) $(call libs_of,engine/server engine/base wire)
	$(CC) $(LDFLAGS) $^ $(LIBS) -o $@

.PHONY: mock-engine
mock-engine: $(B)/nginx-llm-mock-engine ## build/CONFIG/nginx-llm-mock-engine

.PHONY: test-unit
test-unit: $(if $(T),$(filter %/test_$(T),$(UNIT_BIN)),$(UNIT_BIN)) ## unit tests; T=kv_blocks runs one file
	@$(if $(filter %/test_$(or $(T),%).c,$(UNIT_SKIP)),echo "SKIP: $(UNIT_SKIP): there are no CUDA headers (set CUDA_HOME)")
	@tools/run_units.sh $^

# ---- nginx, end to end, everything ------------------------------------------
# $(abspath) because nginx and its tests change directory.
TEST_ENV = BUILD=$(BUILD) CONFIG=$(CONFIG) PYTHON=$(PYTHON)

.PHONY: test test-nginx test-e2e test-programs
test:                   ## installs what is missing, then every test; ends with "N passed, N failed"
	@tools/setup.sh test
	@$(TEST_ENV) tools/run_tests.sh
test-programs: engine tools module mock-engine
test-nginx: test-programs ## t/*.t and t/standin/*.t; T=t/stream.t runs one file, HUP=1 reloads between blocks
	@$(TEST_ENV) tools/run_nginx_tests.pl $(if $(HUP),--hup) $(or $(T),t/standin/*.t t/*.t)
test-e2e:               ## the openai SDK, httpx and curl against make run; T=-k\ name selects
	@$(TEST_ENV) tools/run_e2e.sh $(T)

# ---- sanitizers, fuzzing, coverage --------------------------------------------
.PHONY: asan asan-nginx tsan fuzz fuzz-program cover
asan:                   ## unit tests under address and undefined-behaviour sanitizers
	@$(MAKE) CONFIG=asan test-unit
# Address-space randomisation with many bits breaks gcc 12's ThreadSanitizer.
tsan:                   ## unit tests under the thread sanitizer
	@if setarch -R true 2>/dev/null; then setarch -R $(MAKE) CONFIG=tsan test-unit; \
	 else $(MAKE) CONFIG=tsan test-unit; fi
asan-nginx:             ## t/*.t with nginx itself, the module and the mock engine under sanitizers; T=t/stream.t
	@BUILD=$(BUILD) tools/asan_nginx.sh $(T)
fuzz:                   ## libFuzzer: F=json names tests/fuzz/fuzz_json.c, T=60 seconds
	@test -n "$(F)" || { echo "usage: make fuzz F=NAME [T=60]; NAME is one of:" \
	     $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c)); exit 2; }
	@tools/setup.sh fuzz
	@$(MAKE) CONFIG=fuzz CC=clang fuzz-program F=$(F)
	@tools/run_fuzz.sh $(BUILD)/fuzz/fuzz_$(F) $(F) $(or $(T),60)
# Links the highest layer that the program includes, and those below it.
FUZZ_INCLUDES = $(shell sed -n 's|^.include "\(.*\)/[^/]*"|\1|p' tests/fuzz/fuzz_$(F).c)
fuzz_layers   = $(DEPS_$(lastword $(filter $(FUZZ_INCLUDES),$(LAYERS)))) \
                $(filter wire,$(FUZZ_INCLUDES))
ifdef F
fuzz-program: $(B)/fuzz_$(F)
$(B)/fuzz_$(F): tests/fuzz/fuzz_$(F).c $(call libs_of,$(fuzz_layers))
	$(CC) $(CFLAGS) -fsanitize=fuzzer $(LDFLAGS) $< $(filter %.a,$^) $(LIBS) -o $@
endif
cover:                  ## line coverage of the unit tests, a table
	@$(MAKE) CONFIG=cover test-unit || true
	@tools/cover.sh $(BUILD)/cover/obj
