/* Ranks on cards, on nodes made up here. */
#include "tests/test.h"

#include <string.h>

#include "trainer/cards.h"

enum { MAX_RANKS = 16 };

typedef struct a_job {
    rlf_config config;
    trainer_topology topology;
    rlf_neighbour near[MAX_RANKS];
} a_job;

static void job_of(a_job *job, int rollouts, int size) {
    memset(job, 0, sizeof *job);
    job->config.mode = "rl";
    job->config.ranks.tool = 1;
    job->config.ranks.rollout = rollouts;
    assert_ok(trainer_topology_init(&job->topology, &job->config, size));
    for (int i = 0; i < size; i++) job->near[i].rank = i;
}

/* expected: the card of each rank of the node, which begins with rank `first`. */
static void assert_cards(const a_job *job, int first, int n, int cards, const int *expected) {
    for (int i = 0; i < n; i++)
        assert_int_equal(trainer_card_of(&job->topology, job->near + first, (size_t)n, cards, first + i), expected[i]);
}

static void learners_come_first_and_each_role_is_spread(void **state) {
    (void)state;
    a_job job;
    job_of(&job, 3, 6); /* coordinator, tool, three rollout ranks, a learner */
    assert_cards(&job, 0, 6, 4, (int[]){-1, -1, 1, 2, 3, 0});
    assert_cards(&job, 0, 6, 2, (int[]){-1, -1, 1, 0, 1, 0});
    job_of(&job, 2, 6);
    assert_cards(&job, 0, 6, 2, (int[]){-1, -1, 0, 1, 0, 1});
}

static void all_ranks_may_share_one_card(void **state) {
    (void)state;
    a_job job;
    job_of(&job, 2, 6);
    assert_cards(&job, 0, 6, 1, (int[]){-1, -1, 0, 0, 0, 0});
}

static void each_node_counts_its_own_ranks(void **state) {
    (void)state;
    a_job job;
    job_of(&job, 4, 10); /* ranks 2-5 generate, 6-9 learn */
    assert_cards(&job, 0, 5, 2, (int[]){-1, -1, 0, 1, 0});
    assert_cards(&job, 5, 5, 2, (int[]){0, 0, 1, 0, 1});
}

static void without_cards_there_is_no_card(void **state) {
    (void)state;
    a_job job;
    int cards;
    job_of(&job, 2, 5);
    job.config.device = "cpu";
    assert_ok(trainer_cards(&job.config, &cards));
    assert_int_equal(cards, 0);
    assert_cards(&job, 0, 5, 0, (int[]){-1, -1, -1, -1, -1});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learners_come_first_and_each_role_is_spread),
        cmocka_unit_test(all_ranks_may_share_one_card),
        cmocka_unit_test(each_node_counts_its_own_ranks),
        cmocka_unit_test(without_cards_there_is_no_card),
    };
    return cmocka_run_group_tests_name("cards", tests, NULL, NULL);
}
