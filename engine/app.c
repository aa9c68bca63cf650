/* app.c - builds the layers on top of each other and says where bytes go. */
#include "engine/app.h"
#include "engine/backend/backend_load.h"
#include "engine/backend/cpu/backend_cpu.h"
#include "engine/backend/cuda/backend_cuda.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/core/engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define APP_MIB           (1024.0 * 1024.0)
#define APP_CPU_SEQS      128
#define APP_CPU_TOKENS    512
#define APP_CPU_KV_BYTES  ((size_t) 512 << 20)
#define APP_GPU_SEQS      512
#define APP_GPU_TOKENS    2048    /* nobody who arrives waits longer than some
                                     50 ms for the step at hand */

#define APP_OTHERS_BYTES  ((size_t) 2 << 30)   /* more than the driver and our
                                                  context take by themselves */

/* The directory's own name, for --served-model-name. */
static void
app_default_name(struct app *app)
{
    size_t  len = strlen(app->cli->model);
    while (len > 1 && app->cli->model[len - 1] == '/') {
        len--;
    }
    size_t  begin = len;
    while (begin > 0 && app->cli->model[begin - 1] != '/') {
        begin--;
    }
    (void) snprintf(app->name, sizeof app->name, "%.*s", (int) (len - begin),
                    app->cli->model + begin);
}

static int
app_see_others(struct app *app, struct err *err)
{
    size_t  free_bytes = 0, total = 0;

    if (app->backend->ops->memory(app->backend, &free_bytes, &total, err) != OK)
    {
        return ERROR;
    }
    app->others_bytes = total - free_bytes;
    return OK;
}

/* --device auto takes a GPU when the library, a driver and a device are there,
 * and says why it does not. */
static int
app_open_backend(struct app *app, struct err *err)
{
    const struct engine_cli      *cli = app->cli;
    struct backend_cpu_options    cpu = { .num_threads = (int) cli->threads };
    struct backend_cuda_options   cuda = {
        .abi = BACKEND_CUDA_ABI, .batch_invariant = cli->batch_invariant,
        .gemm_cache = cli->gemm_cache };

    if (strcmp(cli->device, "cpu") != 0) {
        int  rc = backend_load_cuda(&app->backend, &cuda, err);
        if (rc == OK) {
            return app_see_others(app, err);
        }
        if (rc == ERROR || strcmp(cli->device, "cuda") == 0) {
            (void) err_prefix(err, "--device %s", cli->device);
            return ERROR;
        }
        log_notice("running on the CPU: %s", err->message);
        *err = (struct err) { 0 };
    }
    return backend_cpu_create(&app->backend, &cpu, err);
}

/* Sizes that were left open, by what the model runs on. */
static void
app_sizes(struct app *app)
{
    const struct engine_cli  *cli = app->cli;
    bool                      gpu = app->backend->ops->memory != NULL;
    int64_t                   seqs = cli->max_num_seqs;
    int64_t                   tokens = cli->max_num_batched_tokens;

    seqs = seqs > 0 ? seqs : gpu ? APP_GPU_SEQS : APP_CPU_SEQS;
    tokens = tokens > 0 ? tokens : gpu ? APP_GPU_TOKENS : APP_CPU_TOKENS;
    if (cli->max_num_batched_tokens == 0 && tokens < seqs) {
        tokens = seqs;
    }
    if (cli->max_num_seqs == 0 && seqs > tokens) {
        seqs = tokens;
    }
    app->max_num_seqs = (int) seqs;
    app->max_num_batched_tokens = (int) tokens;
}

/* Where the memory went and what fits, in the terms of the options. */
static void
app_log_memory(const struct app *app)
{
    const struct model   *m = app->model;
    int64_t               tokens = (int64_t) (m->kv.cache.num_blocks - 1)
                                   * m->block_size;
    struct model_memory   use;

    model_memory(m, &use);
    log_notice("model %s: %s on %s, %lld parameters, weights %s",
               app->cli->model, app->config->architecture,
               app->backend->ops->name,
               (long long) model_config_num_parameters(app->config),
               dtype_name(m->dtype));
    log_notice("memory: weights %.1f MiB, KV cache %.1f MiB (%s), activations "
               "%.1f MiB, scratch %.1f MiB",
               (double) use.weights / APP_MIB, (double) use.kv / APP_MIB,
               dtype_name(m->kv.cache.dtype),
               (double) use.activations / APP_MIB,
               (double) use.scratch / APP_MIB);
    if (use.device_total > 0) {
        log_notice("memory: %.2f of %.2f GiB of the GPU are free",
                   (double) use.device_free / APP_MIB / 1024,
                   (double) use.device_total / APP_MIB / 1024);
    }
    log_notice("KV cache: %d blocks of %d tokens = %lld tokens, %.1f sequences "
               "of max_model_len %d; %d sequences and %d tokens a step",
               m->kv.cache.num_blocks, m->block_size, (long long) tokens,
               (double) tokens / m->max_model_len, m->max_model_len,
               app->max_num_seqs, app->max_num_batched_tokens);
}

static enum dtype
app_kv_cache_dtype(const char *name)
{
    return strcmp(name, "auto") == 0 ? DTYPE_NONE
           : strcmp(name, "bfloat16") == 0 ? DTYPE_BF16 : DTYPE_F8_E4M3;
}

static int
app_open_model(struct app *app, struct err *err)
{
    const struct engine_cli    *cli = app->cli;

    app->config = calloc(1, sizeof *app->config);
    if (app->config == NULL) {
        return err_set(err, "out of memory");
    }
    if (model_config_load(app->config, cli->model, err) != OK
        || app_open_backend(app, err) != OK)
    {
        return ERROR;
    }
    app_sizes(app);
    struct model_options  o = {
        .path = cli->model,
        .load_format = strcmp(cli->load_format, "dummy") == 0 ? LOAD_DUMMY
                                                              : LOAD_AUTO,
        .max_model_len = (int) cli->max_model_len,
        .block_size = (int) cli->block_size,
        .kv_cache_dtype = app_kv_cache_dtype(cli->kv_cache_dtype),
        .num_blocks = (int) cli->num_blocks_override,
        .kv_cache_bytes = (size_t) cli->kv_cache_memory_bytes,
        .gpu_memory_utilization = cli->gpu_memory_utilization,
        .max_num_batched_tokens = app->max_num_batched_tokens,
        .max_num_seqs = app->max_num_seqs,
    };
    if (o.kv_cache_bytes == 0 && app->backend->ops->memory == NULL) {
        o.kv_cache_bytes = APP_CPU_KV_BYTES;
    }
    if (model_open(&app->model, &o, app->backend, err) != OK) {
        return ERROR;
    }
    int64_t  start_ns = clock_now_ns();
    if (model_warm_up(app->model, err) != OK) {
        return err_prefix(err, "warm-up");
    }
    if (app->backend->ops->memory != NULL) {
        log_notice("warm-up took %.2f s", (double) (clock_now_ns() - start_ns)
                                          / NS_PER_S);
    }
    app_log_memory(app);
    return OK;
}

static int
app_open_text(struct app *app, struct err *err)
{
    const struct engine_cli  *cli = app->cli;

    if (cli->skip_tokenizer_init) {
        return OK;
    }
    if (tokenizer_open(&app->tokenizer, cli->model, err) != OK) {
        return ERROR;
    }
    if (tokenizer_vocab_size(app->tokenizer) > app->config->vocab_size) {
        log_warn("the tokenizer has %d ids, the model %d: the rest is "
                 "refused in prompts",
                 tokenizer_vocab_size(app->tokenizer),
                 app->config->vocab_size);
    }
    struct chat_specials  specials = {
        .bos = tokenizer_special_text(app->tokenizer, TOKENIZER_BOS),
        .eos = tokenizer_special_text(app->tokenizer, TOKENIZER_EOS),
        .unk = tokenizer_special_text(app->tokenizer, TOKENIZER_UNK),
        .pad = tokenizer_special_text(app->tokenizer, TOKENIZER_PAD),
    };
    int  rc = cli->chat_template == NULL
              ? chat_open_dir(&app->chat, cli->model, err)
              : chat_open_file(&app->chat, cli->chat_template, &specials, err);
    if (rc == AGAIN) {
        log_warn("%s has no chat template: /v1/chat/completions is answered "
                 "400; give --chat-template", cli->model);
        return OK;
    }
    return rc;
}

static void
app_defaults(const struct app *app, struct api_defaults *d)
{
    const struct generation_defaults  *g = &app->config->generation;
    bool  neutral = strcmp(app->cli->generation_config, "vllm") == 0;

    *d = (struct api_defaults) { .temperature = 1, .top_p = 1 };
    if (!neutral) {
        d->temperature = isnan(g->temperature) ? 1 : (float) g->temperature;
        d->top_p = isnan(g->top_p) ? 1 : (float) g->top_p;
        d->min_p = isnan(g->min_p) ? 0 : (float) g->min_p;
        d->top_k = g->top_k < 0 ? 0 : g->top_k;
        if (!isnan(g->repetition_penalty) && g->repetition_penalty != 1) {
            log_warn("generation_config.json: repetition_penalty %g is not "
                     "supported yet and left out", g->repetition_penalty);
        }
    }
    for (int i = 0; i < app->config->num_eos_token_ids; i++) {
        d->eos_ids[d->num_eos_ids++] = app->config->eos_token_ids[i];
    }
    int32_t  eos = app->tokenizer == NULL ? -1
                   : tokenizer_special_id(app->tokenizer, TOKENIZER_EOS);
    for (int32_t i = 0; i < d->num_eos_ids; i++) {
        if (d->eos_ids[i] == eos) {
            eos = -1;
        }
    }
    if (eos >= 0) {
        d->eos_ids[d->num_eos_ids++] = eos;
    }
}

static uint64_t
app_seed(const struct engine_cli *cli)
{
    uint64_t  seed = (uint64_t) cli->seed;

    if (seed == 0 && getrandom(&seed, sizeof seed, 0) != sizeof seed) {
        seed = (uint64_t) clock_now_ns();
    }
    return seed;
}

static enum api_special_text
app_special_text(const struct engine_cli *cli)
{
    const char  *word = cli->special_tokens_in_content;

    return strcmp(word, "parse") == 0 ? API_SPECIAL_PARSE
           : strcmp(word, "reject") == 0 ? API_SPECIAL_REJECT
           : API_SPECIAL_TEXT;
}

static int
app_create_api(struct app *app, struct err *err)
{
    const struct engine_cli  *cli = app->cli;
    struct api_options        o = {
        .model_root = cli->model,
        .max_model_len = app->model->max_model_len,
        .vocab_size = app->config->vocab_size,
        .tokenizer = app->tokenizer,
        .chat = app->chat,
        .engine = app->engine,
        .special_tokens_in_content = app_special_text(cli),
        .seed = app_seed(cli),
    };
    app_default_name(app);
    if (cli->served_model_name.num == 0) {
        o.model_names[o.num_model_names++] = app->name;
    }
    for (int i = 0; i < cli->served_model_name.num; i++) {
        o.model_names[o.num_model_names++] = cli->served_model_name.items[i];
    }
    app_defaults(app, &o.defaults);
    return api_create(&app->api, &o, err);
}

bool
app_may_load_later(const struct app *app, const struct err *err)
{
    return err->device_full && app->others_bytes > APP_OTHERS_BYTES;
}

/* engine_run() returns on engine_stop() only; anything else means that the
 * device is lost, and then the supervisor starts a fresh process. */
static void *
app_step_thread(void *data)
{
    struct app        *app = data;
    const struct err  *err = engine_run(app->engine);

    if (err != NULL) {
        log_alert("the device is lost: %s", err->message);
        _exit(EXIT_FAILURE);
    }
    return NULL;
}

static int32_t
app_mixed_tokens(const struct app *app)
{
    int64_t  tokens = app->cli->max_num_mixed_tokens;

    return tokens > 0 ? (int32_t) tokens
                      : (app->max_num_batched_tokens + 1) / 2;
}

int
app_load(struct app *app, const struct engine_cli *cli, struct err *err)
{
    int64_t  start_ns = clock_now_ns();

    app->cli = cli;
    if (cli->model == NULL) {
        return err_set(err, "--model DIR is required");
    }
    if (app_open_model(app, err) != OK || app_open_text(app, err) != OK) {
        return ERROR;
    }
    struct engine_options  o = {
        .max_num_seqs = app->max_num_seqs,
        .max_num_batched_tokens = app->max_num_batched_tokens,
        .max_model_len = app->model->max_model_len,
        .max_waiting = (int32_t) cli->max_num_queued_reqs,
        .max_num_mixed_tokens = app_mixed_tokens(app),
        .enable_chunked_prefill = cli->enable_chunked_prefill,
        .async_scheduling = strcmp(cli->async_scheduling, "auto") == 0
                            ? model_samples(app->model)
                            : strcmp(cli->async_scheduling, "true") == 0,
        .trace_path = cli->trace,
    };
    if (engine_create(&app->engine, &o, app->model, err) != OK
        || app_create_api(app, err) != OK)
    {
        return ERROR;
    }
    if (pthread_create(&app->step_thread, NULL, app_step_thread, app) != 0) {
        return err_set(err, "cannot start the step thread");
    }
    app->step_running = true;
    log_notice("ready after %.2f s",
               (double) (clock_now_ns() - start_ns) / NS_PER_S);
    return OK;
}

void
app_stop(struct app *app)
{
    if (app->step_running) {
        engine_stop(app->engine);
        (void) pthread_join(app->step_thread, NULL);
        app->step_running = false;
    }
}

void
app_destroy(struct app *app)
{
    app_stop(app);
    api_destroy(app->api);
    engine_destroy(app->engine);
    chat_destroy(app->chat);
    tokenizer_destroy(app->tokenizer);
    model_close(app->model);
    if (app->backend != NULL) {
        app->backend->ops->destroy(app->backend);
    }
    free(app->config);
    *app = (struct app) { 0 };
}
