/* options.h - one table of command-line options: name, type, default, help.
 *
 * Every program of the project describes its switches in one table; parsing,
 * --help, --version and the start-up dump all read that table, so none of them
 * can disagree.  "--max-num-seqs 8", "--max-num-seqs=8" and
 * "--max_num_seqs 8" are the same; booleans take "--x", "--no-x", "--x=true",
 * and so does a choice of OPTION_AUTO_BOOL, which can also be left "auto".
 * "--goodput a b" gives OPTION_WORDS two words, as argparse's nargs="+" does.
 *
 *     static const struct option table[] = {
 *         { "max-num-seqs", OPTION_INT, offsetof(struct o, max_num_seqs),
 *           "256", "N", "sequences in one step", 1, 4096, NULL },
 *         { NULL }
 *     };
 *     rc = options_parse(table, &o, argc, argv, err);
 */
#ifndef LLM_BASE_OPTIONS_H
#define LLM_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "engine/base/err.h"

#define OPTION_LIST_MAX  16
#define OPTION_AUTO_BOOL "auto|true|false"     /* choices */

enum option_type {
    OPTION_BOOL,      /* bool */
    OPTION_INT,       /* int64_t in [min, max]; 1k, 1K, 1M, 1G accepted when
                         the unit is bytes or tokens as in vLLM */
    OPTION_NUMBER,    /* double in [min, max]; "inf" where max is INFINITY */
    OPTION_STRING,    /* const char *, points into argv or the default */
    OPTION_CHOICE,    /* const char *, one of choices "a|b|c" */
    OPTION_LIST,      /* struct option_list; repeatable, commas separate */
    OPTION_WORDS      /* struct option_words; repeatable, takes every argument
                         up to the next "--", each as it is */
};

struct option_list {
    const char *items[OPTION_LIST_MAX];
    int         num;
    char        storage[1024];   /* the items' bytes, NUL-terminated each */
};

struct option_words {
    const char *items[OPTION_LIST_MAX];      /* point into argv */
    int         num;
};

struct option {
    const char      *name;        /* with '-', without leading "--" */
    enum option_type type;
    size_t           offset;      /* in the caller's struct */
    const char      *def;         /* default, as text; NULL: zero / none */
    const char      *unit;        /* for --help: "N", "BYTES", "DIR" ... */
    const char      *help;
    double           min, max;    /* INT, NUMBER; both 0: any */
    const char      *choices;     /* CHOICE: "auto|cpu|cuda" */
};

/* Sets every field to its default, then applies argv[1..].  ERROR names the
 * option, what it got and what it takes; an unknown name is answered with the
 * nearest known one.  argv must outlive the struct. */
int options_parse(const struct option *table, void *out, int argc,
                  char **argv, struct err *err);

void options_help(const struct option *table, const char *usage, FILE *to);

/* One "name=value" a line, for the start-up log; calls line() for each. */
void options_dump(const struct option *table, const void *values,
                  void (*line)(const char *text));

#endif
