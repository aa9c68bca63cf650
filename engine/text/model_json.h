/* model_json.h - reads the two big parts of tokenizer.json as a stream.
 *
 * model.vocab and model.merges are 99 % of the file (llama3: 128,000 names,
 * 280,147 pairs); a tree of them would cost more than everything else at
 * load.  model_json_split() finds them and gives back the rest of the file,
 * which json_parse() then checks; the two are checked as they are read.
 *
 *     rc = model_json_split(&parts, text, err);
 *     json_pull_open(&p, parts.vocab, err);
 *     while ((rc = json_pull_token(&p, &token, &id)) == OK) ...   AGAIN: end
 *
 * Strings point into the file's text, where escapes are undone in place. */
#ifndef LLM_TEXT_MODEL_JSON_H
#define LLM_TEXT_MODEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

struct model_json {
    struct buf rest;       /* owned; the file with {} and [] for the two */
    struct str vocab;      /* "{...}" inside the text; data NULL: absent */
    struct str merges;     /* "[...]" */
};

struct json_pull {
    char       *p, *end;
    const char *start;
    bool        first;     /* no member has been read */
    struct err *err;
};

/* text is valid UTF-8.  ERROR when it is not even bracketed properly. */
int model_json_split(struct model_json *out, struct str text, struct err *err);

/* value is vocab or merges, in writable memory. */
void json_pull_open(struct json_pull *p, struct str value, struct err *err);

/* The next "token": id.  AGAIN at the end. */
int json_pull_token(struct json_pull *p, struct str *token, int64_t *id);

/* The next "a b" or ["a", "b"]; a string comes in side[0], with side[1].data
 * NULL.  AGAIN at the end. */
int json_pull_merge(struct json_pull *p, struct str side[2]);

#endif
