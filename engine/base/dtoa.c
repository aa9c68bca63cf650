/* dtoa.c - 15 digits when they are enough, else 16, else 17.
 *
 * Every decimal of at most 15 digits survives the way to a double and back,
 * so stripping the zeros of a 15-digit form that reads back equal leaves the
 * shortest form; only 16 and 17 remain to be tried.  Subnormal numbers carry
 * fewer digits and are tried from one.  The C locale is assumed:
 * the engine never calls setlocale(). */
#include "engine/base/dtoa.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
dtoa_shortest(double v, char digits[DTOA_DIGITS_MAX + 1], int *point)
{
    char  text[40];

    v = fabs(v);
    if (v == 0) {
        memcpy(digits, "0", 2);
        *point = 1;
        return 1;
    }
    for (int num = v < DBL_MIN ? 1 : 15; num <= DTOA_DIGITS_MAX; num++) {
        (void) snprintf(text, sizeof text, "%.*e", num - 1, v);
        if (num == DTOA_DIGITS_MAX || strtod(text, NULL) == v) {
            break;
        }
    }
    /* d.ddddde+xx */
    const char  *e = strchr(text, 'e');
    int          len = 0;
    for (const char *p = text; p < e; p++) {
        if (*p != '.') {
            digits[len++] = *p;
        }
    }
    while (len > 1 && digits[len - 1] == '0') {
        len--;
    }
    digits[len] = '\0';
    *point = (int) strtol(e + 1, NULL, 10) + 1;
    return len;
}
