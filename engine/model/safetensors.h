/* safetensors.h - the tensors of a model directory, mapped, not copied.
 *
 * Reads DIR/model.safetensors, or else the files that
 * DIR/model.safetensors.index.json names.  Files are untrusted: the header's
 * length, JSON, dtypes, shapes and offsets are checked before use; the data
 * area must be covered exactly, without overlap or gap, and dtype x shape must
 * give the bytes; anything else refuses the file with its name and the
 * tensor's.  Format: OFFSET 0, u64 little endian header length N; OFFSET 8, N
 * bytes of JSON {"name": {"dtype": "BF16", "shape": [..], "data_offsets":
 * [begin, end]}, "__metadata__": {string: string}}; OFFSET 8 + N, data.
 * Source: github.com/huggingface/safetensors, README "Format".
 *
 * A file cut short while mapped raises SIGBUS when touched: the engine dies
 * and its supervisor restarts it, which then refuses the file. */
#ifndef LLM_MODEL_SAFETENSORS_H
#define LLM_MODEL_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include "engine/backend/tensor.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#define SAFETENSORS_HEADER_BYTES_MAX  (100 << 20)  /* the format's own limit */
#define SAFETENSORS_TENSORS_MAX       (1 << 20)    /* in all files */
#define SAFETENSORS_FILES_MAX         1024

struct safetensors;

/* One tensor of the set.  A stored dtype this engine does not compute with
 * (I64, F8_E4M3 ...) has dtype NONE and is refused only when asked for. */
struct safetensors_entry {
    struct str     name;          /* owned by the set */
    const char    *file;          /* path, owned by the set */
    char           dtype_name[12];
    struct tensor  tensor;        /* data points into the mapping */
    bool           used;          /* safetensors_find() returned it */
};

int safetensors_open(struct safetensors **out, const char *dir,
                     struct err *err);
void safetensors_close(struct safetensors *st);     /* NULL is fine */

/* Adds the tensors of one file image in memory; `file` names it in messages.
 * The image is borrowed until close.  For tests and the fuzzer. */
int safetensors_create(struct safetensors **out, struct err *err);
int safetensors_append(struct safetensors *st, const char *file,
                       const void *image, size_t bytes, struct err *err);

/* NULL when absent.  Marks the entry used. */
const struct safetensors_entry *safetensors_find(struct safetensors *st,
                                                 struct str name);

size_t safetensors_num_tensors(const struct safetensors *st);
const struct safetensors_entry *safetensors_entry_at(
    const struct safetensors *st, size_t entry_idx);
size_t safetensors_data_bytes(const struct safetensors *st);

#endif
