/* load_hist.h - a histogram of durations with 1.6 % steps and no allocation.
 *
 *     struct load_hist h = { 0 };
 *     load_hist_add(&h, ns);
 *     load_hist_quantile(&h, 0.99)      upper end of the step, in ns
 *
 * For the measuring programs in tools/; a struct belongs to one thread. */
#ifndef LLM_TOOLS_LOAD_HIST_H
#define LLM_TOOLS_LOAD_HIST_H

#include <stdint.h>

#define LOAD_HIST_SUB_BITS  6
#define LOAD_HIST_STEPS     ((64 - LOAD_HIST_SUB_BITS + 1) << LOAD_HIST_SUB_BITS)

struct load_hist {
    uint64_t  count;
    int64_t   max_ns;
    uint64_t  steps[LOAD_HIST_STEPS];
};

void load_hist_add(struct load_hist *h, int64_t ns);     /* below 0 counts as 0 */
int64_t load_hist_quantile(const struct load_hist *h, double q);  /* 0: empty */

#endif
