/* chat_load.c - finds and compiles the templates of a model. */
#include "engine/text/chat_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHAT_CONFIG_BYTES_MAX  (32u << 20)
#define CHAT_ARENA_BYTES_MAX   (256u << 20)

static int
chat_read_fd(int fd, const char *path, size_t max, struct str *out,
             struct arena *arena, struct err *err)
{
    struct stat  st;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        return err_set(err, "%s: not a regular file", path);
    }
    if (st.st_size > (off_t) max) {
        return err_set(err, "%s: %lld bytes, the limit is %zu", path,
                       (long long) st.st_size, max);
    }
    size_t   len = (size_t) st.st_size, got = 0;
    char    *data = arena_alloc(arena, len + 1);
    if (data == NULL) {
        return err_set(err, "%s: out of memory", path);
    }
    while (got < len) {
        ssize_t  n = read(fd, data + got, len - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return err_set(err, "%s: read failed after %zu bytes", path, got);
        }
        got += (size_t) n;
    }
    *out = (struct str) { data, len };
    return OK;
}

/* AGAIN when there is no such file. */
static int
chat_read_file(const char *path, size_t max, struct str *out,
               struct arena *arena, struct err *err)
{
    int  fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return AGAIN;
        }
        return err_set(err, "%s: %s", path, strerror(errno));
    }
    int  rc = chat_read_fd(fd, path, max, out, arena, err);
    (void) close(fd);
    return rc;
}

static int
chat_path(char path[PATH_MAX], const char *dir, const char *name,
          struct err *err)
{
    int  n = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    return n > 0 && n < PATH_MAX ? OK
           : err_set(err, "%s/%s: path too long", dir, name);
}

static int
chat_create(struct chat_template **out, struct err *err)
{
    struct chat_template  *t = calloc(1, sizeof *t);

    *out = t;
    if (t == NULL) {
        return err_set(err, "chat template: out of memory");
    }
    arena_init(&t->arena, CHAT_ARENA_BYTES_MAX);
    return OK;
}

void
chat_destroy(struct chat_template *t)
{
    if (t == NULL) {
        return;
    }
    for (size_t i = 0; i < t->num_named; i++) {
        jinja_destroy(t->named[i].jinja);
    }
    arena_destroy(&t->arena);
    free(t);
}

/* Compiles one template; `where` names it in errors. */
static int
chat_add(struct chat_template *t, struct str name, struct str source,
         const char *where, struct err *err)
{
    if (t->num_named == CHAT_TEMPLATES_MAX) {
        return err_set(err, "%s: more than %d chat templates", where,
                       CHAT_TEMPLATES_MAX);
    }
    struct chat_named  *n = &t->named[t->num_named];
    *n = (struct chat_named) { .name = arena_str(&t->arena, name) };
    if (n->name.data == NULL) {
        return err_set(err, "%s: out of memory", where);
    }
    if (jinja_compile(&n->jinja, source, err) != OK) {
        (void) err_prefix(err, "%s", where);
        if (err != NULL) {
            err->http_status = 0;   /* the operator's file, not a request */
        }
        return ERROR;
    }
    n->use = jinja_probe_content(n->jinja);
    n->knows_developer = source.len > 0
                         && memmem(source.data, source.len, "developer", 9)
                            != NULL;
    t->num_named++;
    return OK;
}

/* ---- special tokens -------------------------------------------------------- */

static int
chat_add_special(struct chat_template *t, struct str name, struct str text,
                 struct err *err)
{
    for (size_t i = 0; i < t->num_specials; i++) {
        if (str_eq(t->specials[i].name, name)) {
            return OK;      /* the first file wins */
        }
    }
    if (t->num_specials == CHAT_SPECIALS_MAX) {
        return OK;
    }
    struct chat_special  *s = &t->specials[t->num_specials];
    s->name = arena_str(&t->arena, name);
    s->text = arena_str(&t->arena, text);
    if (s->name.data == NULL || s->text.data == NULL) {
        return err_set(err, "chat template: out of memory");
    }
    t->num_specials++;
    return OK;
}

/* "bos_token": "<s>" or {"content": "<s>"}; null means there is none. */
static int
chat_read_specials(struct chat_template *t, const struct json *config,
                   struct err *err)
{
    static const char *const  names[] = {
        "bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
        "cls_token", "mask_token",
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const struct json  *v = json_find(config, names[i]);
        if (v != NULL && v->type == JSON_OBJECT) {
            v = json_find(v, "content");
        }
        if (v != NULL && v->type == JSON_STRING
            && chat_add_special(t, str_from(names[i]), v->string, err) != OK)
        {
            return ERROR;
        }
    }
    return OK;
}

/* ---- the places where templates live ----------------------------------------- */

static int
chat_parse_config(const char *path, struct str text, struct arena *arena,
                  struct json **out, struct err *err)
{
    if (json_parse(out, text, arena, &json_limits_file, err) != OK) {
        (void) err_prefix(err, "%s", path);
        err->http_status = 0;
        return ERROR;
    }
    return OK;
}

/* "chat_template": a string, or [{"name": .., "template": ..}]. */
static int
chat_add_json(struct chat_template *t, const struct json *v, const char *path,
              struct err *err)
{
    if (v == NULL || v->type == JSON_NULL) {
        return OK;
    }
    if (v->type == JSON_STRING) {
        return chat_add(t, STR("default"), v->string, path, err);
    }
    if (v->type != JSON_ARRAY) {
        return err_set(err, "%s: chat_template is %s, not a string or a list",
                       path, json_type_name(v->type));
    }
    for (const struct json *i = v->child; i != NULL; i = i->next) {
        const struct json  *name = json_find(i, "name");
        const struct json  *text = json_find(i, "template");
        if (name == NULL || name->type != JSON_STRING || text == NULL
            || text->type != JSON_STRING)
        {
            return err_set(err, "%s: chat_template: an entry without name or "
                           "template", path);
        }
        if (chat_add(t, name->string, text->string, path, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

static int
chat_add_file(struct chat_template *t, struct str name, const char *path,
              struct arena *tmp, struct err *err)
{
    struct str  source;
    int         rc = chat_read_file(path, JINJA_SOURCE_BYTES_MAX, &source, tmp,
                                    err);
    return rc == OK ? chat_add(t, name, source, path, err) : rc;
}

/* additional_chat_templates/NAME.jinja */
static int
chat_add_folder(struct chat_template *t, const char *dir, struct arena *tmp,
                struct err *err)
{
    char  folder[PATH_MAX], path[PATH_MAX];

    if (chat_path(folder, dir, "additional_chat_templates", err) != OK) {
        return ERROR;
    }
    DIR  *d = opendir(folder);
    if (d == NULL) {
        return OK;
    }
    int  rc = OK;
    for (struct dirent *e = readdir(d); e != NULL && rc == OK; e = readdir(d))
    {
        struct str  name = str_from(e->d_name);
        if (!str_ends_with(name, STR(".jinja"))) {
            continue;
        }
        rc = chat_path(path, folder, e->d_name, err);
        if (rc == OK) {
            name.len -= strlen(".jinja");
            rc = chat_add_file(t, name, path, tmp, err) == ERROR ? ERROR : OK;
        }
    }
    (void) closedir(d);
    return rc;
}

/* The templates of one JSON file, when no better place had any; its special
 * tokens in any case. */
static int
chat_add_config(struct chat_template *t, const char *dir, const char *name,
                struct arena *tmp, struct err *err)
{
    char          path[PATH_MAX];
    struct str    text;
    struct json  *config;

    if (chat_path(path, dir, name, err) != OK) {
        return ERROR;
    }
    int  rc = chat_read_file(path, CHAT_CONFIG_BYTES_MAX, &text, tmp, err);
    if (rc != OK) {
        return rc == AGAIN ? OK : ERROR;
    }
    if (chat_parse_config(path, text, tmp, &config, err) != OK
        || chat_read_specials(t, config, err) != OK)
    {
        return ERROR;
    }
    return t->num_named > 0 ? OK
           : chat_add_json(t, json_find(config, "chat_template"), path, err);
}

static int
chat_load_dir(struct chat_template *t, const char *dir, struct arena *tmp,
              struct err *err)
{
    static const char *const  configs[] = {
        "chat_template.json", "tokenizer_config.json",
        "special_tokens_map.json",
    };
    char  path[PATH_MAX];

    if (chat_path(path, dir, "chat_template.jinja", err) != OK
        || chat_add_file(t, STR("default"), path, tmp, err) == ERROR
        || chat_add_folder(t, dir, tmp, err) != OK)
    {
        return ERROR;
    }
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        if (chat_add_config(t, dir, configs[i], tmp, err) != OK) {
            return ERROR;
        }
    }
    return t->num_named == 0 ? AGAIN : OK;
}

int
chat_open_dir(struct chat_template **out, const char *model_dir,
              struct err *err)
{
    struct arena  tmp;

    if (chat_create(out, err) != OK) {
        return ERROR;
    }
    arena_init(&tmp, CHAT_ARENA_BYTES_MAX);
    int  rc = chat_load_dir(*out, model_dir, &tmp, err);
    arena_destroy(&tmp);
    if (rc != OK) {
        chat_destroy(*out);
        *out = NULL;
    }
    return rc;
}

static int
chat_load_file(struct chat_template *t, const char *path,
               const struct chat_specials *s, struct arena *tmp,
               struct err *err)
{
    int  rc = chat_add_file(t, STR("default"), path, tmp, err);

    if (rc == AGAIN) {
        return err_set(err, "%s: no such file", path);
    }
    if (rc != OK || s == NULL) {
        return rc;
    }
    const struct chat_special  all[] = {
        { STR("bos_token"), s->bos }, { STR("eos_token"), s->eos },
        { STR("unk_token"), s->unk }, { STR("pad_token"), s->pad },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0] && rc == OK; i++) {
        if (all[i].text.data != NULL) {
            rc = chat_add_special(t, all[i].name, all[i].text, err);
        }
    }
    return rc;
}

int
chat_open_file(struct chat_template **out, const char *path,
               const struct chat_specials *specials, struct err *err)
{
    struct arena  tmp;

    if (chat_create(out, err) != OK) {
        return ERROR;
    }
    arena_init(&tmp, CHAT_ARENA_BYTES_MAX);
    int  rc = chat_load_file(*out, path, specials, &tmp, err);
    arena_destroy(&tmp);
    if (rc != OK) {
        chat_destroy(*out);
        *out = NULL;
    }
    return rc;
}
