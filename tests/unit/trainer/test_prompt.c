/* Rows to episodes: what a message is on the wire. */
#include "tests/test.h"

#include "tests/unit/rollout/byte_tokenizer.h"
#include "trainer/job.h"

static void an_empty_reasoning_is_told_from_a_missing_one(void **state) {
    (void)state;
    rlf_chat_message messages[] = {{.role = "user", .content = "Q"}, {.role = "assistant", .content = "A", .reasoning = ""},
                                   {.role = "assistant", .content = "B"}, {.role = "user", .content = "R"}};
    rlf_row row = {.id = "1", .data_source = "", .extra = "", .messages = messages, .n_messages = 4};
    rlf_config config = {.episode = {.system = "", .max_prompt_tokens = 1000}};
    trainer_job job = {.config = &config, .tokenizer = byte_tokenizer()};
    rlf_arena arena = {0};
    rlf_episode episode;
    assert_ok(rlf_chat_new(&job.chat, job.tokenizer, "", (rlf_chat_options){.name = "qwen3"}));
    assert_ok(trainer_episode_of(&job, &row, "rows.jsonl", 1, 1, (rlf_sampling){1, 1, 0}, &arena, &episode));
    assert_int_equal(episode.prompt.n, 4);
    for (size_t i = 0; i < 4; i++) assert_int_equal(episode.prompt.v[i].reasoned, i == 1);
    rlf_arena_clean_up(&arena);
    rlf_chat_destroy(job.chat);
    rlf_tokenizer_destroy(job.tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_empty_reasoning_is_told_from_a_missing_one)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
