/* The codec: every message round-trips, and no bytes from outside get past the checks. */
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/msg/messages.h"

static int32_t g_tokens[] = {1, -2, INT32_MAX, INT32_MIN};
static float g_logprobs[] = {0.0f, -1.5f, -0.0f, 3.4e38f};
static rlf_span g_spans[] = {{0, 2, RLF_SPAN_PROMPT, 0, 0}, {2, 4, RLF_SPAN_MODEL, 0, 9}};

static rlf_trajectory sample_trajectory(void) {
    rlf_trajectory t = {.uid = 1ll << 40, .sample = 3, .attempt = 1, .version = -1, .reward = 0.1, .finish = RLF_FINISH_ANSWER,
                        .generate_ms = 1e300};
    t.tokens = (rlf_i32s){g_tokens, 4};
    t.logprobs = (rlf_f32s){g_logprobs, 4};
    t.spans.v = g_spans;
    t.spans.n = 2;
    t.error = (rlf_slice){"a\0b", 3};
    return t;
}

static void trajectory_comes_back_bit_for_bit(void **state) {
    (void)state;
    rlf_trajectory in = sample_trajectory(), out;
    rlf_str bytes = {0}, again = {0};
    rlf_arena arena = {0};
    rlf_message_encode(RLF_MSG_TRAJECTORY, &in, &bytes);
    assert_ok(rlf_message_decode(RLF_MSG_TRAJECTORY, bytes.ptr, bytes.len, 2, &arena, &out));
    assert_int_equal(out.uid, in.uid);
    assert_int_equal(out.version, -1);
    assert_int_equal(out.tokens.n, 4);
    assert_memory_equal(out.tokens.v, g_tokens, sizeof g_tokens);
    assert_memory_equal(out.logprobs.v, g_logprobs, sizeof g_logprobs);
    assert_int_equal(out.spans.n, 2);
    assert_memory_equal(out.spans.v, g_spans, sizeof g_spans);
    assert_int_equal(out.error.len, 3);
    assert_memory_equal(out.error.ptr, "a\0b", 4);
    assert_int_equal(out.turns.n, 0);
    rlf_message_encode(RLF_MSG_TRAJECTORY, &out, &again);
    assert_int_equal(again.len, bytes.len);
    assert_memory_equal(again.ptr, bytes.ptr, bytes.len);
    rlf_str_clean_up(&bytes);
    rlf_str_clean_up(&again);
    rlf_arena_clean_up(&arena);
}

/* Each message type, zeroed: encodes, decodes, and encodes to the same bytes. */
static void every_empty_message_round_trips(void **state) {
    (void)state;
    for (int type = 0; type < RLF_MSG_COUNT; type++) {
        union { rlf_episode a; rlf_trajectory b; rlf_batch c; rlf_score d; rlf_call e; rlf_observation f; char bytes[1024]; } in, out;
        memset(&in, 0, sizeof in);
        rlf_str bytes = {0}, again = {0};
        rlf_arena arena = {0};
        rlf_message_encode((rlf_message_type)type, &in, &bytes);
        assert_ok(rlf_message_decode((rlf_message_type)type, bytes.ptr, bytes.len, 0, &arena, &out));
        rlf_message_encode((rlf_message_type)type, &out, &again);
        assert_int_equal(again.len, bytes.len);
        assert_memory_equal(again.ptr, bytes.ptr, bytes.len);
        rlf_str_clean_up(&bytes);
        rlf_str_clean_up(&again);
        rlf_arena_clean_up(&arena);
    }
}

static rlf_status decode_close(const char *bytes, size_t n) {
    rlf_arena arena = {0};
    rlf_close out;
    rlf_status status = rlf_message_decode(RLF_MSG_CLOSE, bytes, n, 5, &arena, &out);
    rlf_arena_clean_up(&arena);
    return status;
}

static void unknown_keys_are_ignored(void **state) {
    (void)state;
    assert_ok(decode_close("\x84\xa1u\x01\xa1s\x02\xa1z\xc0\xa1""a\x00", 13));
}

static void missing_key_names_key_message_and_rank(void **state) {
    (void)state;
    assert_error(decode_close("\x82\xa1u\x01\xa1s\x02", 7), RLF_PROTOCOL, "'a'");
    assert_non_null(strstr(rlf_error_message(), "CLOSE"));
    assert_non_null(strstr(rlf_error_message(), "rank 5"));
}

static void wrong_types_are_rejected(void **state) {
    (void)state;
    assert_int_equal(decode_close("\x83\xa1u\xc0\xa1s\x02\xa1""a\x00", 10), RLF_PROTOCOL);
    assert_int_equal(decode_close("\x83\xa1u\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa1s\x02\xa1""a\x00", 18), RLF_PROTOCOL);
    assert_int_equal(decode_close("\x01", 1), RLF_PROTOCOL);
    assert_int_equal(decode_close("", 0), RLF_PROTOCOL);
}

static void huge_counts_are_rejected_before_allocation(void **state) {
    (void)state;
    assert_int_equal(decode_close("\xdd\xff\xff\xff\xff", 5), RLF_PROTOCOL);
    assert_int_equal(decode_close("\xdf\xff\xff\xff\xff", 5), RLF_PROTOCOL);
    assert_int_equal(decode_close("\xc6\xff\xff\xff\xff", 5), RLF_PROTOCOL);
    char deep[64];
    memset(deep, '\x91', sizeof deep);
    assert_int_equal(decode_close(deep, sizeof deep), RLF_PROTOCOL);
}

static void trailing_bytes_are_rejected(void **state) {
    (void)state;
    assert_int_equal(decode_close("\x83\xa1u\x01\xa1s\x02\xa1""a\x00\x00", 11), RLF_PROTOCOL);
}

/* Every cut of a real message, and 20000 with bytes changed: an answer, never a crash (run under the address sanitizer). */
static void cut_and_changed_messages_never_crash(void **state) {
    (void)state;
    rlf_trajectory in = sample_trajectory(), out;
    rlf_str bytes = {0};
    rlf_arena arena = {0};
    rlf_message_encode(RLF_MSG_TRAJECTORY, &in, &bytes);
    for (size_t n = 0; n < bytes.len; n++)
        assert_int_equal(rlf_message_decode(RLF_MSG_TRAJECTORY, bytes.ptr, n, 0, &arena, &out), RLF_PROTOCOL);
    char *copy = malloc(bytes.len);
    for (uint32_t i = 0; i < 20000; i++) {
        memcpy(copy, bytes.ptr, bytes.len);
        for (uint32_t k = 0; k < 1 + i % 4; k++) {
            uint64_t r = rlf_rng_below(1, RLF_RNG_TEST, i, k, 0, bytes.len * 256);
            copy[r / 256] = (char)(r % 256);
        }
        rlf_status status = rlf_message_decode(RLF_MSG_TRAJECTORY, copy, bytes.len, 0, &arena, &out);
        assert_true(status == RLF_OK || status == RLF_PROTOCOL);
        rlf_arena_reset(&arena);
    }
    free(copy);
    rlf_str_clean_up(&bytes);
    rlf_arena_clean_up(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trajectory_comes_back_bit_for_bit),
        cmocka_unit_test(every_empty_message_round_trips),
        cmocka_unit_test(unknown_keys_are_ignored),
        cmocka_unit_test(missing_key_names_key_message_and_rank),
        cmocka_unit_test(wrong_types_are_rejected),
        cmocka_unit_test(huge_counts_are_rejected_before_allocation),
        cmocka_unit_test(trailing_bytes_are_rejected),
        cmocka_unit_test(cut_and_changed_messages_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
