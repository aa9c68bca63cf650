/* load_hist.c - each power of two is cut into 64 equal steps. */
#include "tools/load_hist.h"

#define SUB  ((uint64_t) 1 << LOAD_HIST_SUB_BITS)

static uint64_t
step_of(uint64_t v)
{
    if (v < SUB) {
        return v;
    }
    int  shift = 63 - __builtin_clzll(v) - LOAD_HIST_SUB_BITS;
    return ((uint64_t) shift << LOAD_HIST_SUB_BITS) + (v >> shift);
}

/* The largest value of a step. */
static int64_t
step_end(uint64_t step)
{
    if (step < 2 * SUB) {
        return (int64_t) step;
    }
    uint64_t  shift = (step >> LOAD_HIST_SUB_BITS) - 1;
    uint64_t  top = step - (shift << LOAD_HIST_SUB_BITS);
    return (int64_t) (((top + 1) << shift) - 1);
}

void
load_hist_add(struct load_hist *h, int64_t ns)
{
    ns = ns < 0 ? 0 : ns;
    h->count++;
    h->max_ns = ns > h->max_ns ? ns : h->max_ns;
    h->steps[step_of((uint64_t) ns)]++;
}

int64_t
load_hist_quantile(const struct load_hist *h, double q)
{
    uint64_t  seen = 0, wanted = (uint64_t) (q * (double) h->count);

    for (uint64_t i = 0; i < LOAD_HIST_STEPS; i++) {
        seen += h->steps[i];
        if (seen > wanted) {
            int64_t  end = step_end(i);
            return end < h->max_ns ? end : h->max_ns;
        }
    }
    return h->max_ns;
}
