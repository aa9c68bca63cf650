/* minmax.h - the larger and the smaller of two numbers. */
#ifndef LLM_BASE_MINMAX_H
#define LLM_BASE_MINMAX_H

static inline int
max_int(int a, int b)
{
    return a > b ? a : b;
}

static inline int
min_int(int a, int b)
{
    return a < b ? a : b;
}

#endif
