/* time_steps.c - step times of a model with random weights, "name value" lines
 * for tools/gpu_report.sh.
 *
 * usage: time-steps DIR [all|short|prefill|decode|BATCH.CONTEXT,...] [GEMM_CACHE]
 *
 * weights_bytes, kv_bytes_token, linear_flops_token (of one prompt token)
 * decode.BATCH.CONTEXT       ms a step, one ahead, greedy, as the engine runs
 * alone.BATCH.CONTEXT        ms from a step's issue to its end
 * prefill.TOKENS             ms, in chunks of 8,192
 * attention.decode.256       GB/s of keys and values, all layers
 * attention.prefill.8192     TFLOP/s, causal
 * opened                     s, model_open()
 *
 * short: decode at 1, 64 and 256 and one prompt of 2,048; prefill, decode: one
 * of the two; BATCH.CONTEXT: decode steps of that size only. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"
#include "tests/gpu/time_common.h"

static double
alone_ms(struct timed *t, int repeats)
{
    double  best = 1e9;
    for (int i = 0; i < repeats; i++) {
        double  ms = step_ms(t);
        best = ms < best ? ms : best;
    }
    return best;
}

static double
attention_ms(struct timed *t)
{
    return layers_ms(t, t->m->id + 2, issue_attention, 0);
}

static void
time_decode(struct timed *t, int batch, int context)
{
    const struct model  *m = t->m;
    for (int seq = 0; seq < batch; seq++) {
        timed_append(t, seq, 1, context - 1, 1);
    }
    printf("decode.%d.%d %.3f\n", batch, context, ahead_ms(t, 30));
    printf("alone.%d.%d %.3f\n", batch, context, alone_ms(t, 6));
    if (batch == 256) {
        double  bytes = (double) model_kv_bytes_per_token(&m->config,
            m->kv.cache.dtype) * batch * context;
        printf("attention.decode.256 %.0f\n", bytes / (attention_ms(t) * 1e6));
    }
    batch_reset(&t->b);
    (void) fflush(stdout);
}

static void
time_prefill(struct timed *t, int tokens)
{
    const struct model  *m = t->m;
    double               best = 1e9;
    struct err           err = { 0 };
    for (int n = 0; n < (tokens > TIME_TOKENS_MAX ? 2 : 4); n++) {
        int64_t  t0 = clock_now_ns();
        for (int at = 0; at < tokens; at += TIME_TOKENS_MAX) {
            int  len = tokens - at < TIME_TOKENS_MAX ? tokens - at
                                                     : TIME_TOKENS_MAX;
            batch_reset(&t->b);
            timed_append(t, 0, len, at, at + len == tokens);
            model_issue(t->m, &t->b);
        }
        stop_on(model_sync(t->m, &err), &err);
        double  ms = ms_since(t0);
        best = ms < best ? ms : best;
    }
    printf("prefill.%d %.3f\n", tokens, best);
    if (tokens == TIME_TOKENS_MAX) {
        double  flops = 2.0 * tokens * (double) tokens * m->config.head_dim
                        * m->config.num_attention_heads
                        * m->config.num_hidden_layers;
        printf("attention.prefill.8192 %.0f\n",
               flops / (attention_ms(t) * 1e9));
    }
    batch_reset(&t->b);
    (void) fflush(stdout);
}

static void
print_sizes(const struct model *m)
{
    const struct model_config  *c = &m->config;
    struct model_memory         use;
    double  heads = c->num_attention_heads + 2.0 * c->num_key_value_heads;
    double  layer = (double) c->hidden_size * (heads + c->num_attention_heads)
                    * c->head_dim
                    + 3.0 * (double) c->hidden_size * c->intermediate_size;
    model_memory(m, &use);
    /* a step reads all but the embeddings, unless they are tied */
    printf("weights_bytes %.0f\n", 2.0 * (layer * c->num_hidden_layers
           + (double) c->vocab_size * c->hidden_size));
    printf("weights_allocated %zu\n", use.weights);
    printf("kv_bytes_token %zu\n", model_kv_bytes_per_token(c,
                                       m->kv.cache.dtype));
    printf("linear_flops_token %.0f\n", 2.0 * layer * c->num_hidden_layers);
    printf("attention_flops_pair %.0f\n", 4.0 * c->head_dim
           * c->num_attention_heads * c->num_hidden_layers);
}

static void
time_all(struct timed *t, bool all, bool decode, bool prefill)
{
    static const int  prompts[] = { 512, 2048, 8192, 32768 };
    static const int  batches[] = { 1, 4, 8, 16, 32, 64, 128, 256 };
    if (decode) {
        timed_fill(t);                   /* keys that are numbers */
    }
    if (all && decode) {
        time_decode(t, 1, 512);
    }
    for (size_t i = 0; decode && i < sizeof batches / sizeof *batches; i++) {
        if (all || batches[i] == 1 || batches[i] == 64 || batches[i] == 256) {
            time_decode(t, batches[i], TIME_CONTEXT);
        }
    }
    for (size_t i = 0; prefill && i < sizeof prompts / sizeof *prompts; i++) {
        if ((all || prompts[i] == 2048)
            && prompts[i] <= t->m->config.max_position_embeddings)
        {
            time_prefill(t, prompts[i]);
        }
    }
}

/* Decode steps of the sizes in `what`, "BATCH.CONTEXT,..."; false at the first
 * that is none. */
static bool
time_given(struct timed *t, const char *what)
{
    int  batch, context, len;
    timed_fill(t);
    for (;;) {
        if (sscanf(what, "%d.%d%n", &batch, &context, &len) != 2
            || batch < 1 || batch > TIME_SEQS_MAX || context < 1
            || context > TIME_LEN_MAX)
        {
            return false;
        }
        time_decode(t, batch, context);
        what += len;
        if (*what != ',') {
            return *what == '\0';
        }
        what++;
    }
}

static int
usage(void)
{
    printf("usage: time-steps DIR [all|short|prefill|decode|BATCH.CONTEXT,...]"
           " [GEMM_CACHE]\n");
    return 2;
}

int
main(int argc, char **argv)
{
    struct timed  t;
    bool          known = true;
    if (argc < 2) {
        return usage();
    }
    const char  *what = argc < 3 ? "all" : argv[2];
    struct backend_cuda_options  options = {
        .gemm_cache = argc > 3 ? argv[3] : NULL
    };
    if (!timed_open(&t, options, argv[1], TIME_LEN_MAX, DTYPE_NONE)) {
        return 0;
    }
    printf("opened %.2f\n", t.opened_s);
    print_sizes(t.m);
    if (what[0] >= '0' && what[0] <= '9') {
        known = time_given(&t, what);
    } else {
        time_all(&t, strcmp(what, "short") != 0, strcmp(what, "prefill") != 0,
                 strcmp(what, "decode") != 0);
    }
    timed_close(&t);
    return known ? 0 : usage();
}
