/* regex.c - PCRE2 with limits, JIT first and the interpreter when the JIT's
 * stack is too small. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/regex.h"

#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "engine/base/utf8.h"
#include "engine/text/onig.h"
#include "engine/text/unicode.h"

struct regex {
    pcre2_code       *code;
    struct onig_info  info;
    char              pattern[64];   /* its beginning, for messages */
};

struct regex_scratch {
    pcre2_match_data    *data;
    pcre2_match_context *context;
    pcre2_jit_stack     *jit_stack;
};

int
regex_compile(struct regex **out, struct str pattern, struct err *err)
{
    struct buf      text;
    int             code = 0, rc = ERROR;
    size_t          at = 0;
    struct regex   *re = calloc(1, sizeof *re);

    *out = NULL;
    if (re == NULL) {
        return err_set(err, "out of memory");
    }
    size_t  shown = pattern.len < sizeof re->pattern - 1
                    ? pattern.len : sizeof re->pattern - 1;
    shown = utf8_valid_len(pattern.data, shown, NULL);
    memcpy(re->pattern, pattern.data, shown);
    buf_init(&text, 16 * REGEX_PATTERN_BYTES_MAX);
    if (onig_translate(pattern, &text, &re->info, err) != OK) {
        (void) err_prefix(err, "%s", re->pattern);
        goto done;
    }
    buf_append_c(&text, '\0');        /* an empty pattern has a place too */
    if (text.failed) {
        (void) err_set(err, "out of memory");
        goto done;
    }
    re->code = pcre2_compile((PCRE2_SPTR) text.data, text.len - 1,
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE
                             | PCRE2_NEVER_BACKSLASH_C
                             | PCRE2_NO_AUTO_CAPTURE, &code, &at, NULL);
    if (re->code == NULL) {
        char  message[128] = "";
        (void) pcre2_get_error_message(code, (PCRE2_UCHAR *) message,
                                       sizeof message);
        (void) err_set(err, "regular expression %s...: %s", re->pattern,
                       message);
        goto done;
    }
    /* No JIT (not built in, or the system forbids it): the interpreter. */
    (void) pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE);
    *out = re;
    re = NULL;
    rc = OK;

done:
    buf_destroy(&text);
    regex_destroy(re);
    return rc;
}

void
regex_destroy(struct regex *re)
{
    if (re != NULL) {
        pcre2_code_free(re->code);
        free(re);
    }
}

struct regex_scratch *
regex_scratch_create(void)
{
    struct regex_scratch  *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    s->data = pcre2_match_data_create(1, NULL);
    s->context = pcre2_match_context_create(NULL);
    s->jit_stack = pcre2_jit_stack_create(32 * 1024, REGEX_JIT_STACK_BYTES,
                                          NULL);
    if (s->data == NULL || s->context == NULL) {
        regex_scratch_destroy(s);
        return NULL;
    }
    pcre2_set_match_limit(s->context, REGEX_MATCH_LIMIT);
    pcre2_set_depth_limit(s->context, REGEX_MATCH_LIMIT);
    pcre2_set_heap_limit(s->context, 256 * 1024);            /* KiB */
    if (s->jit_stack != NULL) {
        pcre2_jit_stack_assign(s->context, NULL, s->jit_stack);
    }
    return s;
}

void
regex_scratch_destroy(struct regex_scratch *s)
{
    if (s != NULL) {
        pcre2_match_data_free(s->data);
        pcre2_match_context_free(s->context);
        pcre2_jit_stack_free(s->jit_stack);
        free(s);
    }
}

/* Replaces the characters that PCRE2 may classify by another Unicode version.
 * Those the pattern names itself stay. */
static void
shadow_fill(struct regex_match *m, struct str text)
{
    const struct onig_info  *info = &m->re->info;
    bool                     copied = false;

    for (size_t i = 0; i < text.len; ) {
        if ((unsigned char) text.data[i] < 0xC2) {
            i++;
            continue;
        }
        uint32_t  cp;
        size_t    n = unicode_next(text.data + i, &cp);
        bool      replace = unicode_is_changed(cp);
        for (size_t k = 0; replace && k < info->num_ranges; k++) {
            replace = cp < info->ranges[k].lo || cp > info->ranges[k].hi;
        }
        if (replace) {
            if (!copied) {
                buf_reset(m->shadow);
                buf_append_str(m->shadow, text);
                copied = true;
            }
            if (m->shadow->failed) {
                return;
            }
            (void) utf8_encode(unicode_representative(cp), m->shadow->data + i);
        }
        i += n;
    }
    if (copied) {
        m->subject = m->shadow->data;
    }
}

void
regex_begin(struct regex_match *m, const struct regex *re,
            struct regex_scratch *scratch, struct str text,
            struct buf *shadow)
{
    *m = (struct regex_match) {
        .re = re, .scratch = scratch, .subject = text.data, .len = text.len,
        .last_end = SIZE_MAX, .shadow = shadow
    };
    if (re->info.has_classes) {
        shadow_fill(m, text);
    }
    if (m->subject == NULL) {
        m->subject = "";
    }
}

int
regex_next(struct regex_match *m, struct err *err)
{
    if (m->shadow->failed) {
        return err_set(err, "out of memory while splitting text");
    }
    while (m->at <= m->len) {
        struct regex_scratch  *s = m->scratch;
        PCRE2_SPTR             text = (PCRE2_SPTR) m->subject;
        int  rc = pcre2_match(m->re->code, text, m->len, m->at,
                              PCRE2_NO_UTF_CHECK, s->data, s->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
            rc = pcre2_match(m->re->code, text, m->len, m->at,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->data,
                             s->context);
        }
        if (rc == PCRE2_ERROR_NOMATCH) {
            m->at = m->len + 1;
            return AGAIN;
        }
        if (rc < 0) {
            return err_set_http(err, 400, "",
                                "the text is too hard to split for the "
                                "tokenizer's pattern %s... (PCRE2 error %d, "
                                "limit %d steps)", m->re->pattern, rc,
                                REGEX_MATCH_LIMIT);
        }
        PCRE2_SIZE  *v = pcre2_get_ovector_pointer(s->data);
        if (v[0] == v[1] && v[0] == m->last_end) {
            uint32_t  cp;
            m->at = v[0] < m->len
                    ? v[0] + unicode_next(m->subject + v[0], &cp) : m->len + 1;
            continue;
        }
        m->begin = v[0];
        m->end = v[1];
        m->at = m->last_end = v[1];
        return OK;
    }
    return AGAIN;
}
