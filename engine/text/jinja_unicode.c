/* jinja_unicode.c - binary search in tables generated from Python itself. */
#include "engine/text/jinja_int.h"

struct jinja_range {
    uint32_t first, last;
};

struct jinja_case_run {
    uint32_t first, last, step;
    int32_t  delta;
};

struct jinja_case_special {
    uint32_t cp, to[3];
};

#include "engine/text/jinja_unicode_tables.inc"

#define COUNT(t)  (sizeof(t) / sizeof((t)[0]))

static bool
jinja_in_ranges(const struct jinja_range *t, size_t num, uint32_t cp)
{
    size_t  lo = 0, hi = num;
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (cp > t[mid].last) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo < num && cp >= t[lo].first;
}

#define IN(table, cp)  jinja_in_ranges((table), COUNT(table), (cp))

bool
jinja_is_space(uint32_t cp)
{
    if (cp < 0x80) {
        return cp == ' ' || (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x1F);
    }
    return IN(jinja_space, cp);
}

bool
jinja_is_printable(uint32_t cp)
{
    return cp < 0x7F ? cp >= 0x20 : IN(jinja_printable, cp);
}

bool
jinja_is_alpha(uint32_t cp)
{
    return IN(jinja_alpha, cp);
}

bool
jinja_is_decimal(uint32_t cp)
{
    return IN(jinja_decimal, cp);
}

bool
jinja_is_digit(uint32_t cp)
{
    return IN(jinja_digit, cp);
}

bool
jinja_is_numeric(uint32_t cp)
{
    return IN(jinja_numeric, cp);
}

bool
jinja_is_upper(uint32_t cp)
{
    return IN(jinja_upper, cp);
}

bool
jinja_is_lower(uint32_t cp)
{
    return IN(jinja_lower, cp);
}

bool
jinja_is_cased(uint32_t cp)
{
    return IN(jinja_upper, cp) || IN(jinja_lower, cp) || IN(jinja_title, cp);
}

bool
jinja_is_case_ignorable(uint32_t cp)
{
    return IN(jinja_ignorable, cp);
}

bool
jinja_is_id_start(uint32_t cp)
{
    return IN(jinja_id_start, cp);
}

bool
jinja_is_id_continue(uint32_t cp)
{
    return IN(jinja_id_continue, cp);
}

struct jinja_case_table {
    const struct jinja_case_run     *runs;
    size_t                           num_runs;
    const struct jinja_case_special *special;
    size_t                           num_special;
};

/* Runs with step 2 interleave (upper, lower, upper ...), so a run that ends
 * before cp does not prove that an earlier one does: runs are sorted by their
 * first code point and at most a few overlap. */
static int
jinja_map_case(const struct jinja_case_table *t, uint32_t cp, uint32_t out[3])
{
    size_t  lo = 0, hi = t->num_special;
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (t->special[mid].cp < cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (lo < t->num_special && t->special[lo].cp == cp) {
        memcpy(out, t->special[lo].to, sizeof t->special[lo].to);
        return out[2] != 0 ? 3 : 2;
    }
    out[0] = cp;
    lo = 0;
    hi = t->num_runs;
    while (lo < hi) {
        size_t  mid = (lo + hi) / 2;
        if (t->runs[mid].first <= cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    for (size_t back = 0; back < 4 && lo > back; back++) {
        const struct jinja_case_run  *run = &t->runs[lo - 1 - back];
        if (cp <= run->last && (cp - run->first) % run->step == 0) {
            out[0] = (uint32_t) ((int64_t) cp + run->delta);
            return 1;
        }
    }
    return 1;
}

#define CASE_FN(name)                                                         \
    int                                                                       \
    jinja_##name(uint32_t cp, uint32_t out[3])                                \
    {                                                                         \
        static const struct jinja_case_table  t = {                           \
            jinja_##name##_runs, COUNT(jinja_##name##_runs),                  \
            jinja_##name##_special, COUNT(jinja_##name##_special)             \
        };                                                                    \
        return jinja_map_case(&t, cp, out);                                   \
    }

CASE_FN(to_upper)
CASE_FN(to_lower)
CASE_FN(to_title)
CASE_FN(to_fold)
