/* json.h - strict JSON reader for everything a client can send, and a writer.
 *
 * The reader is RFC 8259 to the letter plus rules that keep the engine, nginx
 * and every auth layer in front in agreement: UTF-8 only (no BOM, no overlong
 * forms, no lone surrogate, raw or escaped), duplicate keys refused (compared
 * after unescaping), no trailing bytes, explicit stack (no recursion), limits
 * on depth, values, keys and number length.  Strings are length-counted and
 * may hold U+0000.  Key order is kept.  Integers, floats and the number's own
 * text are kept apart, because a template's tojson must print 1.0 as 1.0 and
 * 12345678901234567890 unchanged; cJSON, used for model files, cuts a string at
 * its first NUL and turns every number into a double.
 *
 * Objects are checked for duplicates with a keyed hash, so neither many keys
 * nor chosen keys make the check quadratic.
 *
 *     struct json *root;
 *     if (json_parse(&root, body, &arena, &json_limits_request, err) != OK) ...
 *     const struct json *model = json_find(root, "model");
 *
 * Ownership: every node and every unescaped string lives in the arena; strings
 * without escapes point into the source text, which must outlive the tree. */
#ifndef LLM_BASE_JSON_H
#define LLM_BASE_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include "engine/base/arena.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

enum json_type {
    JSON_NULL, JSON_BOOL, JSON_INT, JSON_FLOAT, JSON_STRING, JSON_ARRAY,
    JSON_OBJECT
};

/* One value.  Array items and object members are a list through `next` in
 * source order, num_children long. */
struct json {
    enum json_type  type;
    uint32_t        num_children;  /* ARRAY, OBJECT */
    struct str      key;           /* when the parent is an OBJECT */
    struct json    *next;          /* next sibling, NULL at the end */
    struct json    *child;         /* first child; ARRAY, OBJECT */
    struct json    *last;          /* last child, for appending */
    struct str      string;        /* STRING: unescaped.  INT, FLOAT: the
                                      number's own text */
    int64_t         i;             /* INT that fits; see int_fits */
    double          f;             /* INT and FLOAT, nearest double */
    bool            b;             /* BOOL */
    bool            int_fits;      /* INT: i holds the exact value */
};

#define JSON_DEPTH_CAP         256   /* no depth_max above it */
#define JSON_NUMBER_BYTES_CAP  300   /* no number_bytes_max above it */

struct json_limits {
    uint32_t depth_max;        /* nesting of arrays and objects */
    uint32_t values_max;       /* nodes in the whole document */
    uint32_t members_max;      /* keys of one object */
    uint32_t key_bytes_max;
    uint32_t number_bytes_max;
    bool     allow_duplicate_keys;   /* last wins in json_find; never for
                                        requests */
};

/* A client's body: depth 64, 262144 values (a prompt as token ids is the
 * largest use), 16384 keys an object, keys of 4096 bytes, no duplicates. */
extern const struct json_limits json_limits_request;

/* An operator's file: the same depth, far more values, duplicates allowed as
 * Python reads them. */
extern const struct json_limits json_limits_file;

/* Parses the whole text.  ERROR sets http_status 400 and says where:
 * "invalid JSON at byte 17: ...".  JSON_INT is a number without '.', 'e', 'E';
 * "-0" is INT 0 whose text is "-0".  A FLOAT beyond double range is an error. */
int json_parse(struct json **out, struct str text, struct arena *arena,
               const struct json_limits *limits, struct err *err);

/* NULL when absent or when `object` is not an object. */
const struct json *json_find(const struct json *object, const char *key);
const struct json *json_find_str(const struct json *object, struct str key);
/* Makes v the last child of parent. */
void json_append(struct json *parent, struct json *v);
const char *json_type_name(enum json_type type);   /* "string", "array" ... */

/* Appends a quoted, escaped JSON string.  Non-ASCII is written raw; control
 * bytes as \n, \t ... or \u00XX.  s must be valid UTF-8. */
void json_write_string(struct buf *b, struct str s);

/* Appends v as an ECMAScript-style shortest decimal that reads back equal;
 * null when it is not finite, which JSON cannot say. */
void json_write_double(struct buf *b, double v);

/* Appends the value compactly ("," and ":" without spaces), numbers by their
 * own text, keys in order.  Nesting beyond JSON_DEPTH_CAP sets b->failed. */
void json_write(struct buf *b, const struct json *v);

#endif
