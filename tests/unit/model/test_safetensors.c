/* test_safetensors.c - good files are read, bad ones are refused by name.
 *
 * Images are built in memory from a header text; every corruption is one edit
 * of a good image.  Random corruption (seed printed) must never crash. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/model/safetensors.h"

#define SEED       99u
#define IMAGE_MAX  4096

struct image {
    _Alignas(64) unsigned char bytes[IMAGE_MAX];
    size_t                     len;
};

static const char  good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]},"
    "\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[32,40]}}";

/* Pads the header with spaces to 8 bytes, as writers do. */
static void
image_build(struct image *im, const char *header, size_t data_bytes)
{
    size_t  len = strlen(header), padded = (len + 7) & ~(size_t) 7;
    memset(im->bytes, 0, sizeof im->bytes);
    memset(im->bytes + 8, ' ', padded);
    memcpy(im->bytes + 8, header, len);
    for (int i = 0; i < 8; i++) {
        im->bytes[i] = (unsigned char) (padded >> (8 * i));
    }
    for (size_t i = 0; i < data_bytes; i++) {
        im->bytes[8 + padded + i] = (unsigned char) i;
    }
    im->len = 8 + padded + data_bytes;
}

static int
image_open(struct safetensors **st, const void *bytes, size_t len,
           struct err *err)
{
    *err = (struct err) { 0 };
    assert_int_equal(safetensors_create(st, err), OK);
    return safetensors_append(*st, "x.safetensors", bytes, len, err);
}

static void
assert_refused(const char *header, size_t data_bytes, const char *reason)
{
    static struct image  im;
    struct safetensors  *st;
    struct err           err;
    image_build(&im, header, data_bytes);
    assert_int_equal(image_open(&st, im.bytes, im.len, &err), ERROR);
    if (strstr(err.message, reason) == NULL
        || strstr(err.message, "x.safetensors") == NULL)
    {
        fail_msg("\"%s\" does not say \"%s\"", err.message, reason);
    }
    assert_int_equal(safetensors_num_tensors(st), 0);
    safetensors_close(st);
}

static void
test_a_good_file_is_read(void **state)
{
    static struct image  im;
    struct safetensors  *st;
    struct err           err;
    (void) state;
    image_build(&im, good_header, 40);
    assert_int_equal(image_open(&st, im.bytes, im.len, &err), OK);
    assert_int_equal(safetensors_num_tensors(st), 3);

    const struct safetensors_entry  *a = safetensors_find(st, STR("a"));
    assert_int_equal(a->tensor.dtype, DTYPE_F32);
    assert_int_equal(a->tensor.ndim, 2);
    assert_int_equal(a->tensor.shape[0], 2);
    assert_int_equal(a->tensor.shape[1], 3);
    assert_int_equal(((unsigned char *) a->tensor.data)[5], 5);
    const struct safetensors_entry  *b = safetensors_find(st, STR("b"));
    assert_int_equal(((unsigned char *) b->tensor.data)[0], 24);
    const struct safetensors_entry  *c = safetensors_find(st, STR("c"));
    assert_int_equal(c->tensor.dtype, DTYPE_NONE);
    assert_string_equal(c->dtype_name, "I64");
    assert_int_equal(c->tensor.ndim, 0);
    assert_null(safetensors_find(st, STR("d")));
    assert_null(safetensors_find(st, STR("")));
    assert_true(a->used && b->used && c->used);
    safetensors_close(st);
}

static void
test_lengths_that_lie_are_refused(void **state)
{
    static struct image  im;
    struct safetensors  *st;
    struct err           err;
    (void) state;
    for (size_t len = 0; len < 8 + sizeof good_header + 40; len++) {
        image_build(&im, good_header, 40);
        if (len >= im.len) {
            break;
        }
        assert_int_equal(image_open(&st, im.bytes, len, &err), ERROR);
        assert_non_null(strstr(err.message, "x.safetensors"));
        safetensors_close(st);
    }
    static const uint64_t  lengths[] = { 0, 1, 1u << 30, UINT64_MAX,
                                         UINT64_MAX - 7, 1ull << 63 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        image_build(&im, good_header, 40);
        for (int j = 0; j < 8; j++) {
            im.bytes[j] = (unsigned char) (lengths[i] >> (8 * j));
        }
        assert_int_equal(image_open(&st, im.bytes, im.len, &err), ERROR);
        safetensors_close(st);
    }
}

static void
test_broken_headers_are_refused(void **state)
{
    (void) state;
    assert_refused("[]", 0, "not a JSON object");
    assert_refused("{\"a\":1}", 0, "not an object");
    assert_refused("{\"a\":{}}", 0, "no dtype");
    assert_refused("{\"a\":{\"dtype\":\"F31\"}}", 0, "unknown dtype F31");
    assert_refused("{\"a\":{\"dtype\":\"F32\"}}", 0, "no shape");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],"
                   "\"data_offsets\":[0,4]}}", 4, "shape[0]");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],"
                   "\"data_offsets\":[0,4]}}", 4, "shape[0]");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4,
                   "data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[0,4,8]}}", 4, "data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[4,0]}}", 4, "data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[0,8]}}", 4, "data_offsets");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\""
                   ":[0,18446744073709551616]}}", 4, "data_offsets");
    assert_refused("{\"__metadata__\":{\"x\":1}}", 0, "__metadata__");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
                   "[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[4,8]}}", 8, "header");
}

static void
test_shapes_that_do_not_make_the_bytes_are_refused(void **state)
{
    (void) state;
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],"
                   "\"data_offsets\":[0,4]}}", 4, "do not make");
    assert_refused("{\"a\":{\"dtype\":\"BF16\",\"shape\":[3],"
                   "\"data_offsets\":[0,4]}}", 4, "do not make");
    assert_refused("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],"
                   "\"data_offsets\":[0,1]}}", 1, "do not make");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,"
                   "4294967296],\"data_offsets\":[0,4]}}", 4, "shape[1]");
    assert_refused("{\"a\":{\"dtype\":\"F64\",\"shape\":[1152921504606846976],"
                   "\"data_offsets\":[0,4]}}", 4, "do not make");
}

static void
test_overlaps_and_gaps_are_refused(void **state)
{
    (void) state;
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":"
                   "[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
                   "\"data_offsets\":[4,12]}}", 12, "overlapping");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
                   "[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[8,12]}}", 12, "begins at");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
                   "[4,8]}}", 8, "begins at");
    assert_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":"
                   "[0,4]}}", 8, "after the last");
}

static void
test_misaligned_data_is_refused(void **state)
{
    (void) state;
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":"
                   "[0,1]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
                   "\"data_offsets\":[1,5]}}", 5, "not aligned");
}

static void
test_flipped_bits_never_crash(void **state)
{
    static struct image  im;
    uint64_t             rng = SEED;
    int                  opened = 0;
    (void) state;
    print_message("seed %u\n", SEED);
    for (int round = 0; round < 20000; round++) {
        struct safetensors  *st;
        struct err           err;
        image_build(&im, good_header, 40);
        for (int flips = round % 3; flips >= 0; flips--) {
            rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
            im.bytes[(rng >> 33) % im.len] ^= (unsigned char)
                                              (1u << (rng >> 61));
        }
        if (image_open(&st, im.bytes, im.len, &err) == OK) {
            opened++;           /* data, a name or the metadata was hit */
            for (size_t i = 0; i < safetensors_num_tensors(st); i++) {
                const struct safetensors_entry  *e =
                    safetensors_entry_at(st, i);
                const unsigned char             *p = e->tensor.data;
                assert_true(p >= im.bytes && p <= im.bytes + im.len);
            }
        } else {
            assert_true(err.message[0] != '\0');
        }
        safetensors_close(st);
    }
    assert_true(opened > 0 && opened < 20000);
}

/* ---- directories ------------------------------------------------------------- */

static void
write_file(const char *dir, const char *name, const void *data, size_t len)
{
    char  path[512];
    (void) snprintf(path, sizeof path, "%s/%s", dir, name);
    int  fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, len), (ssize_t) len);
    close(fd);
}

static void
write_tensor(const char *dir, const char *file, const char *tensor)
{
    static struct image  im;
    char                 header[256];
    (void) snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\","
                    "\"shape\":[1],\"data_offsets\":[0,4]}}", tensor);
    image_build(&im, header, 4);
    write_file(dir, file, im.bytes, im.len);
}

static void
write_index(const char *dir, const char *text)
{
    write_file(dir, "model.safetensors.index.json", text, strlen(text));
}

static void
assert_dir_refused(const char *dir, const char *reason)
{
    struct safetensors  *st;
    struct err           err = { 0 };
    assert_int_equal(safetensors_open(&st, dir, &err), ERROR);
    assert_null(st);
    if (strstr(err.message, reason) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.message, reason);
    }
}

static void
remove_dir(const char *dir)
{
    static const char *const  names[] = {
        "one.safetensors", "two.safetensors", "model.safetensors",
        "model.safetensors.index.json"
    };
    char  path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void) snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void) unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void
test_an_index_names_its_files(void **state)
{
    char                 dir[] = "/tmp/test_safetensors.XXXXXX";
    struct safetensors  *st;
    struct err           err = { 0 };
    (void) state;
    assert_non_null(mkdtemp(dir));
    assert_dir_refused(dir, "neither model.safetensors nor");
    write_tensor(dir, "one.safetensors", "a");
    write_tensor(dir, "two.safetensors", "b");
    write_index(dir, "{\"weight_map\":{\"a\":\"one.safetensors\","
                "\"b\":\"two.safetensors\"}}");
    assert_int_equal(safetensors_open(&st, dir, &err), OK);
    assert_int_equal(safetensors_num_tensors(st), 2);
    assert_false(safetensors_entry_at(st, 0)->used);
    assert_non_null(safetensors_find(st, STR("b")));
    safetensors_close(st);

    write_index(dir, "{\"weight_map\":{\"c\":\"one.safetensors\"}}");
    assert_dir_refused(dir, "tensor c is not in one.safetensors");
    write_index(dir, "{\"weight_map\":{\"a\":\"../one.safetensors\"}}");
    assert_dir_refused(dir, "not a plain file name");
    write_index(dir, "{\"weight_map\":{\"a\":\"gone.safetensors\"}}");
    assert_dir_refused(dir, "gone.safetensors");
    write_index(dir, "{\"weight_map\":[]}");
    assert_dir_refused(dir, "weight_map");
    write_index(dir, "{");
    assert_dir_refused(dir, "invalid JSON");
    write_tensor(dir, "two.safetensors", "a");
    write_index(dir, "{\"weight_map\":{\"a\":\"one.safetensors\","
                "\"b\":\"two.safetensors\"}}");
    assert_dir_refused(dir, "in both");
    write_file(dir, "model.safetensors", "", 0);
    assert_dir_refused(dir, "model.safetensors");
    remove_dir(dir);
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_a_good_file_is_read),
        cmocka_unit_test(test_lengths_that_lie_are_refused),
        cmocka_unit_test(test_broken_headers_are_refused),
        cmocka_unit_test(test_shapes_that_do_not_make_the_bytes_are_refused),
        cmocka_unit_test(test_overlaps_and_gaps_are_refused),
        cmocka_unit_test(test_misaligned_data_is_refused),
        cmocka_unit_test(test_flipped_bits_never_crash),
        cmocka_unit_test(test_an_index_names_its_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
