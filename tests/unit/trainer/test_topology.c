/* Roles by rank in each mode, and the errors of a world too small. */
#include "tests/test.h"

#include <string.h>

#include "trainer/topology.h"

static rlf_config config_of(const char *mode, const char *eval, int64_t tools, int64_t rollouts) {
    static char names[2][64];
    rlf_config config = {0};
    strncpy(names[0], mode, 63);
    strncpy(names[1], eval, 63);
    config.mode = names[0];
    config.data.eval = names[1];
    config.ranks.tool = tools;
    config.ranks.rollout = rollouts;
    return config;
}

static void rl_has_all_roles_in_order(void **state) {
    (void)state;
    static const trainer_role wanted[] = {TRAINER_COORDINATOR, TRAINER_TOOL, TRAINER_TOOL, TRAINER_ROLLOUT, TRAINER_LEARNER,
                                          TRAINER_LEARNER};
    rlf_config config = config_of("rl", "", 2, 1);
    trainer_topology top;
    assert_ok(trainer_topology_init(&top, &config, 6));
    for (int rank = 0; rank < 6; rank++) assert_int_equal(trainer_topology_role(&top, rank), wanted[rank]);
    assert_int_equal(top.learner_first, 4);
    assert_int_equal(top.learners, 2);
}

static void supervised_training_without_evaluation_is_all_learners(void **state) {
    (void)state;
    rlf_config config = config_of("sft", "", 1, 1);
    trainer_topology top;
    assert_ok(trainer_topology_init(&top, &config, 3));
    assert_int_equal(top.tools + top.rollouts, 0);
    assert_int_equal(top.learners, 2);
    assert_int_equal(trainer_topology_least(&config), 2);
    config = config_of("sft", "rows.jsonl", 1, 1);
    assert_int_equal(trainer_topology_least(&config), 4);
}

static void evaluation_has_no_learners_and_uses_every_rank(void **state) {
    (void)state;
    rlf_config config = config_of("eval", "rows.jsonl", 1, 2);
    trainer_topology top;
    assert_ok(trainer_topology_init(&top, &config, 6));
    assert_int_equal(top.rollouts, 4);
    assert_int_equal(top.learners, 0);
}

static void world_too_small_says_how_many_ranks_it_needs(void **state) {
    (void)state;
    rlf_config config = config_of("rl", "", 1, 2);
    trainer_topology top;
    assert_int_equal(trainer_topology_init(&top, &config, 4), RLF_INVALID);
    assert_non_null(strstr(rlf_error_message(), "at least 5 ranks"));
    assert_non_null(strstr(rlf_error_message(), "started with 4: mpirun -np 5"));
    assert_null(strstr(rlf_error_message(), "built with"));
    assert_int_equal(trainer_topology_init(&top, &config, 1), RLF_INVALID); /* what each rank sees that another MPI's mpirun started */
    assert_non_null(strstr(rlf_error_message(), "started with 1: mpirun -np 5, the mpirun of the MPI that rlf-train was built with"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rl_has_all_roles_in_order),
        cmocka_unit_test(supervised_training_without_evaluation_is_all_learners),
        cmocka_unit_test(evaluation_has_no_learners_and_uses_every_rank),
        cmocka_unit_test(world_too_small_says_how_many_ranks_it_needs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
