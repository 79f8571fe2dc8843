/* The worker pool: every task exactly once, on a thread number in range, in jobs that follow each other at every pace; and how many
 * threads a device gives it. */
#include "tests/test.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "kernels/cpu/pool.h"
#include "kernels/kern.h"

enum { MAX_TASKS = 300, MAX_POOL = 7 };

typedef struct tally {
    atomic_int runs[MAX_TASKS];
    atomic_int bad_threads, in_thread[MAX_POOL], clashes;
    int threads;
} tally;

static void count_task(void *ctx, int task, int thread) {
    tally *t = ctx;
    if (thread < 0 || thread >= t->threads) {
        atomic_fetch_add(&t->bad_threads, 1);
        return;
    }
    if (atomic_fetch_add(&t->in_thread[thread], 1) != 0) atomic_fetch_add(&t->clashes, 1); /* two tasks in one thread's scratch */
    atomic_fetch_add(&t->runs[task], 1);
    atomic_fetch_sub(&t->in_thread[thread], 1);
}

static void run_and_check(kern_pool *pool, tally *t, int tasks) {
    memset(t, 0, sizeof *t);
    t->threads = kern_pool_threads(pool);
    kern_pool_run(pool, tasks, count_task, t);
    for (int i = 0; i < MAX_TASKS; i++) assert_int_equal(atomic_load(&t->runs[i]), i < tasks);
    assert_int_equal(atomic_load(&t->bad_threads), 0);
    assert_int_equal(atomic_load(&t->clashes), 0);
}

static void every_task_runs_once_for_any_number_of_threads(void **state) {
    static tally t;
    (void)state;
    for (int threads = 1; threads <= MAX_POOL; threads++) {
        kern_pool *pool;
        assert_ok(kern_pool_new(&pool, threads));
        assert_int_equal(kern_pool_threads(pool), threads);
        for (int tasks = 0; tasks <= MAX_TASKS; tasks += 1 + tasks / 4) run_and_check(pool, &t, tasks);
        kern_pool_destroy(pool);
    }
}

static void jobs_in_quick_succession_do_not_mix(void **state) {
    static tally t;
    kern_pool *pool;
    (void)state;
    assert_ok(kern_pool_new(&pool, 4));
    for (int job = 0; job < 3000; job++) run_and_check(pool, &t, 2 + job % 5);
    kern_pool_destroy(pool);
}

static void sleeping_workers_wake_for_the_next_job(void **state) {
    static tally t;
    kern_pool *pool;
    (void)state;
    assert_ok(kern_pool_new(&pool, 3));
    for (int job = 0; job < 50; job++) {
        rlf_sleep_us(200 + job);
        run_and_check(pool, &t, 40);
    }
    kern_pool_destroy(pool);
}

static void add_up(void *ctx, int task, int thread) {
    (void)thread;
    ((int64_t *)ctx)[task] = (int64_t)task * task;
}

static void results_are_visible_to_the_caller(void **state) {
    int64_t squares[MAX_TASKS];
    kern_pool *pool;
    (void)state;
    assert_ok(kern_pool_new(&pool, 4));
    for (int job = 0; job < 200; job++) {
        memset(squares, 0xff, sizeof squares);
        kern_pool_run(pool, MAX_TASKS, add_up, squares);
        for (int i = 0; i < MAX_TASKS; i++) assert_int_equal(squares[i], (int64_t)i * i);
    }
    kern_pool_destroy(pool);
}

static void count_sign(void *ctx) { ++*(int *)ctx; } /* plain: workers shall not come here */

static void every_task_of_the_caller_is_a_sign_of_life(void **state) {
    static tally t;
    kern_pool *pool;
    (void)state;
    for (int threads = 1; threads <= MAX_POOL; threads += 3) {
        int signs = 0;
        assert_ok(kern_pool_new(&pool, threads));
        rlf_alive_tell(count_sign, &signs);
        run_and_check(pool, &t, MAX_TASKS);
        rlf_alive_tell(NULL, NULL);
        run_and_check(pool, &t, MAX_TASKS); /* nobody is told */
        assert_true(threads == 1 ? signs == MAX_TASKS : signs <= MAX_TASKS);
        kern_pool_destroy(pool);
    }
}

static void a_pool_may_close_without_having_worked(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) {
        kern_pool *pool;
        assert_ok(kern_pool_new(&pool, 1 + i % 5));
        kern_pool_destroy(pool);
    }
}

/* In place of the C library's: a machine of more cores than a device has threads. */
int sched_getaffinity(pid_t process, size_t bytes, cpu_set_t *set) {
    (void)process;
    CPU_ZERO_S(bytes, set);
    for (int core = 0; core < KERN_MAX_THREADS + 100; core++) CPU_SET_S((size_t)core, bytes, set);
    return 0;
}

/* A machine without memory for so many threads says so. */
static void a_device_for_more_cores_runs_the_most_threads_there_are(void **state) {
    kern_device *device;
    char threads[32];
    (void)state;
    snprintf(threads, sizeof threads, "%d threads", KERN_MAX_THREADS);
    if (kern_device_open(&device, &(kern_device_options){.name = "cpu"}) == RLF_OK) {
        assert_non_null(strstr(kern_device_name(device), threads));
        kern_device_close(device);
    } else {
        assert_non_null(strstr(rlf_error_message(), "scratch memory"));
        assert_non_null(strstr(rlf_error_message(), threads));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_for_any_number_of_threads),
        cmocka_unit_test(jobs_in_quick_succession_do_not_mix),
        cmocka_unit_test(sleeping_workers_wake_for_the_next_job),
        cmocka_unit_test(results_are_visible_to_the_caller),
        cmocka_unit_test(every_task_of_the_caller_is_a_sign_of_life),
        cmocka_unit_test(a_pool_may_close_without_having_worked),
        cmocka_unit_test(a_device_for_more_cores_runs_the_most_threads_there_are),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
