# Makefile - every habit of the project in one word; `make help` lists them.
# Objects go to $(BUILD)/$(CONFIG); nothing is configured by hand.

CONFIG    ?= release
BUILD     ?= build
B         := $(BUILD)/$(CONFIG)
CC        ?= gcc
NVCC      ?= nvcc
PYTHON    ?= python3

WARN      := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes \
             -Wmissing-prototypes -Wvla -Werror
CFLAGS_release := -O2 -g
CFLAGS_debug   := -O0 -g -DLLM_DEBUG
CFLAGS_asan    := -O1 -g -DLLM_DEBUG -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CFLAGS_tsan    := -O1 -g -DLLM_DEBUG -fsanitize=thread
CFLAGS_cover   := -O0 -g -DLLM_DEBUG --coverage
CFLAGS_fuzz    := -O1 -g -DLLM_DEBUG -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined -Wno-error
CFLAGS    += $(WARN) -std=c11 -D_GNU_SOURCE -fno-strict-aliasing -ffp-contract=off -fPIC -pthread \
             $(CFLAGS_$(CONFIG)) -I. -MMD -MP
LDFLAGS   += -pthread $(filter -fsanitize% --coverage,$(CFLAGS_$(CONFIG)))

-include engine/backend/cpu/flags.mk

# V=1 shows the commands.
ifneq ($(V),1)
Q := @
say = @echo "  $(1)"
endif

# Layers in dependency order; each becomes one archive.  tools/layers.txt is
# the rule, this is only the link order.
LAYERS    := wire engine/base engine/text engine/grammar engine/backend \
             engine/backend/cpu engine/model engine/sample engine/sched \
             engine/core engine/api engine/server
layer_src  = $(wildcard $(1)/*.c)
layer_lib  = $(B)/lib/$(subst /,_,$(1)).a
srcs_all  := $(foreach l,$(LAYERS),$(call layer_src,$(l)))
libs_of    = $(foreach l,$(1),$(if $(call layer_src,$(l)),$(call layer_lib,$(l))))

# What a layer's programs and tests link with, nearest first.
DEPS_wire               := wire
DEPS_engine/base        := engine/base
DEPS_engine/text        := engine/text engine/base
DEPS_engine/grammar     := engine/grammar engine/text engine/base
DEPS_engine/backend     := engine/backend/cpu engine/backend engine/base
DEPS_engine/backend/cpu := engine/backend/cpu engine/backend engine/base
DEPS_engine/backend/cuda := engine/base
DEPS_engine/model       := engine/model engine/backend/cpu engine/backend engine/base
DEPS_engine/sample      := engine/sample engine/backend/cpu engine/backend engine/base
DEPS_engine/sched       := engine/sched engine/base
DEPS_engine/core        := engine/core engine/sched engine/sample engine/model engine/grammar engine/text \
                           engine/backend/cpu engine/backend engine/base
DEPS_engine/api         := engine/api $(DEPS_engine/core)
DEPS_engine/server      := engine/server engine/api $(DEPS_engine/core) wire
DEPS_engine             := $(DEPS_engine/server)

LIBS      := -lcjson -lpcre2-8 -lm

.PHONY: all
all: engine tools

# ---- archives -------------------------------------------------------------
$(B)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC $<)
	$(Q)$(CC) $(CFLAGS) $(CFLAGS_$<) -c $< -o $@

define layer_rule
$(call layer_lib,$(1)): $(patsubst %.c,$(B)/obj/%.o,$(call layer_src,$(1)))
	@mkdir -p $$(@D)
	@rm -f $$@
	$(Q)ar rcs $$@ $$^
endef
$(foreach l,$(LAYERS),$(eval $(call layer_rule,$(l))))
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# ---- programs ---------------------------------------------------------------
.PHONY: engine tools
engine: $(B)/nginx-llm-engine
tools:  $(B)/nginx-llm-tool $(B)/nginx-llm-bench

ENGINE_MAIN := $(wildcard engine/*.c)
$(B)/nginx-llm-engine: $(patsubst %.c,$(B)/obj/%.o,$(ENGINE_MAIN)) $(call libs_of,$(DEPS_engine))
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
$(B)/nginx-llm-%: $(B)/obj/tools/llm_%.o $(call libs_of,$(DEPS_engine))
	$(call say,LD $@)
	$(Q)$(CC) $(LDFLAGS) $^ $(LIBS) -o $@
.SECONDARY:

# ---- the nginx module -------------------------------------------------------
# Against Debian's nginx-dev, or NGINX=/path/to/nginx-source.
NGINX      ?= /usr/share/nginx/src
MODULE     := $(B)/ngx_http_llm_module.so
MODULE_SRC := config $(wildcard ngx_http_llm_module/*.[ch] ngx_http_llm_module/*.inc wire/*.[ch])
.PHONY: module
module: $(MODULE)       ## the dynamic module; NGINX=path builds against another nginx
$(MODULE): $(MODULE_SRC) tools/build_module.sh $(B)/module.nginx
	tools/build_module.sh $(NGINX) $(B)/module $@
# Changes when NGINX does, so that another nginx means another build.
$(B)/module.nginx: FORCE
	@mkdir -p $(@D)
	@echo $(NGINX) | cmp -s - $@ || echo $(NGINX) > $@
.PHONY: FORCE
FORCE:

# ---- running and installing -------------------------------------------------
PREFIX     ?= /usr
LIBDIR     := $(DESTDIR)$(PREFIX)/lib
.PHONY: run install
run:                    ## everything from a fresh machine: packages, build, nginx on 127.0.0.1:8000; MODEL=dir PORT=n CONF=file
	@BUILD=$(BUILD) CONFIG=$(CONFIG) $(if $(MODEL),MODEL='$(MODEL)') $(if $(PORT),PORT=$(PORT)) $(if $(CONF),CONF='$(CONF)') tools/run.sh
install: engine tools module ## to DESTDIR and PREFIX (/usr)
	install -Dm755 $(B)/nginx-llm-engine $(LIBDIR)/nginx-llm/nginx-llm-engine
	[ ! -e $(CUDA_SO) ] || install -Dm755 $(CUDA_SO) $(LIBDIR)/nginx-llm/nginx-llm-cuda.so
	install -Dm755 $(B)/nginx-llm-tool $(DESTDIR)$(PREFIX)/bin/nginx-llm-tool
	install -Dm755 $(B)/nginx-llm-bench $(LIBDIR)/nginx-llm/nginx-llm-bench
	mkdir -p $(DESTDIR)$(PREFIX)/bin && ln -sf ../lib/nginx-llm/nginx-llm-bench $(DESTDIR)$(PREFIX)/bin/
	install -Dm644 $(MODULE) $(LIBDIR)/nginx/modules/ngx_http_llm_module.so

include tools/cuda.mk
include tools/tests.mk
include tools/bench.mk

.PHONY: tidy fmt clean help
tidy:                   ## layers and style; warnings are errors in every build
	@tools/check_layers.sh
	@tools/check_style.sh
	@tools/gen_status_page.sh --check
fmt:                    ## clang-format on what git sees as changed, but for the module
	@files=$$(git ls-files -mo --exclude-standard -- '*.[ch]' ':!ngx_http_llm_module'); \
	 [ -z "$$files" ] || clang-format -i $$files
clean:                  ## removes build/
	rm -rf $(BUILD)
help:                   ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile tools/*.mk | sed 's/:.*## /\t/' | expand -t 16
