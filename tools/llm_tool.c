/* llm_tool.c - nginx-llm-tool: looks inside a model directory.
 *
 *   nginx-llm-tool tokenize   DIR            JSON lines on stdin and stdout:
 *       {"text":"..","add_special_tokens":true} -> {"ids":[..]}
 *   nginx-llm-tool detokenize DIR
 *       {"ids":[..],"skip_special_tokens":true} -> {"text":".."}
 *   nginx-llm-tool render DIR|TEMPLATE.jinja
 *       {"messages":[..],"tools":[..],"add_generation_prompt":true, ..}
 *       -> {"prompt":".."} or {"error":".."}
 *   nginx-llm-tool inspect DIR [--memory BYTES]
 *
 * One line in, one line out, flushed, so a test can keep one process open.
 * tokenize means Hugging Face's encode(), detokenize its decode(), render its
 * apply_chat_template(tokenize=False): other keys of the object are template
 * variables. */
#include "engine/base/json.h"
#include "engine/model/model.h"
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define TOOL_LINE_BYTES_MAX   (128u << 20)
#define TOOL_ARENA_BYTES_MAX  (1u << 30)

struct tool {
    struct tokenizer          *tok;
    struct tokenizer_scratch  *scratch;
    struct chat_template      *chat;
    struct arena               arena;
    struct buf                 text, out;
    struct id_buf              ids;
};

typedef int tool_line(struct tool *t, const struct json *in, struct err *err);

/* The operator's own lines: longer and deeper than a client's. */
static const struct json_limits  tool_limits = {
    .depth_max = 256, .values_max = 1u << 24, .members_max = 1u << 20,
    .key_bytes_max = 1u << 20, .number_bytes_max = 300,
    .allow_duplicate_keys = true
};

static bool
tool_flag(const struct json *in, const char *name, bool def)
{
    const struct json  *v = json_find(in, name);
    return v != NULL && v->type == JSON_BOOL ? v->b : def;
}

static int
tool_tokenize(struct tool *t, const struct json *in, struct err *err)
{
    const struct json  *text = json_find(in, "text");

    if (text == NULL || text->type != JSON_STRING) {
        return err_set(err, "\"text\": a string is required");
    }
    id_buf_reset(&t->ids);
    struct encode_args  args = {
        .text = text->string,
        .add_special_tokens = tool_flag(in, "add_special_tokens", true),
    };
    if (tokenizer_encode(t->tok, t->scratch, &args, &t->ids, err) != OK) {
        return ERROR;
    }
    buf_append_lit(&t->out, "{\"ids\":[");
    for (size_t i = 0; i < t->ids.len; i++) {
        if (i > 0) {
            buf_append_c(&t->out, ',');
        }
        buf_append_i64(&t->out, t->ids.ids[i]);
    }
    buf_append_lit(&t->out, "]}");
    return OK;
}

static int
tool_detokenize(struct tool *t, const struct json *in, struct err *err)
{
    const struct json  *ids = json_find(in, "ids");

    if (ids == NULL || ids->type != JSON_ARRAY) {
        return err_set(err, "\"ids\": an array of token ids is required");
    }
    id_buf_reset(&t->ids);
    for (const struct json *v = ids->child; v != NULL; v = v->next) {
        if (v->type != JSON_INT || !v->int_fits || v->i < 0
            || v->i > INT32_MAX)
        {
            return err_set(err, "\"ids\": every entry must be a token id");
        }
        id_buf_push(&t->ids, (int32_t) v->i);
    }
    buf_reset(&t->text);
    tokenizer_decode(t->tok, t->ids.ids, t->ids.len,
                     tool_flag(in, "skip_special_tokens", true), &t->text);
    buf_append_lit(&t->out, "{\"text\":");
    json_write_string(&t->out, buf_str(&t->text));
    buf_append_c(&t->out, '}');
    return OK;
}

/* Reads lines until end of file; an error of one line is its answer. */
static int
tool_lines(struct tool *t, tool_line *line_fn)
{
    char    *line = NULL;
    size_t   cap = 0;
    ssize_t  len;

    while ((len = getline(&line, &cap, stdin)) >= 0) {
        struct err    err = { 0 };
        struct json  *in;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r')) {
            len--;
        }
        if (len == 0) {
            continue;
        }
        arena_reset(&t->arena);
        buf_reset(&t->out);
        int  rc = json_parse(&in, (struct str) { line, (size_t) len },
                             &t->arena, &tool_limits, &err);
        if (rc == OK && in->type != JSON_OBJECT) {
            rc = err_set(&err, "a JSON object is expected on each line");
        }
        if (rc == OK) {
            rc = line_fn(t, in, &err);
        }
        if (rc != OK) {
            buf_reset(&t->out);
            buf_append_lit(&t->out, "{\"error\":");
            json_write_string(&t->out, str_from(err.message));
            buf_append_c(&t->out, '}');
        }
        buf_append_c(&t->out, '\n');
        if (t->out.failed
            || fwrite(t->out.data, 1, t->out.len, stdout) != t->out.len
            || fflush(stdout) != 0)
        {
            free(line);
            return 1;
        }
    }
    free(line);
    return 0;
}

static int
tool_fail(const struct err *err)
{
    (void) fprintf(stderr, "nginx-llm-tool: %s\n", err->message);
    return 1;
}

static int
tool_open_tokenizer(struct tool *t, const char *dir, struct err *err)
{
    if (tokenizer_open(&t->tok, dir, err) != OK) {
        return ERROR;
    }
    t->scratch = tokenizer_scratch_create(t->tok);
    return t->scratch == NULL ? err_set(err, "out of memory") : OK;
}

static void
tool_human_bytes(double bytes, char *text, size_t cap)
{
    static const char *const  unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int                       u = 0;
    while (bytes >= 1024 && u < 4) {
        bytes /= 1024;
        u++;
    }
    (void) snprintf(text, cap, u == 0 ? "%.0f %s" : "%.2f %s", bytes,
                    unit[u]);
}

static int
tool_inspect(const char *dir, double memory_bytes)
{
    struct model_config  *cfg = calloc(1, sizeof *cfg);
    struct err            err = { 0 };
    char                  text[64], more[64];

    if (cfg == NULL || model_config_load(cfg, dir, &err) != OK) {
        free(cfg);
        return tool_fail(&err);
    }
    enum dtype  dtype = cfg->dtype == DTYPE_NONE ? DTYPE_BF16 : cfg->dtype;
    double      params = (double) model_config_num_parameters(cfg);
    double      kv = (double) model_kv_bytes_per_token(cfg, dtype);
    double      weights = params * (double) dtype_bytes(dtype);

    (void) printf("architecture            %s\n", cfg->architecture);
    (void) printf("parameters              %.0f (%.3g B)\n", params,
                  params / 1e9);
    (void) printf("dtype                   %s\n", dtype_name(dtype));
    tool_human_bytes(weights, text, sizeof text);
    (void) printf("weights                 %s\n", text);
    (void) printf("hidden_size             %d\n", cfg->hidden_size);
    (void) printf("num_hidden_layers       %d\n", cfg->num_hidden_layers);
    (void) printf("num_attention_heads     %d\n", cfg->num_attention_heads);
    (void) printf("num_key_value_heads     %d\n", cfg->num_key_value_heads);
    (void) printf("head_dim                %d\n", cfg->head_dim);
    (void) printf("intermediate_size       %d\n", cfg->intermediate_size);
    (void) printf("vocab_size              %d\n", cfg->vocab_size);
    (void) printf("max_position_embeddings %d\n",
                  cfg->max_position_embeddings);
    (void) printf("rope                    %s, theta %g\n",
                  rope_type_name(cfg->rope.rope_type), cfg->rope.rope_theta);
    (void) printf("tie_word_embeddings     %s\n",
                  cfg->tie_word_embeddings ? "true" : "false");
    tool_human_bytes(kv, text, sizeof text);
    (void) printf("KV cache a token        %.0f bytes (%s)\n", kv, text);
    double  left = memory_bytes - weights;
    tool_human_bytes(memory_bytes, more, sizeof more);
    (void) printf("tokens that fit %s  %.0f\n", more,
                  left > 0 && kv > 0 ? left / kv : 0);
    free(cfg);
    return 0;
}

static int
tool_render(struct tool *t, const struct json *in, struct err *err)
{
    buf_reset(&t->text);
    if (chat_render_object(t->chat, in, &t->arena, &t->text, err) != OK) {
        return ERROR;
    }
    buf_append_lit(&t->out, "{\"prompt\":");
    json_write_string(&t->out, buf_str(&t->text));
    buf_append_c(&t->out, '}');
    return OK;
}

static int
tool_open_template(struct tool *t, const char *path, struct err *err)
{
    struct stat          st;
    struct chat_specials specials = { 0 };

    if (stat(path, &st) != 0) {
        return err_set(err, "%s: no such file or directory", path);
    }
    if (!S_ISDIR(st.st_mode)) {
        return chat_open_file(&t->chat, path, &specials, err);
    }
    return chat_open_dir(&t->chat, path, err);
}

static int
tool_usage(void)
{
    (void) fputs("usage: nginx-llm-tool tokenize|detokenize DIR\n"
                 "       nginx-llm-tool render DIR|TEMPLATE.jinja\n"
                 "       nginx-llm-tool inspect DIR [--memory BYTES]\n"
                 "tokenize, detokenize and render read JSON lines on standard "
                 "input.\n", stderr);
    return 2;
}

int
main(int argc, char **argv)
{
    struct tool  t = { 0 };
    struct err   err = { 0 };
    int          rc;

    if (argc < 3) {
        return tool_usage();
    }
    arena_init(&t.arena, TOOL_ARENA_BYTES_MAX);
    buf_init(&t.text, TOOL_LINE_BYTES_MAX);
    buf_init(&t.out, TOOL_LINE_BYTES_MAX);
    id_buf_init(&t.ids, TOKENIZER_IDS_MAX);
    const char  *command = argv[1], *dir = argv[2];
    if (strcmp(command, "inspect") == 0) {
        double  memory = argc == 5 && strcmp(argv[3], "--memory") == 0
                         ? strtod(argv[4], NULL) : 80e9;
        rc = tool_inspect(dir, memory);
    } else if (strcmp(command, "tokenize") == 0) {
        rc = tool_open_tokenizer(&t, dir, &err) != OK ? tool_fail(&err)
             : tool_lines(&t, tool_tokenize);
    } else if (strcmp(command, "detokenize") == 0) {
        rc = tool_open_tokenizer(&t, dir, &err) != OK ? tool_fail(&err)
             : tool_lines(&t, tool_detokenize);
    } else if (strcmp(command, "render") == 0) {
        rc = tool_open_template(&t, dir, &err) != OK ? tool_fail(&err)
             : tool_lines(&t, tool_render);
    } else {
        rc = tool_usage();
    }
    tokenizer_scratch_destroy(t.scratch);
    tokenizer_destroy(t.tok);
    chat_destroy(t.chat);
    id_buf_destroy(&t.ids);
    buf_destroy(&t.out);
    buf_destroy(&t.text);
    arena_destroy(&t.arena);
    return rc;
}
