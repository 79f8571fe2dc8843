/* metrics.jsonl is cut to the checkpoint on resume; event files are framed as TensorBoard reads them. */
#include "tests/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/files.h"
#include "trainer/metrics.h"

static int make_folder(void **state) {
    char path[] = "/tmp/rlf-metrics-XXXXXX";
    if (!mkdtemp(path)) return -1;
    *state = rlf_strdup(path);
    return 0;
}

static int remove_folder(void **state) {
    int failed = trainer_remove_tree(*state) != RLF_OK;
    free(*state);
    return failed;
}

/* What is kept of the text at a start from step 2, up to `cut`; the last line of it is of that second. */
static void assert_kept(const char *text, bool evaluated, const char *cut, double last) {
    rlf_str out = {0};
    trainer_metrics_kept kept;
    trainer_metrics_cut(text, strlen(text), 2, evaluated, &out, &kept);
    assert_int_equal(out.len, strstr(text, cut) - text);
    assert_memory_equal(out.ptr, text, out.len);
    assert_int_equal(kept.steps, 2);
    assert_int_equal(kept.unreadable, 0);
    assert_true(kept.elapsed_s == last);
    rlf_str_clean_up(&out);
}

static void lines_after_the_checkpoint_are_cut(void **state) {
    (void)state;
    assert_kept("{\"step\":1,\"elapsed_s\":1.5}\n{\"step\":2,\"elapsed_s\":2.5}\n{\"step\":2,\"eval\":{},\"elapsed_s\":2.75}\n{\"step\":3,\"elapsed_s\":9}\n",
                true, "{\"step\":3", 2.75);
}

static void evaluation_that_the_checkpoint_lacks_is_cut(void **state) {
    (void)state;
    assert_kept("{\"step\":1,\"elapsed_s\":1.5}\n{\"step\":1,\"eval\":{},\"elapsed_s\":1.75}\n{\"step\":2,\"elapsed_s\":2.5}\n"
                "{\"step\":2,\"eval\":{},\"elapsed_s\":2.75}\n",
                false, "{\"step\":2,\"eval", 2.5);
}

static void line_broken_off_by_a_kill_is_cut(void **state) {
    (void)state;
    static const char *const broken[] = {"{\"step\":1}\n{\"step\":2,\"lo", "{\"step\":1}\n{\"step\":2}"};
    for (int i = 0; i < 2; i++) {
        rlf_str out = {0};
        trainer_metrics_kept kept;
        trainer_metrics_cut(broken[i], strlen(broken[i]), 5, true, &out, &kept);
        assert_string_equal(out.ptr, "{\"step\":1}\n");
        assert_int_equal(kept.unreadable, 0);
        rlf_str_clean_up(&out);
    }
}

/* A block of zeros, as a power failure may leave. */
static void damaged_line_takes_no_other_with_it(void **state) {
    (void)state;
    static const char text[] = "{\"step\":1}\n{\"step\":2,\"lo\0\0\0\0}\n{\"step\":3,\"eval\":{}}\n{\"step\":4}\n";
    rlf_str out = {0};
    trainer_metrics_kept kept;
    trainer_metrics_cut(text, sizeof text - 1, 5, true, &out, &kept);
    assert_string_equal(out.ptr, "{\"step\":1}\n{\"step\":3,\"eval\":{}}\n{\"step\":4}\n");
    assert_int_equal(kept.unreadable, 1);
    assert_int_equal(kept.steps, 2);
    rlf_str_clean_up(&out);
}

static void write_steps(const char *folder, int64_t start, int64_t end) {
    trainer_metrics metrics;
    assert_ok(trainer_metrics_open(&metrics, folder, start, true));
    for (int64_t step = start + 1; step <= end; step++) {
        json_t *object = json_pack("{s:I, s:{s:f}}", "step", (json_int_t)step, "finish", "answer", 0.5);
        trainer_put_real(object, "loss", step == 2 ? (double)NAN : 1.0 / (double)step);
        assert_ok(trainer_metrics_write(&metrics, step, object));
    }
    trainer_metrics_close(&metrics);
}

static void resumed_run_leaves_every_step_once(void **state) {
    rlf_str path = {0}, text = {0};
    rlf_str_printf(&path, "%s/metrics.jsonl", (char *)*state);
    write_steps(*state, 0, 5);
    write_steps(*state, 3, 6);
    assert_ok(rlf_str_read_file(&text, path.ptr, 1 << 20));
    int64_t step = 0;
    for (const char *line = text.ptr; *line; line = strchr(line, '\n') + 1) {
        json_t *object = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);
        assert_int_equal(json_integer_value(json_object_get(object, "step")), ++step);
        assert_true(json_is_null(json_object_get(object, "loss")) == (step == 2));
        json_decref(object);
    }
    assert_int_equal(step, 6);
    rlf_str_clean_up(&path);
    rlf_str_clean_up(&text);
}

/* RFC 3720, B.4. */
static void crc_matches_the_published_values(void **state) {
    (void)state;
    unsigned char bytes[32] = {0};
    assert_int_equal(trainer_crc32c(bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(trainer_crc32c(bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    assert_int_equal(trainer_crc32c(bytes, 32), 0x46dd794e);
    assert_int_equal(trainer_crc32c("123456789", 9), 0xe3069283);
}

static uint32_t masked(const void *bytes, size_t n) {
    uint32_t crc = trainer_crc32c(bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* The data of record i of a file; checks the frame of every record up to it. */
static const char *record(const rlf_str *file, int i, size_t *n) {
    size_t at = 0;
    for (;; i--) {
        uint64_t length;
        uint32_t crc;
        assert_true(at + 16 <= file->len);
        memcpy(&length, file->ptr + at, 8);
        memcpy(&crc, file->ptr + at + 8, 4);
        assert_int_equal(crc, masked(&length, 8));
        assert_true(at + 16 + length <= file->len);
        memcpy(&crc, file->ptr + at + 12 + length, 4);
        assert_int_equal(crc, masked(file->ptr + at + 12, length));
        *n = length;
        if (i == 0) return file->ptr + at + 12;
        at += 16 + length;
    }
}

static void event_file_holds_framed_scalars(void **state) {
    trainer_events events;
    rlf_str file = {0};
    size_t n;
    assert_ok(trainer_events_open(&events, *state, 300));
    trainer_events_add(&events, "loss", 0.5);
    assert_ok(trainer_events_flush(&events, 300));
    assert_ok(rlf_str_read_file(&file, events.path, 1 << 20));
    trainer_events_close(&events);
    const char *version = record(&file, 0, &n);
    assert_memory_equal(version + 9, "\x1a\x0d" "brain.Event:2", 15); /* behind the wall time */
    const char *start = record(&file, 1, &n);
    assert_memory_equal(start + 9, "\x10\xac\x02\x3a\x02\x08\x01", 7); /* step 300, session_log {status: START} */
    const char *scalar = record(&file, 2, &n);
    assert_int_equal(n, 9 + 3 + 15);
    assert_memory_equal(scalar + 9, "\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f", 18);
    rlf_str_clean_up(&file);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_after_the_checkpoint_are_cut),
        cmocka_unit_test(evaluation_that_the_checkpoint_lacks_is_cut),
        cmocka_unit_test(line_broken_off_by_a_kill_is_cut),
        cmocka_unit_test(damaged_line_takes_no_other_with_it),
        IN_FOLDER(resumed_run_leaves_every_step_once),
        cmocka_unit_test(crc_matches_the_published_values),
        IN_FOLDER(event_file_holds_framed_scalars),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
