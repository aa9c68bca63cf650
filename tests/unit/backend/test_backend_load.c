/* test_backend_load.c - a machine without CUDA gets a reason, not a failure. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/backend/backend_load.h"

static void
library_path(char *out, size_t bytes)
{
    char     self[PATH_MAX];
    ssize_t  len = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(len > 0);
    self[len] = '\0';
    *strrchr(self, '/') = '\0';
    assert_true((size_t) snprintf(out, bytes, "%s/%s", self,
                                  BACKEND_CUDA_LIBRARY) < bytes);
}

static void
test_without_the_library_the_answer_says_how_to_build_it(void **state)
{
    struct backend  *be = (struct backend *) state;
    struct err       err = { 0 };
    assert_int_equal(backend_load_cuda(&be, NULL, &err), AGAIN);
    assert_null(be);
    assert_non_null(strstr(err.message, BACKEND_CUDA_LIBRARY));
    assert_non_null(strstr(err.message, "make cuda"));
}

static void
test_a_library_that_does_not_load_is_named(void **state)
{
    char             path[2 * PATH_MAX];
    struct backend  *be;
    struct err       err = { 0 };
    (void) state;
    library_path(path, sizeof path);
    FILE  *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs("not a library\n", file) >= 0);
    assert_int_equal(fclose(file), 0);
    int  rc = backend_load_cuda(&be, NULL, &err);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rc, AGAIN);
    assert_null(be);
    assert_non_null(strstr(err.message, path));
}

int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_without_the_library_the_answer_says_how_to_build_it),
        cmocka_unit_test(test_a_library_that_does_not_load_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
