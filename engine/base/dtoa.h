/* dtoa.h - shortest decimal digits of a double that read back equal.
 *
 * JSON, Python's repr and ECMAScript print the same digits and differ only in
 * where they put the point and the exponent, so the digits live here and the
 * layout with the callers. */
#ifndef LLM_BASE_DTOA_H
#define LLM_BASE_DTOA_H

#define DTOA_DIGITS_MAX  17

/* Writes 1..17 significant digits of |v| (finite) to digits, without trailing
 * zeros and NUL-terminated, and returns how many.  The value is
 * 0.d1d2d3... * 10^*point; zero gives "0" with *point 1. */
int dtoa_shortest(double v, char digits[DTOA_DIGITS_MAX + 1], int *point);

#endif
