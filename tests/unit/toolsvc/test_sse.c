/* The parser of server-sent events: the whole text at once and one byte at a time give the same events. */
#include "tests/test.h"

#include <string.h>

#include "toolsvc/http/sse.h"

typedef struct seen {
    rlf_str text; /* "type=data|" for each event */
    size_t bytes; /* of the last one's data */
    int left;     /* events until the parsing is told to stop; 0: never */
} seen;

static bool note(void *user, const char *type, rlf_slice data) {
    seen *s = user;
    s->bytes = data.len;
    rlf_str_printf(&s->text, "%s=%.*s|", type, (int)data.len, data.ptr);
    return s->left == 0 || --s->left > 0;
}

static void expect_pieces(const char *stream, size_t n, size_t piece, const char *wanted) {
    toolsvc_sse sse = {.max_bytes = 1000};
    seen s = {0};
    for (size_t at = 0; at < n; at += piece) assert_true(toolsvc_sse_feed(&sse, stream + at, at + piece < n ? piece : n - at, note, &s));
    assert_string_equal(s.text.ptr ? s.text.ptr : "", wanted);
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
}

static void expect_bytes(const char *stream, size_t n, const char *wanted) {
    for (size_t piece = 1; piece <= n; piece++) expect_pieces(stream, n, piece, wanted);
}

static void expect(const char *stream, const char *wanted) { expect_bytes(stream, strlen(stream), wanted); }

static void an_empty_line_ends_an_event(void **state) {
    (void)state;
    expect("data: a\n\ndata: b\n\n", "=a|=b|");
    expect("event: message\ndata: {\"x\": 1}\n\n", "message={\"x\": 1}|");
    expect("event: endpoint\nevent: other\ndata: /m\n\ndata: y\n\n", "other=/m|=y|");
}

static void lines_end_in_three_ways(void **state) {
    (void)state;
    expect("data: a\r\n\r\ndata: b\r\rdata: c\n\n", "=a|=b|=c|");
    expect("event: x\r\ndata: a\rdata: b\ndata: c\r\n\r\n", "x=a\nb\nc|");
}

static void several_data_lines_make_one_text(void **state) {
    (void)state;
    expect("data: a\ndata\ndata:  b\ndata:\n\n", "=a\n\n b\n|");
    expect("data\n\n", "=|");
}

static void comments_unknown_fields_and_events_without_data_are_skipped(void **state) {
    (void)state;
    expect(": ping\n\n:\n\nid: 7\nretry: 20\nnothing\nDATA: x\n\n", "");
    expect("event: lost\n\ndata: x\n\n", "=x|");
    expect("data:a\nid: 1\n: c\n\n", "=a|");
}

static void what_no_empty_line_ends_is_no_event(void **state) {
    (void)state;
    expect("data: a\n\ndata: b\n", "=a|");
    expect("data: a\n\ndata: b", "=a|");
}

static void characters_may_be_split_and_a_byte_order_mark_is_skipped(void **state) {
    (void)state;
    expect("\xef\xbb\xbf" "data: \xe2\x82\xac\xf0\x9f\x98\x80\n\n", "=\xe2\x82\xac\xf0\x9f\x98\x80|");
    expect("data: a\n\n\xef\xbb\xbf" "data: b\n\n", "=a|");
}

static void nul_bytes_are_kept(void **state) {
    (void)state;
    toolsvc_sse sse = {.max_bytes = 100};
    seen s = {0};
    assert_true(toolsvc_sse_feed(&sse, "data: a\0b\n\nda\0ta: c\n\n", 22, note, &s));
    assert_string_equal(s.text.ptr, "=a|");
    assert_int_equal(s.bytes, 3);
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
}

static int64_t retry_of(const char *stream) {
    toolsvc_sse sse = {.max_bytes = 100};
    seen s = {0};
    assert_true(toolsvc_sse_feed(&sse, stream, strlen(stream), note, &s));
    int64_t retry_ms = sse.retry_ms;
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
    return retry_ms;
}

static void retry_is_a_number_or_nothing(void **state) {
    (void)state;
    assert_int_equal(retry_of("retry: 2500\n"), 2500);
    assert_int_equal(retry_of("retry: 2500\nretry: x\nretry: -1\nretry:\nretry: 99999999999\n"), 2500);
}

static void expect_id(const char *stream, const char *again, const char *wanted) {
    toolsvc_sse sse = {.max_bytes = 100};
    seen s = {0};
    assert_true(toolsvc_sse_feed(&sse, stream, strlen(stream), note, &s));
    toolsvc_sse_restart(&sse);
    assert_true(toolsvc_sse_feed(&sse, again, strlen(again), note, &s));
    assert_string_equal(sse.id.ptr ? sse.id.ptr : "", wanted);
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
}

static void the_id_is_that_of_the_last_event_that_is_over(void **state) {
    (void)state;
    expect_id("id: a\ndata: x\n\ndata: y\n\n", "", "a");
    expect_id("id: a\n\nid: b\ndata: y\n", "\n", "a");
    expect_id("id: a\ndata:\n\n", "id: b\n\n", "b");
    expect_id("id: a\n\nid:\n\n", "", "");
}

static void what_a_broken_connection_left_is_dropped(void **state) {
    (void)state;
    toolsvc_sse sse = {.max_bytes = 100};
    seen s = {0};
    assert_true(toolsvc_sse_feed(&sse, "event: e\ndata: half\ndat", 23, note, &s));
    toolsvc_sse_restart(&sse);
    assert_true(toolsvc_sse_feed(&sse, "data: x\n\n", 9, note, &s));
    assert_string_equal(s.text.ptr, "=x|");
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
}

static void a_line_or_an_event_beyond_the_limit_is_refused(void **state) {
    (void)state;
    char line[200];
    memset(line, 'x', sizeof line);
    for (int many = 0; many < 2; many++) {
        toolsvc_sse sse = {.max_bytes = 100};
        seen s = {0};
        bool good = true;
        for (int i = 0; good && i < 10; i++)
            good = many ? toolsvc_sse_feed(&sse, "data: 0123456789012345\n", 23, note, &s) : toolsvc_sse_feed(&sse, line, 20, note, &s);
        assert_false(good);
        assert_true(sse.line.len <= 100 && sse.data.len <= 100);
        toolsvc_sse_clean_up(&sse);
    }
}

static void the_reader_may_stop_and_free_the_parser(void **state) {
    (void)state;
    toolsvc_sse sse = {.max_bytes = 100};
    seen s = {.left = 1};
    assert_true(toolsvc_sse_feed(&sse, "data: a\n\ndata: b\n\n", 18, note, &s));
    assert_string_equal(s.text.ptr, "=a|");
    rlf_str_clean_up(&s.text);
    toolsvc_sse_clean_up(&sse);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_line_ends_an_event),
        cmocka_unit_test(lines_end_in_three_ways),
        cmocka_unit_test(several_data_lines_make_one_text),
        cmocka_unit_test(comments_unknown_fields_and_events_without_data_are_skipped),
        cmocka_unit_test(what_no_empty_line_ends_is_no_event),
        cmocka_unit_test(characters_may_be_split_and_a_byte_order_mark_is_skipped),
        cmocka_unit_test(nul_bytes_are_kept),
        cmocka_unit_test(retry_is_a_number_or_nothing),
        cmocka_unit_test(the_id_is_that_of_the_last_event_that_is_over),
        cmocka_unit_test(what_a_broken_connection_left_is_dropped),
        cmocka_unit_test(a_line_or_an_event_beyond_the_limit_is_refused),
        cmocka_unit_test(the_reader_may_stop_and_free_the_parser),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
