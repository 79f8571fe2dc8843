/* Threads and bindings, on nodes made up here: 4 cores, a coordinator, a tool rank, then rollout ranks and learners. */
#include "tests/test.h"

#include <string.h>

#include "kernels/kern.h"
#include "trainer/cores.h"

enum { CORES = 4, MAX_RANKS = 8 };

typedef struct a_node {
    rlf_config config;
    trainer_topology topology;
    rlf_neighbour near[MAX_RANKS];
    size_t n;
} a_node;

/* cores[i]: the cores of rank i as bits. */
static void node_of(a_node *node, int rollouts, size_t n, const unsigned cores[]) {
    memset(node, 0, sizeof *node);
    node->config.mode = "rl";
    node->config.ranks.tool = 1;
    node->config.ranks.rollout = rollouts;
    assert_ok(trainer_topology_init(&node->topology, &node->config, (int)n));
    node->n = n;
    for (size_t i = 0; i < n; i++) {
        node->near[i].rank = (int)i;
        CPU_ZERO(&node->near[i].cores);
        for (int core = 0; core < CORES; core++)
            if (cores[i] >> core & 1) CPU_SET(core, &node->near[i].cores);
    }
}

static int threads_of(const a_node *node, int rank) { return trainer_threads(&node->config, &node->topology, node->near, node->n, rank); }

static void assert_warning(const a_node *node, const char *words) {
    rlf_str line = {0};
    bool is_short = trainer_cores_short(&node->config, &node->topology, node->near, node->n, CORES, &line);
    assert_int_equal(is_short, words != NULL);
    if (words && !strstr(line.ptr, words)) fail_msg("'%s' does not say '%s'", line.ptr, words);
    if (words) assert_non_null(strstr(line.ptr, "--bind-to none"));
    rlf_str_clean_up(&line);
}

static void unbound_ranks_share_the_cores_by_role(void **state) {
    a_node node;
    (void)state;
    node_of(&node, 2, 5, (unsigned[]){15, 15, 15, 15, 15});
    assert_int_equal(threads_of(&node, 2), 2);
    assert_int_equal(threads_of(&node, 3), 2);
    assert_int_equal(threads_of(&node, 4), 4);
    assert_warning(&node, NULL);
}

static void more_ranks_than_cores_run_one_thread_each(void **state) {
    a_node node;
    (void)state;
    node_of(&node, 5, 8, (unsigned[]){15, 15, 15, 15, 15, 15, 15, 15});
    assert_int_equal(threads_of(&node, 3), 1);
    assert_warning(&node, NULL);
}

static void ranks_bound_apart_keep_their_own_cores(void **state) {
    a_node node;
    (void)state;
    node_of(&node, 2, 6, (unsigned[]){3, 12, 3, 12, 3, 12});
    assert_int_equal(threads_of(&node, 2), 2);
    assert_int_equal(threads_of(&node, 5), 2);
    assert_warning(&node, NULL);
}

static void a_role_on_one_core_is_short(void **state) {
    a_node node;
    (void)state;
    node_of(&node, 2, 5, (unsigned[]){1, 2, 4, 4, 15});
    assert_int_equal(threads_of(&node, 2), 1);
    assert_warning(&node, "the rollout ranks to 1 of 4 cores");
    node_of(&node, 2, 5, (unsigned[]){1, 2, 15, 15, 8});
    assert_warning(&node, "the learners to 1 of 4 cores");
}

static void threads_asked_for_beyond_the_binding_name_the_rank(void **state) {
    a_node node;
    (void)state;
    node_of(&node, 1, 4, (unsigned[]){15, 15, 7, 7});
    assert_warning(&node, NULL);
    node.config.threads = 4;
    assert_int_equal(threads_of(&node, 2), 4);
    assert_warning(&node, "rank 2 (rollout) runs 4 threads, but mpirun has bound it to 3 of 4 cores");
    node_of(&node, 1, 4, (unsigned[]){15, 15, 15, 15});
    node.config.threads = 8;
    assert_warning(&node, NULL);
}

/* A node of more cores than a rank has threads: a rank alone in its role runs the most there are, and that is all it wants. */
static void a_rank_runs_at_most_as_many_threads_as_kern_can(void **state) {
    enum { MANY_CORES = 600 };
    a_node node;
    rlf_str line = {0};
    (void)state;
    node_of(&node, 2, 5, (unsigned[]){0, 0, 0, 0, 0});
    for (size_t i = 0; i < node.n; i++)
        for (int core = 0; core < (i == 4 ? KERN_MAX_THREADS : MANY_CORES); core++) CPU_SET(core, &node.near[i].cores);
    assert_int_equal(threads_of(&node, 2), KERN_MAX_THREADS);
    assert_int_equal(threads_of(&node, 4), KERN_MAX_THREADS);
    assert_false(trainer_cores_short(&node.config, &node.topology, node.near, node.n, MANY_CORES, &line));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unbound_ranks_share_the_cores_by_role),
        cmocka_unit_test(more_ranks_than_cores_run_one_thread_each),
        cmocka_unit_test(ranks_bound_apart_keep_their_own_cores),
        cmocka_unit_test(a_role_on_one_core_is_short),
        cmocka_unit_test(threads_asked_for_beyond_the_binding_name_the_rank),
        cmocka_unit_test(a_rank_runs_at_most_as_many_threads_as_kern_can),
    };
    return cmocka_run_group_tests_name("cores", tests, NULL, NULL);
}
