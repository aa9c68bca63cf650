/* tokenizer_parse.c - JSON descriptions to stages.  A type, option or
 * combination that would not give the reference's result is refused here. */
#include "engine/text/tokenizer_load.h"

#include <string.h>
#include "engine/text/unicode.h"

#define SEQUENCE_DEPTH_MAX  4      /* Sequence in Sequence; files nest 1 */

static bool
is(struct str s, const char *name)
{
    return str_eq(s, str_from(name));
}

static bool
is_absent(const struct json *v)
{
    return v == NULL || v->type == JSON_NULL;
}

/* The first item of an array that may be missing. */
static const struct json *
first_of(const struct json *v)
{
    return v != NULL && v->type == JSON_ARRAY ? v->child : NULL;
}

/* The second item of an array that may be missing. */
static const struct json *
second_of(const struct json *v)
{
    const struct json  *first = first_of(v);
    return first == NULL ? NULL : first->next;
}

static struct str
string_of(const struct json *v)
{
    return v != NULL && v->type == JSON_STRING ? v->string
                                               : (struct str) { NULL, 0 };
}

static struct str
type_of(const struct json *v)
{
    return string_of(json_find(v, "type"));
}

/* A whole number in 0..max. */
static bool
is_int(const struct json *v, int64_t max)
{
    return v != NULL && v->type == JSON_INT && v->int_fits && v->i >= 0
           && v->i <= max;
}

/* A field that is absent, null or a boolean. */
static bool
flag(const struct json *v, const char *name, bool otherwise)
{
    const struct json  *f = json_find(v, name);
    return f != NULL && f->type == JSON_BOOL ? f->b : otherwise;
}

/* A string field, copied into the arena; data NULL when absent. */
static struct str
text_field(struct tokenizer_load *l, const struct json *v, const char *name)
{
    struct str  s = string_of(json_find(v, name));
    if (s.data == NULL) {
        return s;
    }
    char  *copy = arena_strdup(&l->tok->arena, s);
    return (struct str) { copy, copy == NULL ? 0 : s.len };
}

static int
unsupported(struct tokenizer_load *l, const char *part, const struct json *v)
{
    return err_set(l->err, "%s type \"%.*s\" is not supported", part,
                   STR_ARG(type_of(v)));
}

static int
missing(struct tokenizer_load *l, const struct json *v, const char *field)
{
    return err_set(l->err, "%.*s needs a field \"%s\"", STR_ARG(type_of(v)),
                   field);
}

/* {"String": s} -> *literal, {"Regex": r} -> *regex.  An empty literal is the
 * empty regex: it matches everywhere. */
static int
parse_pattern(struct tokenizer_load *l, const struct json *v, struct str *literal,
              struct regex **regex)
{
    const struct json  *p = json_find(v, "pattern");
    struct str    s = text_field(l, p, "String");

    *regex = NULL;
    *literal = s;
    if (s.data != NULL && s.len > 0) {
        return OK;
    }
    if (s.data == NULL) {
        s = string_of(json_find(p,
                                                                   "Regex"));
    }
    if (s.data == NULL) {
        return missing(l, v, "pattern");
    }
    literal->data = NULL;
    return regex_compile(regex, s, l->err);
}

/* ---- normalizer -------------------------------------------------------- */

static int
norm_fill(struct tokenizer_load *l, const struct json *v, struct norm_step *s)
{
    struct str  t = type_of(v);

    if (is(t, "NFC") || is(t, "NFD")
        || is(t, "NFKC") || is(t, "NFKD"))
    {
        bool  compat = t.data[2] == 'K', composed = t.data[t.len - 1] == 'C';
        s->kind = NORM_FORM;
        s->form = compat ? (composed ? UNICODE_NFKC : UNICODE_NFKD)
                         : (composed ? UNICODE_NFC : UNICODE_NFD);
    } else if (is(t, "Lowercase")) {
        s->kind = NORM_LOWERCASE;
    } else if (is(t, "StripAccents")) {
        s->kind = NORM_STRIP_ACCENTS;
    } else if (is(t, "ByteLevel")) {
        s->kind = NORM_BYTE_LEVEL;
    } else if (is(t, "Strip")) {
        s->kind = NORM_STRIP;
        s->left = flag(v, "strip_left", true);
        s->right = flag(v, "strip_right", true);
    } else if (is(t, "Prepend")) {
        s->kind = NORM_PREPEND;
        s->content = text_field(l, v, "prepend");
        return s->content.data == NULL ? missing(l, v, "prepend") : OK;
    } else if (is(t, "Replace")) {
        s->kind = NORM_REPLACE;
        s->content = text_field(l, v, "content");
        if (s->content.data == NULL) {
            return missing(l, v, "content");
        }
        return parse_pattern(l, v, &s->pattern, &s->regex);
    } else {
        return unsupported(l, "normalizer", v);
    }
    return OK;
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX; the file is the model's. */
static int
parse_normalizer(struct tokenizer_load *l, const struct json *v, int depth)
{
    struct normalizer  *n = &l->tok->normalizer;
    const struct json  *item;

    if (is_absent(v)) {
        return OK;
    }
    if (is(type_of(v), "Sequence") && depth < SEQUENCE_DEPTH_MAX) {
        item = first_of(json_find(v, "normalizers"));
        for (; item != NULL; item = item->next) {
            if (parse_normalizer(l, item, depth + 1) != OK) {
                return ERROR;
            }
        }
        return OK;
    }
    if (n->num_steps == NORMALIZER_STEPS_MAX) {
        return err_set(l->err, "more than %d normalizers",
                       NORMALIZER_STEPS_MAX);
    }
    return norm_fill(l, v, &n->steps[n->num_steps++]);
}

int
tokenizer_parse_normalizer(struct tokenizer_load *l, const struct json *v)
{
    return parse_normalizer(l, v, 0);
}

/* ---- pre-tokenizer ------------------------------------------------------- */

static struct pretok_stage *
stage_push(struct tokenizer_load *l)
{
    struct pretok  *p = &l->tok->pretok;

    if (p->num_stages == PRETOK_STAGES_MAX) {
        (void) err_set(l->err, "more than %d pre-tokenizer stages",
                       PRETOK_STAGES_MAX);
        return NULL;
    }
    return &p->stages[p->num_stages++];
}

static int
stage_chars(struct tokenizer_load *l, bool (*is_match)(uint32_t),
            enum split_behavior behavior)
{
    struct pretok_stage  *s = stage_push(l);
    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_CHARS,
                                 .behavior = behavior, .is_match = is_match };
    return OK;
}

static int
parse_behavior(struct tokenizer_load *l, const struct json *v,
               enum split_behavior *out)
{
    static const char *const  names[] = {
        [SPLIT_REMOVED] = "Removed", [SPLIT_ISOLATED] = "Isolated",
        [SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPLIT_CONTIGUOUS] = "Contiguous"
    };
    const struct json  *b = json_find(v, "behavior");
    struct str          name = string_of(b);

    *out = SPLIT_ISOLATED;
    if (b == NULL && is(type_of(v), "Punctuation")) {
        return OK;
    }
    for (size_t i = 0; name.data != NULL && i < sizeof names / sizeof names[0];
         i++)
    {
        if (is(name, names[i])) {
            *out = (enum split_behavior) i;
            return OK;
        }
    }
    return err_set(l->err, "%.*s has no known \"behavior\"",
                   STR_ARG(type_of(v)));
}

static int
pretok_split(struct tokenizer_load *l, const struct json *v)
{
    struct pretok_stage  *s = stage_push(l);
    const struct json  *p = json_find(v, "pattern");

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT };
    if (parse_behavior(l, v, &s->behavior) != OK) {
        return ERROR;
    }
    s->invert = flag(v, "invert", false);
    s->scan = scan_find(string_of(json_find(p, "Regex")));
    if (s->scan != NULL) {
        s->by = SPLIT_SCAN;
        return OK;
    }
    if (parse_pattern(l, v, &s->content, &s->regex) != OK) {
        return ERROR;
    }
    s->by = s->regex == NULL ? SPLIT_LITERAL : SPLIT_REGEX;
    return OK;
}

static int
pretok_byte_level(struct tokenizer_load *l, const struct json *v)
{
    struct pretok_stage  *s;

    if (flag(v, "add_prefix_space", true)) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_PREFIX_SPACE };
    }
    if (flag(v, "use_regex", true)) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_SCAN,
                                     .behavior = SPLIT_ISOLATED,
                                     .scan = scan_gpt2 };
    }
    if ((s = stage_push(l)) == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_BYTE_LEVEL };
    return OK;
}

static int
pretok_metaspace(struct tokenizer_load *l, const struct json *v)
{
    struct pretok_stage  *s = stage_push(l);
    struct str            scheme = string_of(json_find(v, "prepend_scheme"));

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_METASPACE,
                                 .prepend = PREPEND_ALWAYS };
    s->content = text_field(l, v, "replacement");
    if (s->content.data == NULL || s->content.len == 0) {
        return missing(l, v, "replacement");
    }
    if (scheme.data == NULL) {              /* old files: add_prefix_space */
        s->prepend = flag(v, "add_prefix_space", true) ? PREPEND_ALWAYS
                                                       : PREPEND_NEVER;
    } else if (is(scheme, "first")) {
        s->prepend = PREPEND_FIRST;
    } else if (is(scheme, "never")) {
        s->prepend = PREPEND_NEVER;
    } else if (!is(scheme, "always")) {
        return err_set(l->err, "Metaspace prepend_scheme \"%.*s\" is not "
                       "known", STR_ARG(scheme));
    }
    if (!flag(v, "split", true)) {
        return OK;
    }
    struct str  mark = s->content;
    if ((s = stage_push(l)) == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL,
                                 .behavior = SPLIT_MERGED_WITH_NEXT,
                                 .content = mark };
    return OK;
}

static int
pretok_delimiter(struct tokenizer_load *l, const struct json *v)
{
    struct pretok_stage  *s = stage_push(l);

    if (s == NULL) {
        return ERROR;
    }
    *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_LITERAL,
                                 .behavior = SPLIT_REMOVED };
    s->content = text_field(l, v, "delimiter");
    return s->content.data == NULL || s->content.len == 0
           ? missing(l, v, "delimiter") : OK;
}

static int
pretok_fill(struct tokenizer_load *l, const struct json *v)
{
    struct str            t = type_of(v);
    enum split_behavior   behavior;
    struct pretok_stage  *s;

    if (is(t, "Split")) {
        return pretok_split(l, v);
    }
    if (is(t, "ByteLevel")) {
        return pretok_byte_level(l, v);
    }
    if (is(t, "Metaspace")) {
        return pretok_metaspace(l, v);
    }
    if (is(t, "Digits")) {
        return stage_chars(l, unicode_is_numeric,
                           flag(v, "individual_digits", false)
                           ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
    }
    if (is(t, "Punctuation")) {
        return parse_behavior(l, v, &behavior) != OK ? ERROR
               : stage_chars(l, unicode_is_punctuation, behavior);
    }
    if (is(t, "WhitespaceSplit")) {
        return stage_chars(l, unicode_is_space, SPLIT_REMOVED);
    }
    if (is(t, "BertPreTokenizer")) {
        return stage_chars(l, unicode_is_space, SPLIT_REMOVED) != OK ? ERROR
               : stage_chars(l, unicode_is_punctuation, SPLIT_ISOLATED);
    }
    if (is(t, "CharDelimiterSplit")) {
        return pretok_delimiter(l, v);
    }
    if (is(t, "Whitespace")) {
        if ((s = stage_push(l)) == NULL) {
            return ERROR;
        }
        *s = (struct pretok_stage) { .kind = PRETOK_SPLIT, .by = SPLIT_WORDS,
                                     .behavior = SPLIT_REMOVED,
                                     .invert = true };
        return OK;
    }
    return unsupported(l, "pre_tokenizer", v);
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_pretok(struct tokenizer_load *l, const struct json *v, int depth)
{
    const struct json  *item;

    if (is_absent(v)) {
        return OK;
    }
    if (!is(type_of(v), "Sequence") || depth >= SEQUENCE_DEPTH_MAX) {
        return pretok_fill(l, v);
    }
    item = first_of(json_find(v, "pretokenizers"));
    for (; item != NULL; item = item->next) {
        if (parse_pretok(l, item, depth + 1) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
tokenizer_parse_pretok(struct tokenizer_load *l, const struct json *v)
{
    return parse_pretok(l, v, 0);
}

/* ---- decoder --------------------------------------------------------------- */

static int
decode_strip(struct tokenizer_load *l, const struct json *v, struct decode_step *s)
{
    const struct json  *start = json_find(v, "start");
    const struct json  *stop = json_find(v, "stop");

    s->kind = DECODE_STRIP;
    s->content = text_field(l, v, "content");
    if (s->content.data == NULL || s->content.len == 0) {
        return missing(l, v, "content");
    }
    if (!is_int(start, 1024) || !is_int(stop, 1024))
    {
        return err_set(l->err, "Strip needs start and stop in 0..1024");
    }
    s->start = (uint32_t) start->i;
    s->stop = (uint32_t) stop->i;
    return OK;
}

static int
decode_fill(struct tokenizer_load *l, const struct json *v, struct decode_step *s)
{
    struct str  t = type_of(v), scheme;

    if (is(t, "ByteLevel")) {
        s->kind = DECODE_BYTE_LEVEL;
    } else if (is(t, "ByteFallback")) {
        s->kind = DECODE_BYTE_FALLBACK;
    } else if (is(t, "Fuse")) {
        s->kind = DECODE_FUSE;
    } else if (is(t, "Strip")) {
        return decode_strip(l, v, s);
    } else if (is(t, "Replace")) {
        s->kind = DECODE_REPLACE;
        s->content = text_field(l, v, "content");
        if (s->content.data == NULL) {
            return missing(l, v, "content");
        }
        return parse_pattern(l, v, &s->pattern, &s->regex);
    } else if (is(t, "Metaspace")) {
        s->kind = DECODE_METASPACE;
        s->content = text_field(l, v, "replacement");
        scheme = string_of(json_find(v, "prepend_scheme"));
        s->keep_first = scheme.data != NULL ? is(scheme, "never")
                        : !flag(v, "add_prefix_space", true);
        return s->content.len == 0 ? missing(l, v, "replacement") : OK;
    } else if (is(t, "WordPiece")) {
        s->kind = DECODE_WORDPIECE;
        s->content = text_field(l, v, "prefix");
        s->cleanup = flag(v, "cleanup", true);
        return s->content.data == NULL ? missing(l, v, "prefix") : OK;
    } else if (is(t, "BPEDecoder")) {
        s->kind = DECODE_SUFFIX;
        s->content = text_field(l, v, "suffix");
        return s->content.len == 0 ? missing(l, v, "suffix") : OK;
    } else {
        return unsupported(l, "decoder", v);
    }
    return OK;
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_decoder(struct tokenizer_load *l, const struct json *v, int depth)
{
    struct decoder  *d = &l->tok->decoder;
    const struct json  *item;

    if (is(type_of(v), "Sequence") && depth < SEQUENCE_DEPTH_MAX) {
        item = first_of(json_find(v, "decoders"));
        for (; item != NULL; item = item->next) {
            if (parse_decoder(l, item, depth + 1) != OK) {
                return ERROR;
            }
        }
        return OK;
    }
    if (d->num_steps == DECODER_STEPS_MAX) {
        return err_set(l->err, "more than %d decoders", DECODER_STEPS_MAX);
    }
    return decode_fill(l, v, &d->steps[d->num_steps++]);
}

int
tokenizer_parse_decoder(struct tokenizer_load *l, const struct json *v)
{
    l->tok->decoder.present = !is_absent(v);
    if (l->tok->decoder.present && parse_decoder(l, v, 0) != OK) {
        return ERROR;
    }
    decoder_finish(&l->tok->decoder);
    return OK;
}

/* ---- post-processor -------------------------------------------------------- */

struct post_ids {
    int32_t ids[TOKENIZER_POST_IDS_MAX];
    size_t  num;
};

static int
post_push(struct tokenizer_load *l, struct post_ids *p, const struct json *id)
{
    if (!is_int(id, TOKENIZER_VOCAB_MAX - 1)) {
        return err_set(l->err, "post_processor: a token id is missing or out "
                       "of range");
    }
    if (p->num == TOKENIZER_POST_IDS_MAX) {
        return err_set(l->err, "post_processor: more than %d ids",
                       TOKENIZER_POST_IDS_MAX);
    }
    p->ids[p->num++] = (int32_t) id->i;
    return OK;
}

/* A later processor wraps what an earlier one made. */
static int
post_wrap(struct tokenizer_load *l, const struct post_ids *before,
          const struct post_ids *after)
{
    struct tokenizer  *t = l->tok;

    if (t->num_before + before->num > TOKENIZER_POST_IDS_MAX
        || t->num_after + after->num > TOKENIZER_POST_IDS_MAX)
    {
        return err_set(l->err, "post_processor: more than %d ids",
                       TOKENIZER_POST_IDS_MAX);
    }
    memmove(t->before + before->num, t->before,
            t->num_before * sizeof t->before[0]);
    memcpy(t->before, before->ids, before->num * sizeof before->ids[0]);
    memcpy(t->after + t->num_after, after->ids,
           after->num * sizeof after->ids[0]);
    t->num_before += before->num;
    t->num_after += after->num;
    return OK;
}

static int
post_template(struct tokenizer_load *l, const struct json *v)
{
    const struct json  *specials = json_find(
        v, "special_tokens");
    const struct json  *item;
    struct post_ids   side[2] = { 0 };
    size_t            which = 0;

    item = first_of(json_find(v, "single"));
    for (; item != NULL; item = item->next) {
        const struct json  *seq = json_find(item, "Sequence");
        const struct json  *tok = json_find(item,
                                                             "SpecialToken");
        struct str          name = string_of(json_find(
            seq != NULL ? seq : tok, "id"));
        if (name.data == NULL) {
            return err_set(l->err, "TemplateProcessing: an entry of \"single\" "
                           "is neither Sequence nor SpecialToken");
        }
        if (seq != NULL) {
            if (!is(name, "A") || which == 1) {
                return err_set(l->err, "TemplateProcessing: \"single\" must "
                               "hold the text once");
            }
            which = 1;
            continue;
        }
        const struct json  *def = json_find_str(specials, name);
        if (def == NULL) {
            return err_set(l->err, "TemplateProcessing: special token \"%.*s\" "
                           "is not defined", STR_ARG(name));
        }
        const struct json  *id = first_of(json_find(def, "ids"));
        for (; id != NULL; id = id->next) {
            if (post_push(l, &side[which], id) != OK) {
                return ERROR;
            }
        }
    }
    if (which == 0) {
        return err_set(l->err, "TemplateProcessing: \"single\" does not hold "
                       "the text");
    }
    return post_wrap(l, &side[0], &side[1]);
}

/* cls text sep, each ["token", id]. */
static int
post_roberta(struct tokenizer_load *l, const struct json *v)
{
    struct post_ids  before = { 0 }, after = { 0 };

    if (post_push(l, &before, second_of(json_find(v, "cls"))) != OK
        || post_push(l, &after, second_of(json_find(v, "sep"))) != OK)
    {
        return ERROR;
    }
    return post_wrap(l, &before, &after);
}

/* Recursion is bounded by SEQUENCE_DEPTH_MAX. */
static int
parse_post(struct tokenizer_load *l, const struct json *v, int depth)
{
    struct str   t = type_of(v);
    const struct json  *item;

    if (is_absent(v) || is(t, "ByteLevel")) {
        return OK;                       /* ByteLevel: offsets only */
    }
    if (is(t, "TemplateProcessing")) {
        return post_template(l, v);
    }
    if (is(t, "RobertaProcessing")
        || is(t, "BertProcessing"))
    {
        return post_roberta(l, v);
    }
    if (!is(t, "Sequence") || depth >= SEQUENCE_DEPTH_MAX) {
        return unsupported(l, "post_processor", v);
    }
    item = first_of(json_find(v, "processors"));
    for (; item != NULL; item = item->next) {
        if (parse_post(l, item, depth + 1) != OK) {
            return ERROR;
        }
    }
    return OK;
}

int
tokenizer_parse_post(struct tokenizer_load *l, const struct json *v)
{
    return parse_post(l, v, 0);
}
