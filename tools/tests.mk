# tests.mk - unit tests: tests/unit/<layer>/test_<file>.c mirrors engine/<layer>/<file>.c
# (wire tests in tests/unit/wire).  Each is one cmocka program that links its
# layer and the layers below, nothing above.

UNIT_SRC  := $(wildcard tests/unit/*/test_*.c tests/unit/*/*/test_*.c)
UNIT_BIN  := $(patsubst %.c,$(B)/%,$(UNIT_SRC))
unit_dir   = $(patsubst tests/unit/%/,%,$(dir $(1)))
unit_layer = $(if $(filter wire,$(call unit_dir,$(1))),wire,engine/$(call unit_dir,$(1)))

# Helpers in tests/lib that a test links with.
EXTRA_tests/unit/server/test_server.c    := tests/lib/wire_client.c tests/lib/fake_api.c
EXTRA_tests/unit/server/test_transport.c := tests/lib/wire_client.c

define unit_rule
$(patsubst %.c,$(B)/%,$(1)): $(1) $(EXTRA_$(1)) $(call libs_of,$(DEPS_$(call unit_layer,$(1))))
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) -Wno-missing-prototypes $$(LDFLAGS) $$(filter-out %.h,$$^) $$(LIBS) -lcmocka -o $$@
endef
$(foreach t,$(UNIT_SRC),$(eval $(call unit_rule,$(t))))
-include $(wildcard $(addsuffix .d,$(UNIT_BIN)))

# The engine without a model that the module's tests drive.
MOCK_OBJ := $(patsubst %,$(B)/obj/tools/%.o,llm_mock_engine mock_plan mock_reply)
$(B)/nginx-llm-mock-engine: $(MOCK_OBJ) $(call libs_of,engine/server engine/base wire)
	$(CC) $(LDFLAGS) $^ $(LIBS) -o $@

.PHONY: mock-engine
mock-engine: $(B)/nginx-llm-mock-engine ## build/CONFIG/nginx-llm-mock-engine

.PHONY: test-unit
test-unit: $(if $(T),$(filter %/test_$(T),$(UNIT_BIN)),$(UNIT_BIN)) ## unit tests; T=kv_blocks runs one file
	@tools/run_units.sh $^
