/* options.c - applies defaults and arguments through the same setter. */
#include "engine/base/options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPTION_NAME_MAX  64

/* '_' and '-' are the same in an option's name, as in vLLM. */
static bool
option_name_eq(const char *name, const char *arg, size_t len)
{
    if (strlen(name) != len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char  c = arg[i] == '_' ? '-' : arg[i];
        if (c != name[i]) {
            return false;
        }
    }
    return true;
}

static int
option_set_number(const struct option *o, void *field, const char *value,
                  struct err *err)
{
    char   *end;
    double  v = strtod(value, &end);

    if (end != value && o->type == OPTION_INT && end[0] != '\0'
        && end[1] == '\0')
    {
        /* vLLM: 1k is 1,000 and 1K is 1,024 */
        static const char    suffix[] = "kKmMgG";
        static const double  factor[] = { 1e3, 1024, 1e6, 1048576, 1e9,
                                          1073741824 };
        const char  *s = strchr(suffix, end[0]);
        if (s != NULL) {
            v *= factor[s - suffix];
            end++;
        }
    }
    if (end == value || *end != '\0' || isnan(v)
        || (isinf(v) && (o->max != INFINITY || v < 0))
        || (o->type == OPTION_INT && v != floor(v)))
    {
        return err_set(err, "--%s: \"%s\" is not %s", o->name, value,
                       o->type == OPTION_INT ? "an integer" : "a number");
    }
    if ((o->min != 0 || o->max != 0) && (v < o->min || v > o->max)) {
        return err_set(err, "--%s: %s is outside %.15g .. %.15g", o->name,
                       value, o->min, o->max);
    }
    if (o->type == OPTION_INT) {
        int64_t  i = fabs(v) < 9.2e18 ? (int64_t) v : 0;
        memcpy(field, &i, sizeof i);
    } else {
        memcpy(field, &v, sizeof v);
    }
    return OK;
}

static int
option_set_list(const struct option *o, struct option_list *list,
                const char *value, struct err *err)
{
    size_t  used = 0;
    for (int i = 0; i < list->num; i++) {
        used += strlen(list->items[i]) + 1;
    }
    while (*value != '\0') {
        size_t  len = strcspn(value, ",");
        if (list->num == OPTION_LIST_MAX
            || used + len + 1 > sizeof list->storage)
        {
            return err_set(err, "--%s: more than %d values or %zu bytes",
                           o->name, OPTION_LIST_MAX, sizeof list->storage);
        }
        if (len > 0) {
            char  *item = list->storage + used;
            memcpy(item, value, len);
            item[len] = '\0';
            list->items[list->num++] = item;
            used += len + 1;
        }
        value += len + (value[len] == ',');
    }
    return OK;
}

static int
option_set_words(const struct option *o, struct option_words *words,
                 const char *value, struct err *err)
{
    if (words->num == OPTION_LIST_MAX) {
        return err_set(err, "--%s: more than %d values", o->name,
                       OPTION_LIST_MAX);
    }
    words->items[words->num++] = value;
    return OK;
}

static int
option_set_bool(const struct option *o, void *field, const char *value,
                struct err *err)
{
    static const char *const  on[] = { "true", "1", "on", "yes" };
    static const char *const  off[] = { "false", "0", "off", "no" };

    for (int i = 0; i < 4; i++) {
        bool  yes = strcmp(value, on[i]) == 0;
        if (yes || strcmp(value, off[i]) == 0) {
            memcpy(field, &yes, sizeof yes);
            return OK;
        }
    }
    return err_set(err, "--%s: \"%s\" is not true or false", o->name, value);
}

static int
option_set_choice(const struct option *o, void *field, const char *value,
                  struct err *err)
{
    size_t  len = strlen(value);
    for (const char *p = o->choices; ; p++) {
        size_t  n = strcspn(p, "|");
        if (n == len && memcmp(p, value, n) == 0) {
            memcpy(field, &value, sizeof value);
            return OK;
        }
        p += n;
        if (*p == '\0') {
            return err_set(err, "--%s: \"%s\" is not one of %s", o->name,
                           value, o->choices);
        }
    }
}

static int
option_set(const struct option *o, void *out, const char *value,
           struct err *err)
{
    void  *field = (char *) out + o->offset;

    switch (o->type) {
    case OPTION_BOOL:
        return option_set_bool(o, field, value, err);
    case OPTION_INT:
    case OPTION_NUMBER:
        return option_set_number(o, field, value, err);
    case OPTION_CHOICE:
        return option_set_choice(o, field, value, err);
    case OPTION_STRING:
        memcpy(field, &value, sizeof value);
        return OK;
    case OPTION_LIST:
        return option_set_list(o, field, value, err);
    case OPTION_WORDS:
        return option_set_words(o, field, value, err);
    }
    return OK;
}

/* Names that share the longest prefix with what was typed: a cheap hint that
 * catches most slips. */
static int
option_unknown(const struct option *table, const char *arg, struct err *err)
{
    const struct option  *best = NULL;
    size_t                best_len = 2;

    for (const struct option *o = table; o->name != NULL; o++) {
        size_t  n = 0;
        while (o->name[n] != '\0' && (o->name[n] == arg[n]
               || (o->name[n] == '-' && arg[n] == '_')))
        {
            n++;
        }
        if (n > best_len) {
            best = o;
            best_len = n;
        }
    }
    if (best != NULL) {
        return err_set(err, "unknown option --%s; did you mean --%s?", arg,
                       best->name);
    }
    return err_set(err, "unknown option --%s; --help lists them", arg);
}

static const struct option *
option_find(const struct option *table, const char *name, size_t len)
{
    for (const struct option *o = table; o->name != NULL; o++) {
        if (option_name_eq(o->name, name, len)) {
            return o;
        }
    }
    return NULL;
}

/* "--x" and "--no-x" are all it needs. */
static bool
option_is_switch(const struct option *o)
{
    return o->type == OPTION_BOOL
           || (o->type == OPTION_CHOICE
               && strcmp(o->choices, OPTION_AUTO_BOOL) == 0);
}

/* Applies argv[*i]; advances *i past a separate value. */
static int
option_apply(const struct option *table, void *out, int argc, char **argv,
             int *i, struct err *err)
{
    const char  *arg = argv[*i] + 2;
    size_t       len = strcspn(arg, "=");
    const char  *value = arg[len] == '=' ? arg + len + 1 : NULL;

    const struct option  *o = option_find(table, arg, len);
    if (o == NULL && len > 3 && strncmp(arg, "no", 2) == 0
        && (arg[2] == '-' || arg[2] == '_') && value == NULL)
    {
        o = option_find(table, arg + 3, len - 3);
        if (o != NULL && option_is_switch(o)) {
            return option_set(o, out, "false", err);
        }
    }
    if (o == NULL) {
        return option_unknown(table, arg, err);
    }
    if (option_is_switch(o) && value == NULL) {
        return option_set(o, out, "true", err);
    }
    if (value == NULL) {
        if (*i + 1 >= argc) {
            return err_set(err, "--%s needs a value (%s)", o->name,
                           o->unit == NULL ? "VALUE" : o->unit);
        }
        value = argv[++*i];
    }
    while (o->type == OPTION_WORDS && *i + 1 < argc
           && strncmp(argv[*i + 1], "--", 2) != 0)
    {
        if (option_set(o, out, value, err) != OK) {
            return ERROR;
        }
        value = argv[++*i];
    }
    return option_set(o, out, value, err);
}

int
options_parse(const struct option *table, void *out, int argc, char **argv,
              struct err *err)
{
    for (const struct option *o = table; o->name != NULL; o++) {
        if (o->def != NULL && option_set(o, out, o->def, err) != OK) {
            return ERROR;
        }
    }
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0 || argv[i][2] == '\0') {
            return err_set(err, "unexpected argument \"%s\"; options begin "
                           "with --", argv[i]);
        }
        if (option_apply(table, out, argc, argv, &i, err) != OK) {
            return ERROR;
        }
    }
    return OK;
}

void
options_help(const struct option *table, const char *usage, FILE *to)
{
    (void) fprintf(to, "usage: %s\n\n", usage);
    for (const struct option *o = table; o->name != NULL; o++) {
        char  head[OPTION_NAME_MAX + 32];
        (void) snprintf(head, sizeof head, "--%s%s%s", o->name,
                        option_is_switch(o) ? "" : " ",
                        option_is_switch(o) ? ""
                        : o->type == OPTION_CHOICE ? o->choices
                        : o->unit == NULL ? "VALUE" : o->unit);
        (void) fprintf(to, "  %-34s%s%s", head,
                       strlen(head) > 33 ? "\n                                    "
                                         : "", o->help);
        if (o->def != NULL) {
            (void) fprintf(to, " (default %s)", o->def);
        }
        (void) fputc('\n', to);
    }
}

static void
option_format_items(const struct option *o, const char *const *items, int num,
                    char *text, size_t cap)
{
    int  n = snprintf(text, cap, "%s=", o->name);

    for (int k = 0; k < num && n >= 0 && (size_t) n < cap; k++) {
        n += snprintf(text + n, cap - (size_t) n, "%s%s", k > 0 ? "," : "",
                      items[k]);
    }
}

static void
option_format(const struct option *o, const void *values, char *text,
              size_t cap)
{
    const void  *field = (const char *) values + o->offset;
    const char  *s = NULL;
    int64_t      i;
    double       d;
    bool         b;

    switch (o->type) {
    case OPTION_BOOL:
        memcpy(&b, field, sizeof b);
        (void) snprintf(text, cap, "%s=%s", o->name, b ? "true" : "false");
        return;
    case OPTION_INT:
        memcpy(&i, field, sizeof i);
        (void) snprintf(text, cap, "%s=%lld", o->name, (long long) i);
        return;
    case OPTION_NUMBER:
        memcpy(&d, field, sizeof d);
        (void) snprintf(text, cap, "%s=%g", o->name, d);
        return;
    case OPTION_STRING:
    case OPTION_CHOICE:
        memcpy(&s, field, sizeof s);
        (void) snprintf(text, cap, "%s=%s", o->name, s == NULL ? "" : s);
        return;
    case OPTION_LIST: {
        const struct option_list  *list = field;
        option_format_items(o, list->items, list->num, text, cap);
        return;
    }
    case OPTION_WORDS: {
        const struct option_words  *words = field;
        option_format_items(o, words->items, words->num, text, cap);
        return;
    }
    }
}

void
options_dump(const struct option *table, const void *values,
             void (*line)(const char *text))
{
    for (const struct option *o = table; o->name != NULL; o++) {
        char  text[512];
        option_format(o, values, text, sizeof text);
        line(text);
    }
}
