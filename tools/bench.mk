# bench.mk - programs and targets that measure; docs/performance.md says what.

LOAD_OBJ := $(patsubst %,$(B)/obj/tools/%.o,load_hist load_parse load_proc)
$(B)/nginx-llm-load: $(B)/obj/tools/llm_load.o $(LOAD_OBJ) $(call libs_of,engine/base)
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
$(B)/nginx-llm-bare: $(B)/obj/tools/llm_bare.o $(call libs_of,engine/base)
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
# wire_client.c is the worker's end of a session that the tests use, too.
$(B)/nginx-llm-bench_wire: $(patsubst %,$(B)/obj/%.o,tools/llm_bench_wire tools/load_hist tools/mock_plan \
                           tools/mock_reply tests/lib/wire_client) $(call libs_of,engine/server engine/base wire)
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
# The engine itself is in it: engine/app.c composes it as for nginx-llm-engine.
BENCH_OBJ := $(patsubst %,$(B)/obj/%.o,tools/llm_bench tools/load_parse engine/app engine/engine_options \
               $(basename $(wildcard tools/bench_*.c)))
$(B)/nginx-llm-bench: $(BENCH_OBJ) $(call libs_of,$(DEPS_engine))
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@

.PHONY: bench bench-nginx bench-clients bench-programs bench-llm
bench-llm: $(B)/nginx-llm-bench ## nginx-llm-bench latency|throughput|serve, vLLM's figures; ARGS='serve --help'
	@$(B)/nginx-llm-bench $(or $(ARGS),--help)
bench-programs: engine tools module mock-engine $(patsubst %,$(B)/nginx-llm-%,load bare bench_wire bench_cpu bench_tokenizer)
bench: bench-programs   ## every figure of docs/performance.md in one run, under 4 minutes: table and build/bench.json
	@BUILD=$(BUILD) CONFIG=$(CONFIG) PYTHON=$(PYTHON) tools/bench.sh all
bench-nginx: bench-programs ## nginx and wire with the mock engine only
	@BUILD=$(BUILD) CONFIG=$(CONFIG) PYTHON=$(PYTHON) tools/bench.sh nginx
# What a policy of the scheduler does, and the programs on a device that only
# takes time: tests/sim/.
.PHONY: time-sched timed-backend
$(B)/time-sched: $(B)/obj/tests/sim/time_sched.o $(call libs_of,$(DEPS_engine/sched))
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
time-sched: $(B)/time-sched ## the scheduler's policy on crowds of requests, in virtual time; A='mixed=512 1000/250'
	@$(B)/time-sched $(A)
$(B)/timed/nginx-llm-cuda.so: $(B)/obj/tests/sim/timed_backend.o $(call libs_of,engine/base)
	@mkdir -p $(@D)
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) -shared $^ -lm -o $@
timed-backend: $(B)/timed/nginx-llm-cuda.so engine tools ## build/CONFIG/timed: engine and bench with a device that only takes an H200's time
	@ln -f $(B)/nginx-llm-engine $(B)/nginx-llm-bench $(B)/timed/
bench-clients: bench-programs ## 10,000 idle connections and 2,000 streams on one worker: memory, longest stall
	@BUILD=$(BUILD) CONFIG=$(CONFIG) PYTHON=$(PYTHON) tools/bench.sh clients
