/* test_kv_blocks.c - the allocator hands out each block once and its audit
 * notices when the books are wrong. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "engine/base/hash.h"
#include "engine/sched/kv_blocks.h"

static void
ids_are_distinct_and_never_the_null_block(void **state)
{
    (void) state;
    struct kv_blocks  *kv;
    int32_t            table[9], num = 0;
    bool               seen[10] = { false };

    assert_int_equal(kv_blocks_create(&kv, 10, NULL), OK);
    assert_int_equal(kv_blocks_num_total(kv), 9);
    assert_true(kv_blocks_append(kv, table, &num, 9));
    for (int i = 0; i < 9; i++) {
        assert_in_range(table[i], 1, 9);
        assert_false(seen[table[i]]);
        seen[table[i]] = true;
    }
    assert_int_equal(kv_blocks_num_free(kv), 0);
    kv_blocks_release(kv, table, &num, 0);
    assert_int_equal(num, 0);
    assert_int_equal(kv_blocks_num_free(kv), 9);
    kv_blocks_destroy(kv);
    kv_blocks_destroy(NULL);
}

static void
append_is_all_or_nothing(void **state)
{
    (void) state;
    struct kv_blocks  *kv;
    int32_t            a[4], b[4], num_a = 0, num_b = 0;

    assert_int_equal(kv_blocks_create(&kv, 4, NULL), OK);
    assert_true(kv_blocks_append(kv, a, &num_a, 2));
    assert_true(kv_blocks_append(kv, a, &num_a, 1));   /* long enough */
    assert_int_equal(num_a, 2);
    assert_false(kv_blocks_append(kv, b, &num_b, 2));
    assert_int_equal(num_b, 0);
    assert_int_equal(kv_blocks_num_free(kv), 1);
    kv_blocks_release(kv, a, &num_a, 0);
    assert_true(kv_blocks_append(kv, b, &num_b, 3));
    kv_blocks_destroy(kv);
}

static void
a_shared_block_is_free_when_the_last_table_lets_go(void **state)
{
    (void) state;
    struct kv_blocks  *kv;
    int32_t            a[4], b[4], num_a = 0, num_b = 0;

    assert_int_equal(kv_blocks_create(&kv, 4, NULL), OK);
    assert_true(kv_blocks_append(kv, a, &num_a, 2));
    kv_blocks_share(kv, a[0]);
    b[num_b++] = a[0];
    kv_blocks_audit_begin(kv);
    kv_blocks_audit_table(kv, a, num_a);
    kv_blocks_audit_table(kv, b, num_b);
    kv_blocks_audit_end(kv);
    kv_blocks_release(kv, a, &num_a, 0);
    assert_int_equal(kv_blocks_num_free(kv), 2);
    kv_blocks_release(kv, b, &num_b, 0);
    assert_int_equal(kv_blocks_num_free(kv), 3);
    kv_blocks_destroy(kv);
}

static void
a_pool_without_usable_blocks_is_refused(void **state)
{
    (void) state;
    struct kv_blocks  *kv;
    struct err         err = { 0 };

    assert_int_equal(kv_blocks_create(&kv, 1, &err), ERROR);
    assert_null(kv);
    assert_true(err.message[0] != '\0');
    assert_int_equal(kv_blocks_create(&kv, KV_BLOCKS_MAX + 1, &err), ERROR);
}

static void
fenced_blocks_are_free_when_their_step_is_done(void **state)
{
    (void) state;
    struct kv_blocks  *kv;
    int32_t            a[3], b[2], num_a = 0, num_b = 0;

    assert_int_equal(kv_blocks_create(&kv, 6, NULL), OK);
    for (uint64_t step = 1; step < 20; step += 2) {     /* round the ring */
        assert_true(kv_blocks_append(kv, a, &num_a, 3));
        assert_true(kv_blocks_append(kv, b, &num_b, 2));
        kv_blocks_release(kv, a, &num_a, step);
        kv_blocks_release(kv, b, &num_b, step + 1);
        assert_int_equal(kv_blocks_num_fenced(kv), 5);
        assert_int_equal(kv_blocks_num_free(kv), 0);
        kv_blocks_audit_begin(kv);
        kv_blocks_audit_end(kv);
        kv_blocks_step_done(kv, step - 1);
        assert_false(kv_blocks_append(kv, a, &num_a, 1));
        kv_blocks_step_done(kv, step);
        assert_int_equal(kv_blocks_num_free(kv), 3);
        kv_blocks_step_done(kv, step + 1);
        assert_int_equal(kv_blocks_num_free(kv), 5);
        assert_int_equal(kv_blocks_num_fenced(kv), 0);
    }
    kv_blocks_destroy(kv);
}

/* Runs wrong(kv) in a child: it must die of a failed check. */
static void
assert_aborts(void (*wrong)(struct kv_blocks *kv))
{
    struct kv_blocks  *kv;
    int                status;

    assert_int_equal(kv_blocks_create(&kv, 6, NULL), OK);
    pid_t  pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void) signal(SIGABRT, SIG_DFL);
        (void) close(2);
        wrong(kv);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    kv_blocks_destroy(kv);
}

static void
wrong_leak(struct kv_blocks *kv)
{
    int32_t  a[2], num = 0;

    (void) kv_blocks_append(kv, a, &num, 2);
    kv_blocks_audit_begin(kv);
    kv_blocks_audit_end(kv);
}

static void
wrong_second_owner(struct kv_blocks *kv)
{
    int32_t  a[2], num = 0;

    (void) kv_blocks_append(kv, a, &num, 2);
    kv_blocks_audit_begin(kv);
    kv_blocks_audit_table(kv, a, num);
    kv_blocks_audit_table(kv, a, num);
    kv_blocks_audit_end(kv);
}

static void
wrong_double_free(struct kv_blocks *kv)
{
    int32_t  a[2], num = 0;

    (void) kv_blocks_append(kv, a, &num, 2);
    kv_blocks_release(kv, a, &num, 0);
    num = 2;
    kv_blocks_release(kv, a, &num, 0);
}

static void
wrong_share_of_a_fenced_block(struct kv_blocks *kv)
{
    int32_t  a[1], num = 0;

    (void) kv_blocks_append(kv, a, &num, 1);
    kv_blocks_release(kv, a, &num, 1);
    kv_blocks_share(kv, a[0]);
}

static void
the_audit_notices_leaks_double_owners_and_double_frees(void **state)
{
    (void) state;
    assert_aborts(wrong_leak);
    assert_aborts(wrong_second_owner);
    assert_aborts(wrong_double_free);
    assert_aborts(wrong_share_of_a_fenced_block);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_distinct_and_never_the_null_block),
        cmocka_unit_test(append_is_all_or_nothing),
        cmocka_unit_test(a_shared_block_is_free_when_the_last_table_lets_go),
        cmocka_unit_test(fenced_blocks_are_free_when_their_step_is_done),
        cmocka_unit_test(a_pool_without_usable_blocks_is_refused),
        cmocka_unit_test(
            the_audit_notices_leaks_double_owners_and_double_frees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
