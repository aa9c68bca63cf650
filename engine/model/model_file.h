/* model_file.h - reads a small file of the model directory whole. */
#ifndef LLM_MODEL_MODEL_FILE_H
#define LLM_MODEL_MODEL_FILE_H

#include <limits.h>
#include <stddef.h>
#include "engine/base/err.h"
#include "engine/base/str.h"

/* "dir/name" in out[PATH_MAX]; ERROR when it does not fit. */
int model_file_path(char *out, const char *dir, const char *name,
                    struct err *err);

/* OK: *text holds the file; release it with model_file_free().  AGAIN: there
 * is no such file, *text is empty and *err untouched.  ERROR: unreadable, not
 * a regular file or larger than bytes_max. */
int model_file_read(struct str *text, const char *dir, const char *name,
                    size_t bytes_max, struct err *err);
void model_file_free(struct str *text);

#endif
