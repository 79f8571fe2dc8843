/* Caches and recorded traffic, by hand. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "toolsvc/cache.h"
#include "toolsvc/map.h"
#include "toolsvc/traffic.h"

static char g_folder[] = "/tmp/rlf-traffic-XXXXXX";
static char g_path[64];

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(g_folder) ? 0 : -1;
}

static const char *in_folder(const char *name) {
    snprintf(g_path, sizeof g_path, "%s/%s", g_folder, name);
    return g_path;
}

static void remove_recordings(void) {
    unlink(in_folder("rank_1.jsonl"));
    unlink(in_folder("rank_2.jsonl"));
}

static void remove_cache(void) {
    unlink(in_folder("cache"));
    unlink(in_folder("cache-wal"));
    unlink(in_folder("cache-shm"));
}

static int remove_folder(void **state) {
    (void)state;
    remove_recordings();
    remove_cache();
    unlink(in_folder("other"));
    return rmdir(g_folder);
}

/* ---- cache --------------------------------------------------------------------------------------------------------------------------- */

static void put(toolsvc_cache *c, const char *function, const char *arguments, int64_t now_s, const char *text) {
    rlf_str answer = {0};
    rlf_str_puts(&answer, text);
    toolsvc_cache_put(c, function, rlf_slice_of(arguments), now_s, &answer);
    rlf_str_clean_up(&answer);
}

/* The answer, "-" if there is none; static. */
static const char *get(toolsvc_cache *c, const char *function, const char *arguments, int64_t now_s) {
    static char text[64];
    rlf_str out = {0};
    snprintf(text, sizeof text, "%s", toolsvc_cache_get(c, function, rlf_slice_of(arguments), now_s, &out) ? out.ptr : "-");
    rlf_str_clean_up(&out);
    return text;
}

static void memory_keeps_what_was_used_last(void **state) {
    (void)state;
    rlf_tool_config config = {.cache_entries = 2};
    toolsvc_cache *c;
    assert_ok(toolsvc_cache_open(&c, &config));
    assert_string_equal(get(c, "f", "{}", 0), "-");
    put(c, "f", "1", 0, "one");
    put(c, "f", "2", 0, "two");
    assert_string_equal(get(c, "f", "1", 0), "one");
    assert_string_equal(get(c, "g", "1", 0), "-"); /* another function */
    put(c, "f", "3", 0, "three");
    assert_string_equal(get(c, "f", "2", 0), "-");
    assert_string_equal(get(c, "f", "1", 0), "one");
    put(c, "f", "1", 0, "uno");
    assert_string_equal(get(c, "f", "1", 0), "uno");
    assert_string_equal(get(c, "f", "3", 0), "three");
    toolsvc_cache_close(c);
}

static void old_answers_are_asked_for_again(void **state) {
    (void)state;
    rlf_tool_config config = {.cache_entries = 8, .cache_ttl_s = 10};
    toolsvc_cache *c;
    assert_ok(toolsvc_cache_open(&c, &config));
    put(c, "f", "1", 100, "one");
    assert_string_equal(get(c, "f", "1", 110), "one");
    assert_string_equal(get(c, "f", "1", 111), "-");
    assert_string_equal(get(c, "f", "1", 105), "-"); /* it is gone */
    toolsvc_cache_close(c);
}

static void disk_outlives_the_run_and_knows_versions(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "%s", in_folder("cache"));
    rlf_tool_config config = {.cache_path = path, .cache_disk_entries = 100, .cache_ttl_s = 10, .cache_version = (char *)"1"};
    toolsvc_cache *c;
    for (int entries = 0; entries < 2; entries++) {
        config.cache_entries = entries;
        assert_ok(toolsvc_cache_open(&c, &config));
        if (entries == 0) put(c, "f", "1", 100, "one");
        assert_string_equal(get(c, "f", "1", 101), "one");
        assert_string_equal(get(c, "f", "1", 102), "one");
        assert_string_equal(get(c, "f", "1", 111), "-");
        toolsvc_cache_close(c);
    }
    config.cache_version = (char *)"2";
    assert_ok(toolsvc_cache_open(&c, &config));
    assert_string_equal(get(c, "f", "1", 101), "-");
    for (int i = 0; i < 1024; i++) {
        char arguments[16];
        snprintf(arguments, sizeof arguments, "%d", i);
        put(c, "f", arguments, 101, "x");
    }
    assert_string_equal(get(c, "f", "1023", 101), "x");
    assert_string_equal(get(c, "f", "924", 101), "x");
    assert_string_equal(get(c, "f", "923", 101), "-"); /* the newest hundred */
    toolsvc_cache_close(c);
    char other[64];
    snprintf(other, sizeof other, "%s", in_folder("other"));
    FILE *f = fopen(other, "wb");
    fputs("this is no database, but it is somebody's file", f);
    fclose(f);
    config.cache_path = other;
    assert_int_not_equal(toolsvc_cache_open(&c, &config), RLF_OK);
    assert_non_null(strstr(rlf_error_message(), "key \"cache.path\""));
}

/* Ranks open a new file at once; each is let in, writes, and reads what it wrote. */
static void ranks_may_make_the_file_at_once(void **state) {
    (void)state;
    enum { ROUNDS = 40, RANKS = 6 };
    char path[64];
    snprintf(path, sizeof path, "%s", in_folder("cache"));
    rlf_tool_config config = {.cache_path = path, .cache_disk_entries = 100};
    for (int round = 0; round < ROUNDS; round++) {
        remove_cache();
        int start[2], failed = 0;
        pid_t ranks[RANKS];
        assert_int_equal(pipe(start), 0);
        for (int i = 0; i < RANKS; i++) {
            ranks[i] = fork();
            if (ranks[i] != 0) continue;
            char none, name[2] = {(char)('a' + i), '\0'};
            close(start[1]);
            if (read(start[0], &none, 1) != 0) _exit(2); /* all begin when the other end is closed */
            toolsvc_cache *c;
            if (toolsvc_cache_open(&c, &config) != RLF_OK) {
                fprintf(stderr, "%s\n", rlf_error_message());
                _exit(1);
            }
            put(c, "f", name, 0, name);
            bool right = strcmp(get(c, "f", name, 0), name) == 0;
            toolsvc_cache_close(c);
            _exit(right ? 0 : 1);
        }
        close(start[0]);
        close(start[1]);
        for (int i = 0; i < RANKS; i++) {
            int how = -1;
            assert_int_equal(waitpid(ranks[i], &how, 0), ranks[i]);
            failed += how != 0;
        }
        assert_int_equal(failed, 0);
    }
}

static void map_finds_what_was_put(void **state) {
    (void)state;
    enum { N = 5000 };
    static int values[N];
    toolsvc_map map = {0};
    char key[16];
    for (int i = 0; i < N; i++) toolsvc_map_put(&map, (rlf_slice){key, (size_t)snprintf(key, sizeof key, "k%d", i)}, &values[i]);
    assert_int_equal(map.n, N);
    for (int i = 0; i < N; i += 2)
        assert_ptr_equal(toolsvc_map_remove(&map, (rlf_slice){key, (size_t)snprintf(key, sizeof key, "k%d", i)}), &values[i]);
    for (int i = 0; i < N; i++)
        assert_ptr_equal(toolsvc_map_get(&map, (rlf_slice){key, (size_t)snprintf(key, sizeof key, "k%d", i)}), i % 2 ? &values[i] : NULL);
    toolsvc_map_clean_up(&map, NULL);
    assert_null(toolsvc_map_get(&map, rlf_slice_of("k1")));
}

/* ---- traffic ------------------------------------------------------------------------------------------------------------------------- */

static rlf_call call_of(int64_t uid, const char *arguments) {
    return (rlf_call){.uid = uid, .sample = 1, .attempt = 0, .turn = 2, .call = 3, .tool = rlf_slice_of("calc"),
                      .arguments = rlf_slice_of(arguments)};
}

static void note(toolsvc_traffic *t, int64_t version, int64_t uid, const char *arguments, rlf_call_status status, const char *text) {
    rlf_call m = call_of(uid, arguments);
    rlf_str answer = {0};
    rlf_str_puts(&answer, text);
    assert_int_equal(toolsvc_traffic_note(t, version, &m, status, &answer), RLF_OK);
    rlf_str_clean_up(&answer);
}

static void expect(const toolsvc_traffic *t, int64_t version, int64_t uid, const char *arguments, rlf_call_status status, const char *wanted) {
    rlf_call m = call_of(uid, arguments);
    rlf_call_status found;
    const rlf_str *text;
    assert_true(toolsvc_traffic_find(t, version, &m, &found, &text));
    assert_int_equal(found, status);
    assert_string_equal(text->ptr, wanted);
}

/* A job with one tool, a calculator, and its open tools; recordings are in g_folder. */
typedef struct job {
    rlf_tool_config tool;
    rlf_config config;
    toolsvc_tools tools;
    uv_loop_t loop;
} job;

static void job_open(job *j) {
    j->tool = (rlf_tool_config){.name = (char *)"calc", .kind = (char *)"calculator", .timeout_ms = 1000, .concurrency = 1};
    j->config = (rlf_config){.tools = &j->tool, .n_tools = 1};
    assert_int_equal(uv_loop_init(&j->loop), 0);
    assert_ok(toolsvc_tools_init(&j->tools, &j->loop, &j->config, NULL));
}

static void job_close(job *j) {
    toolsvc_tools_clean_up(&j->tools);
    assert_int_equal(uv_loop_close(&j->loop), 0);
    remove_recordings();
}

static toolsvc_traffic *record(job *j, int rank) {
    toolsvc_traffic *t;
    j->config.traffic.record = g_folder, j->config.traffic.replay = NULL;
    assert_ok(toolsvc_traffic_open(&t, &j->config, rank, &j->tools));
    return t;
}

static toolsvc_traffic *replay(job *j) {
    toolsvc_traffic *t;
    j->config.traffic.record = NULL, j->config.traffic.replay = g_folder;
    assert_ok(toolsvc_traffic_open(&t, &j->config, 1, &j->tools));
    assert_true(toolsvc_traffic_replays(t));
    return t;
}

static void append(const char *name, const char *text) {
    FILE *f = fopen(in_folder(name), "ab");
    fputs(text, f);
    fclose(f);
}

static const char sum[] = "{\"expression\": \"1\"}";

static void recorded_calls_are_found_again(void **state) {
    (void)state;
    job j;
    toolsvc_traffic *t;
    job_open(&j);
    assert_ok(toolsvc_traffic_open(&t, &j.config, 1, &j.tools));
    assert_null(t); /* not asked for */
    for (int rank = 1; rank < 3; rank++) {
        t = record(&j, rank);
        note(t, 5, rank, sum, RLF_CALL_OK, "1 \"quoted\"\n\xc3\xa4");
        note(t, 6, rank, sum, RLF_CALL_TIMEOUT, "error: late");
        note(t, 5, rank, "not even JSON", RLF_CALL_TOOL_ERROR, "");
        assert_ok(toolsvc_traffic_close(t));
    }
    toolsvc_tools_clean_up(&j.tools);
    j.config.traffic.record = NULL, j.config.traffic.replay = g_folder;
    j.tool.kind = (char *)"index", j.tool.path = (char *)"/nonexistent"; /* is not opened */
    assert_ok(toolsvc_tools_init(&j.tools, &j.loop, &j.config, NULL));
    assert_int_equal(j.tools.n_functions, 1);
    assert_string_equal(j.tools.functions[0].name, "calc");
    assert_non_null(json_object_get(json_object_get(j.tools.functions[0].parameters, "properties"), "expression"));
    t = replay(&j);
    for (int uid = 1; uid < 3; uid++) {
        for (int again = 0; again < 2; again++) expect(t, 5, uid, sum, RLF_CALL_OK, "1 \"quoted\"\n\xc3\xa4");
        expect(t, 6, uid, sum, RLF_CALL_TIMEOUT, "error: late");
        expect(t, 5, uid, "not even JSON", RLF_CALL_TOOL_ERROR, "");
    }
    rlf_call other = call_of(3, sum);
    rlf_call_status status;
    const rlf_str *text;
    assert_false(toolsvc_traffic_find(t, 5, &other, &status, &text));
    other = call_of(1, sum);
    assert_false(toolsvc_traffic_find(t, 7, &other, &status, &text));
    assert_ok(toolsvc_traffic_close(t));
    append("rank_2.jsonl", "{\"uid\": 1}\n");
    assert_error(toolsvc_traffic_open(&t, &j.config, 1, &j.tools), RLF_INVALID, "rank_2.jsonl:5: not a recorded call");
    job_close(&j);
}

static void a_killed_recording_loses_nothing_but_the_line_it_was_at(void **state) {
    (void)state;
    job j;
    job_open(&j);
    toolsvc_traffic *t = record(&j, 1);
    note(t, 1, 1, sum, RLF_CALL_OK, "one");
    toolsvc_traffic *killed = t; /* what was noted is in the file while the run goes on */
    append("rank_1.jsonl", "{\"version\": 1, \"uid\": 2, \"sam");
    t = replay(&j);
    expect(t, 1, 1, sum, RLF_CALL_OK, "one");
    assert_ok(toolsvc_traffic_close(t));
    assert_ok(toolsvc_traffic_close(killed));

    t = record(&j, 1);
    note(t, 1, 2, sum, RLF_CALL_OK, "two");
    assert_ok(toolsvc_traffic_close(t));
    t = replay(&j);
    expect(t, 1, 1, sum, RLF_CALL_OK, "one");
    expect(t, 1, 2, sum, RLF_CALL_OK, "two");
    assert_ok(toolsvc_traffic_close(t));
    job_close(&j);
}

/* The order of files and of tool ranks does not matter, only which run came later. */
static void a_resumed_run_has_the_last_word(void **state) {
    (void)state;
    job j;
    job_open(&j);
    append("rank_1.jsonl", "{\"started_ms\": 2000, \"functions\": []}\n");
    append("rank_2.jsonl", "{\"started_ms\": 1000, \"functions\": []}\n");
    static const char line[] = "{\"version\": 1, \"uid\": %d, \"sample\": 1, \"attempt\": 0, \"turn\": 2, \"call\": 3, \"function\": \"calc\", "
                               "\"arguments\": \"{}\", \"status\": \"ok\", \"text\": \"%s\"}\n";
    char text[400];
    snprintf(text, sizeof text, line, 1, "second"), append("rank_1.jsonl", text);
    snprintf(text, sizeof text, line, 1, "first"), append("rank_2.jsonl", text);
    snprintf(text, sizeof text, line, 2, "first"), append("rank_2.jsonl", text);
    append("rank_2.jsonl", "{\"started_ms\": 3000, \"functions\": []}\n");
    snprintf(text, sizeof text, line, 2, "third"), append("rank_2.jsonl", text);
    toolsvc_traffic *t = replay(&j);
    expect(t, 1, 1, "{}", RLF_CALL_OK, "second");
    expect(t, 1, 2, "{}", RLF_CALL_OK, "third");
    assert_ok(toolsvc_traffic_close(t));
    job_close(&j);
}

int main(void) {
    rlf_log_init(-1, "test", RLF_LOG_ERROR + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_keeps_what_was_used_last),
        cmocka_unit_test(old_answers_are_asked_for_again),
        cmocka_unit_test(disk_outlives_the_run_and_knows_versions),
        cmocka_unit_test(ranks_may_make_the_file_at_once),
        cmocka_unit_test(map_finds_what_was_put),
        cmocka_unit_test(recorded_calls_are_found_again),
        cmocka_unit_test(a_killed_recording_loses_nothing_but_the_line_it_was_at),
        cmocka_unit_test(a_resumed_run_has_the_last_word),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
