/* safetensors.c - maps files, believes nothing in their headers.
 *
 * Invariant: an entry in the set has been checked against its file: its bytes
 * lie inside the data area, match dtype x shape, and overlap no other's. */
#include "engine/model/safetensors.h"
#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "engine/model/model_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define LENGTH_BYTES           8
#define INDEX_NAME             "model.safetensors.index.json"
#define INDEX_BYTES_MAX        ((size_t) 64 << 20)
#define NAMES_ARENA_BYTES      ((size_t) 1 << 30)
#define JSON_ARENA_BYTES       ((size_t) 4 << 30)
#define SHAPE_DIMS_MAX         16   /* of any stored tensor */

static const struct json_limits  header_limits = {
    .depth_max = 8, .values_max = 1 << 24, .members_max = 1 << 20,
    .key_bytes_max = 1 << 12, .number_bytes_max = 32,
};

struct mapping {
    char   *path;
    void   *data;    /* NULL for images of the caller */
    size_t  bytes;
};

struct safetensors {
    struct arena               arena;    /* names and paths */
    struct mapping            *maps;     /* [num_maps] */
    size_t                     num_maps;
    struct safetensors_entry  *entries;  /* [num_entries], cap a power of 2 */
    size_t                     num_entries, entries_cap;
    uint32_t                  *order;    /* entries by name; see sorted */
    bool                       sorted;   /* order covers all entries */
};

/* Bits per element; what computes has an engine dtype too. */
static const struct {
    const char *name;
    unsigned    bits;
    enum dtype  dtype;
} stored_dtypes[] = {
    { "F32", 32, DTYPE_F32 },      { "BF16", 16, DTYPE_BF16 },
    { "F16", 16, DTYPE_F16 },      { "BOOL", 8, DTYPE_NONE },
    { "U8", 8, DTYPE_NONE },       { "I8", 8, DTYPE_NONE },
    { "F8_E5M2", 8, DTYPE_NONE },  { "F8_E4M3", 8, DTYPE_NONE },
    { "F8_E8M0", 8, DTYPE_NONE },  { "I16", 16, DTYPE_NONE },
    { "U16", 16, DTYPE_NONE },     { "I32", 32, DTYPE_NONE },
    { "U32", 32, DTYPE_NONE },     { "F64", 64, DTYPE_NONE },
    { "I64", 64, DTYPE_NONE },     { "U64", 64, DTYPE_NONE },
    { "C64", 64, DTYPE_NONE },     { "F4", 4, DTYPE_NONE },
    { "F6_E2M3", 6, DTYPE_NONE },  { "F6_E3M2", 6, DTYPE_NONE },
};

/* ---- the set --------------------------------------------------------------- */

int
safetensors_create(struct safetensors **out, struct err *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL) {
        return err_set(err, "safetensors: out of memory");
    }
    arena_init(&(*out)->arena, NAMES_ARENA_BYTES);
    return OK;
}

void
safetensors_close(struct safetensors *st)
{
    if (st == NULL) {
        return;
    }
    for (size_t i = 0; i < st->num_maps; i++) {
        if (st->maps[i].data != NULL) {
            munmap(st->maps[i].data, st->maps[i].bytes);
        }
    }
    free(st->maps);
    free(st->entries);
    free(st->order);
    arena_destroy(&st->arena);
    free(st);
}

static struct safetensors_entry *
entries_push(struct safetensors *st)
{
    if (st->num_entries == st->entries_cap) {
        size_t  cap = st->entries_cap == 0 ? 256 : st->entries_cap * 2;
        void   *grown = cap > SAFETENSORS_TENSORS_MAX
                        ? NULL : realloc(st->entries,
                                         cap * sizeof *st->entries);
        if (grown == NULL) {
            return NULL;
        }
        st->entries = grown;
        st->entries_cap = cap;
    }
    struct safetensors_entry  *e = &st->entries[st->num_entries++];
    memset(e, 0, sizeof *e);
    return e;
}

static int
str_compare(struct str a, struct str b)
{
    size_t  len = a.len < b.len ? a.len : b.len;
    int     c = len == 0 ? 0 : memcmp(a.data, b.data, len);
    return c != 0 ? c : (a.len > b.len) - (a.len < b.len);
}

static int
compare_order(const void *a, const void *b, void *entries)
{
    const struct safetensors_entry  *e = entries;
    return str_compare(e[*(const uint32_t *) a].name,
                       e[*(const uint32_t *) b].name);
}

/* Sorts by name; a name in two files is an error. */
static int
sort_entries(struct safetensors *st, struct err *err)
{
    free(st->order);
    st->order = malloc((st->num_entries + 1) * sizeof *st->order);
    if (st->order == NULL) {
        return err_set(err, "safetensors: out of memory");
    }
    for (size_t i = 0; i < st->num_entries; i++) {
        st->order[i] = (uint32_t) i;
    }
    qsort_r(st->order, st->num_entries, sizeof *st->order, compare_order,
            st->entries);
    for (size_t i = 1; i < st->num_entries; i++) {
        const struct safetensors_entry  *a = &st->entries[st->order[i - 1]];
        const struct safetensors_entry  *b = &st->entries[st->order[i]];
        if (str_eq(a->name, b->name)) {
            return err_set(err, "tensor %.*s is in both %s and %s",
                           STR_ARG(a->name), a->file, b->file);
        }
    }
    st->sorted = true;
    return OK;
}

const struct safetensors_entry *
safetensors_find(struct safetensors *st, struct str name)
{
    if (!st->sorted && sort_entries(st, NULL) != OK) {
        return NULL;
    }
    size_t  low = 0, high = st->num_entries;
    while (low < high) {
        size_t                     mid = low + (high - low) / 2;
        struct safetensors_entry  *e = &st->entries[st->order[mid]];
        int                        c = str_compare(name, e->name);
        if (c == 0) {
            e->used = true;
            return e;
        }
        if (c < 0) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return NULL;
}

size_t
safetensors_num_tensors(const struct safetensors *st)
{
    return st->num_entries;
}

const struct safetensors_entry *
safetensors_entry_at(const struct safetensors *st, size_t entry_idx)
{
    return &st->entries[entry_idx];
}

/* ---- one file's header ------------------------------------------------------- */

/* A tensor's place in the data area, to check coverage. */
struct span {
    uint64_t                        begin, end;
    const struct safetensors_entry *entry;
};

static int
read_dtype(struct safetensors_entry *e, const struct json *v, unsigned *bits,
           struct err *err)
{
    if (v == NULL || v->type != JSON_STRING) {
        return err_set(err, "%s: tensor %.*s has no dtype", e->file,
                       STR_ARG(e->name));
    }
    for (size_t i = 0; i < sizeof stored_dtypes / sizeof *stored_dtypes; i++) {
        if (str_eq(v->string, str_from(stored_dtypes[i].name))) {
            *bits = stored_dtypes[i].bits;
            e->tensor.dtype = stored_dtypes[i].dtype;
            (void) snprintf(e->dtype_name, sizeof e->dtype_name, "%s",
                            stored_dtypes[i].name);
            return OK;
        }
    }
    return err_set(err, "%s: tensor %.*s has unknown dtype %.*s", e->file,
                   STR_ARG(e->name), STR_ARG(v->string));
}

/* *num_elems = the product of the shape. */
static int
read_shape(struct safetensors_entry *e, const struct json *v,
           uint64_t *num_elems, struct err *err)
{
    int  dim = 0;
    *num_elems = 1;
    if (v == NULL || v->type != JSON_ARRAY || v->num_children > SHAPE_DIMS_MAX)
    {
        return err_set(err, "%s: tensor %.*s has no shape of at most %d sizes",
                       e->file, STR_ARG(e->name), SHAPE_DIMS_MAX);
    }
    for (const struct json *d = v->child; d != NULL; d = d->next, dim++) {
        if (d->type != JSON_INT || !d->int_fits || d->i < 0
            || __builtin_mul_overflow(*num_elems, (uint64_t) d->i, num_elems))
        {
            return err_set(err, "%s: shape[%d] of tensor %.*s is %.*s", e->file,
                           dim, STR_ARG(e->name), STR_ARG(d->string));
        }
        if (dim < TENSOR_DIMS_MAX) {
            e->tensor.shape[dim] = d->i;
        }
    }
    e->tensor.ndim = dim;
    if (dim > TENSOR_DIMS_MAX) {
        e->tensor.ndim = 0;            /* stored, never asked for */
        e->tensor.dtype = DTYPE_NONE;
    }
    return OK;
}

static int
read_offsets(struct safetensors_entry *e, const struct json *v,
             uint64_t data_bytes, struct span *span, struct err *err)
{
    const struct json  *begin = NULL, *end = NULL;
    if (v != NULL && v->type == JSON_ARRAY && v->num_children == 2) {
        begin = v->child;
        end = begin->next;
    }
    if (begin == NULL || begin->type != JSON_INT || !begin->int_fits
        || end->type != JSON_INT || !end->int_fits || begin->i < 0
        || end->i < begin->i || (uint64_t) end->i > data_bytes)
    {
        return err_set(err, "%s: data_offsets of tensor %.*s are not within "
                       "the file's %llu data bytes", e->file, STR_ARG(e->name),
                       (unsigned long long) data_bytes);
    }
    *span = (struct span) { (uint64_t) begin->i, (uint64_t) end->i, NULL };
    return OK;
}

static int
read_entry(struct safetensors_entry *e, const struct json *v,
           const unsigned char *data, uint64_t data_bytes, struct span *span,
           struct err *err)
{
    unsigned  bits = 0;
    uint64_t  num_elems = 0, num_bits = 0;
    if (v->type != JSON_OBJECT) {
        return err_set(err, "%s: header entry %.*s is not an object", e->file,
                       STR_ARG(e->name));
    }
    if (read_dtype(e, json_find(v, "dtype"), &bits, err) != OK
        || read_shape(e, json_find(v, "shape"), &num_elems, err) != OK
        || read_offsets(e, json_find(v, "data_offsets"), data_bytes, span, err)
           != OK)
    {
        return ERROR;
    }
    if (__builtin_mul_overflow(num_elems, (uint64_t) bits, &num_bits)
        || num_bits % 8 != 0 || num_bits / 8 != span->end - span->begin)
    {
        return err_set(err, "%s: tensor %.*s: %llu elements of %s do not make "
                       "%llu bytes", e->file, STR_ARG(e->name),
                       (unsigned long long) num_elems, e->dtype_name,
                       (unsigned long long) (span->end - span->begin));
    }
    e->tensor.data = (void *) (uintptr_t) (data + span->begin);
    if (e->tensor.dtype != DTYPE_NONE
        && (uintptr_t) e->tensor.data % dtype_bytes(e->tensor.dtype) != 0)
    {
        return err_set(err, "%s: the data of tensor %.*s is not aligned; save "
                       "the file again with a current safetensors", e->file,
                       STR_ARG(e->name));
    }
    return OK;
}

static int
compare_spans(const void *a, const void *b)
{
    const struct span  *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end);
}

/* The tensors must cover the data area exactly. */
static int
check_coverage(struct span *spans, size_t num, uint64_t data_bytes,
               const char *file, struct err *err)
{
    uint64_t  at = 0;
    qsort(spans, num, sizeof *spans, compare_spans);
    for (size_t i = 0; i < num; i++) {
        if (spans[i].begin != at) {
            return err_set(err, "%s: tensor %.*s begins at data byte %llu, "
                           "%s the bytes before it end at %llu", file,
                           STR_ARG(spans[i].entry->name),
                           (unsigned long long) spans[i].begin,
                           spans[i].begin < at ? "overlapping:" : "but",
                           (unsigned long long) at);
        }
        at = spans[i].end;
    }
    if (at != data_bytes) {
        return err_set(err, "%s: %llu bytes after the last tensor's end at "
                       "data byte %llu", file,
                       (unsigned long long) (data_bytes - at),
                       (unsigned long long) at);
    }
    return OK;
}

static int
check_metadata(const struct json *v, const char *file, struct err *err)
{
    bool  good = v->type == JSON_OBJECT;
    for (const struct json *m = v->child; good && m != NULL; m = m->next) {
        good = m->type == JSON_STRING;
    }
    return good ? OK : err_set(err, "%s: __metadata__ must hold strings only",
                               file);
}

/* Adds every tensor of a parsed header; on ERROR the caller drops them. */
static int
append_header(struct safetensors *st, const char *file,
              const struct json *root, const unsigned char *data,
              uint64_t data_bytes, struct err *err)
{
    size_t        first = st->num_entries, num = 0;
    struct span  *spans = malloc((root->num_children + 1) * sizeof *spans);
    int           rc = spans == NULL ? err_set(err, "%s: out of memory", file)
                                     : OK;
    for (const struct json *v = root->child; rc == OK && v != NULL; v = v->next)
    {
        if (str_eq(v->key, STR("__metadata__"))) {
            rc = check_metadata(v, file, err);
            continue;
        }
        struct safetensors_entry  *e = entries_push(st);
        if (e == NULL) {
            rc = err_set(err, "%s: more than %d tensors, or out of memory",
                         file, SAFETENSORS_TENSORS_MAX);
            break;
        }
        e->file = file;
        e->name = arena_str(&st->arena, v->key);
        if (e->name.data == NULL && v->key.len != 0) {
            rc = err_set(err, "%s: out of memory for names", file);
            break;
        }
        rc = read_entry(e, v, data, data_bytes, &spans[num++], err);
    }
    for (size_t i = 0; rc == OK && i < num; i++) {
        spans[i].entry = &st->entries[first + i];
    }
    if (rc == OK) {
        rc = check_coverage(spans, num, data_bytes, file, err);
    }
    free(spans);
    return rc;
}

int
safetensors_append(struct safetensors *st, const char *file, const void *image,
                   size_t bytes, struct err *err)
{
    const unsigned char  *p = image;
    uint64_t              header_bytes = 0;
    size_t                first = st->num_entries;
    struct arena          arena;
    struct json          *root;

    char  *path = arena_strdup(&st->arena, str_from(file));
    if (path == NULL) {
        return err_set(err, "%s: out of memory", file);
    }
    if (bytes < LENGTH_BYTES) {
        return err_set(err, "%s: %zu bytes are too few for a safetensors file",
                       file, bytes);
    }
    for (int i = 0; i < LENGTH_BYTES; i++) {
        header_bytes |= (uint64_t) p[i] << (8 * i);
    }
    if (header_bytes > SAFETENSORS_HEADER_BYTES_MAX
        || header_bytes > bytes - LENGTH_BYTES)
    {
        return err_set(err, "%s: header of %llu bytes in a file of %zu (limit "
                       "%d): not a safetensors file, or cut short", file,
                       (unsigned long long) header_bytes, bytes,
                       SAFETENSORS_HEADER_BYTES_MAX);
    }
    struct str  text = { (const char *) p + LENGTH_BYTES,
                         (size_t) header_bytes };
    arena_init(&arena, JSON_ARENA_BYTES);
    int  rc = json_parse(&root, text, &arena, &header_limits, err);
    if (rc != OK) {
        (void) err_prefix(err, "%s: header", file);
    } else if (root->type != JSON_OBJECT || text.data[0] != '{') {
        rc = err_set(err, "%s: the header is not a JSON object", file);
    } else {
        st->sorted = false;
        rc = append_header(st, path, root, p + LENGTH_BYTES + header_bytes,
                           bytes - LENGTH_BYTES - (size_t) header_bytes, err);
    }
    arena_destroy(&arena);
    if (rc != OK) {
        st->num_entries = first;
    }
    return rc;
}

/* ---- files ---------------------------------------------------------------------- */

static int
append_file(struct safetensors *st, const char *dir, const char *name,
            struct err *err)
{
    char         path[PATH_MAX];
    struct stat  info;
    if (model_file_path(path, dir, name, err) != OK) {
        return ERROR;
    }
    int  fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return err_set(err, "%s: %s", path, strerror(errno));
    }
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
        close(fd);
        return err_set(err, "%s: not a regular file with content", path);
    }
    size_t  bytes = (size_t) info.st_size;
    void   *data = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data == MAP_FAILED) {
        return err_set(err, "%s: cannot be mapped: %s", path, strerror(errno));
    }
    (void) madvise(data, bytes, MADV_WILLNEED);
    struct mapping  *maps = realloc(st->maps,
                                    (st->num_maps + 1) * sizeof *maps);
    if (maps == NULL) {
        munmap(data, bytes);
        return err_set(err, "%s: out of memory", path);
    }
    st->maps = maps;
    maps[st->num_maps++] = (struct mapping) {
        arena_strdup(&st->arena, str_from(name)), data, bytes
    };
    if (maps[st->num_maps - 1].path == NULL) {
        return err_set(err, "%s: out of memory", path);
    }
    return safetensors_append(st, path, data, bytes, err);
}

/* A file name as an index may give it: no directories, no dot files. */
static bool
is_plain_name(struct str name)
{
    return name.len > 0 && name.len < NAME_MAX && name.data[0] != '.'
           && memchr(name.data, '/', name.len) == NULL
           && memchr(name.data, '\0', name.len) == NULL;
}

static int
append_if_new(struct safetensors *st, const char *dir, struct str name,
              struct err *err)
{
    char  file[NAME_MAX + 1];
    for (size_t i = 0; i < st->num_maps; i++) {
        if (str_eq(name, str_from(st->maps[i].path))) {
            return OK;
        }
    }
    if (st->num_maps >= SAFETENSORS_FILES_MAX) {
        return err_set(err, "%s/" INDEX_NAME " names more than %d files", dir,
                       SAFETENSORS_FILES_MAX);
    }
    memcpy(file, name.data, name.len);
    file[name.len] = '\0';
    return append_file(st, dir, file, err);
}

/* Opens the files of weight_map, then checks that each tensor is where the
 * index says. */
static int
append_index(struct safetensors *st, const char *dir, struct str text,
             struct err *err)
{
    struct arena        arena;
    struct json        *root;
    const struct json  *map = NULL;
    arena_init(&arena, JSON_ARENA_BYTES);
    int  rc = json_parse(&root, text, &arena, &json_limits_file, err);
    if (rc != OK) {
        (void) err_prefix(err, "%s/" INDEX_NAME, dir);
    } else {
        map = root->type == JSON_OBJECT ? json_find(root, "weight_map") : NULL;
        if (map == NULL || map->type != JSON_OBJECT || map->child == NULL) {
            rc = err_set(err, "%s/" INDEX_NAME ": weight_map is missing", dir);
            map = NULL;
        }
    }
    for (const struct json *v = map == NULL ? NULL : map->child;
         rc == OK && v != NULL; v = v->next)
    {
        if (v->type != JSON_STRING || !is_plain_name(v->string)) {
            rc = err_set(err, "%s/" INDEX_NAME ": the file of tensor %.*s is "
                         "not a plain file name", dir, STR_ARG(v->key));
            break;
        }
        rc = append_if_new(st, dir, v->string, err);
    }
    if (rc == OK) {
        rc = sort_entries(st, err);
    }
    for (const struct json *v = map == NULL ? NULL : map->child;
         rc == OK && v != NULL; v = v->next)
    {
        const struct safetensors_entry  *e = safetensors_find(st, v->key);
        if (e == NULL) {
            rc = err_set(err, "%s/" INDEX_NAME ": tensor %.*s is not in %.*s",
                         dir, STR_ARG(v->key), STR_ARG(v->string));
        }
    }
    for (size_t i = 0; i < st->num_entries; i++) {
        st->entries[i].used = false;
    }
    arena_destroy(&arena);
    return rc;
}

int
safetensors_open(struct safetensors **out, const char *dir, struct err *err)
{
    char        path[PATH_MAX];
    struct str  index;
    int         rc = OK;
    *out = NULL;
    if (model_file_path(path, dir, "model.safetensors", err) != OK
        || safetensors_create(out, err) != OK)
    {
        return ERROR;
    }
    if (access(path, F_OK) == 0) {
        rc = append_file(*out, dir, "model.safetensors", err);
        if (rc == OK) {
            rc = sort_entries(*out, err);
        }
    } else {
        rc = model_file_read(&index, dir, INDEX_NAME, INDEX_BYTES_MAX, err);
        if (rc == AGAIN) {
            rc = err_set(err, "%s: there is neither model.safetensors nor "
                         INDEX_NAME "; other weight formats are not read", dir);
        } else if (rc == OK) {
            rc = append_index(*out, dir, index, err);
        }
        model_file_free(&index);
    }
    if (rc != OK) {
        safetensors_close(*out);
        *out = NULL;
    }
    return rc;
}

size_t
safetensors_data_bytes(const struct safetensors *st)
{
    size_t  bytes = 0;
    for (size_t i = 0; i < st->num_maps; i++) {
        bytes += st->maps[i].bytes;
    }
    return bytes;
}
