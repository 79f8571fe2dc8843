/* Trajectories as JSON lines (trajectories.h). Written by hand: a step has hundreds of thousands of numbers, and a tree of them would
 * cost more than the file. */
#include "trainer/trajectories.h"

#include <math.h>
#include <string.h>

/* Bytes of the well-formed UTF-8 character at p (RFC 3629), 0 if there is none. */
static size_t utf8_length(const unsigned char *p, size_t n) {
    size_t length = p[0] < 0x80 ? 1 : p[0] >= 0xC2 && p[0] < 0xE0 ? 2 : p[0] >= 0xE0 && p[0] < 0xF0 ? 3 : p[0] >= 0xF0 &&
        p[0] < 0xF5 ? 4 : 0;
    if (length == 0 || length > n) return 0;
    for (size_t i = 1; i < length; i++)
        if ((p[i] & 0xC0) != 0x80) return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) || (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
        return 0;
    return length;
}

static void put_escaped(rlf_str *out, unsigned char c) {
    if (c == '"' || c == '\\') rlf_str_printf(out, "\\%c", c);
    else if (c == '\n') rlf_str_puts(out, "\\n");
    else if (c == '\t') rlf_str_puts(out, "\\t");
    else if (c < 0x20 || c == 0x7F) rlf_str_printf(out, "\\u%04x", c);
    else rlf_str_putc(out, (char)c);
}

void trainer_put_json_text(rlf_str *out, const char *text, size_t n) {
    rlf_str_putc(out, '"');
    for (size_t i = 0, length; i < n; i += length) {
        length = utf8_length((const unsigned char *)text + i, n - i);
        if (length == 1) put_escaped(out, (unsigned char)text[i]);
        else if (length > 1) rlf_str_append(out, text + i, length);
        else rlf_str_puts(out, "\xEF\xBF\xBD"), length = 1;
    }
    rlf_str_putc(out, '"');
}

static void put_text(rlf_str *out, const char *key, const char *text, size_t n) {
    rlf_str_printf(out, "\"%s\":", key);
    trainer_put_json_text(out, text, n);
    rlf_str_putc(out, ',');
}

static void put_slice(rlf_str *out, const char *key, rlf_slice text) { put_text(out, key, text.ptr, text.len); }

static void put_real(rlf_str *out, const char *key, double value) {
    if (isfinite(value)) rlf_str_printf(out, "\"%s\":%.9g,", key, value);
    else rlf_str_printf(out, "\"%s\":null,", key);
}

static void put_integer(rlf_str *out, const char *key, int64_t value) { rlf_str_printf(out, "\"%s\":%lld,", key, (long long)value); }

/* Replaces the comma behind the last member. */
static void close_with(rlf_str *out, const char *end) {
    if (out->len > 0 && out->ptr[out->len - 1] == ',') out->ptr[--out->len] = '\0';
    rlf_str_puts(out, end);
}

static void put_span(rlf_str *out, const rlf_trajectory *t, const rlf_span *span, const rlf_tokenizer *tokenizer) {
    static const char *const kinds[] = {"prompt", "model", "observation"};
    rlf_str text = {0};
    rlf_tokenizer_decode(tokenizer, t->tokens.v + span->begin, (size_t)(span->end - span->begin), false, &text);
    rlf_str_printf(out, "{\"kind\":\"%s\",", kinds[span->kind]);
    put_integer(out, "turn", span->turn);
    put_integer(out, "version", span->version);
    put_text(out, "text", text.ptr, text.len);
    rlf_str_puts(out, "\"tokens\":[");
    for (int64_t i = span->begin; i < span->end; i++) rlf_str_printf(out, "%d,", t->tokens.v[i]);
    close_with(out, "],");
    if (span->kind == RLF_SPAN_MODEL) {
        rlf_str_puts(out, "\"logprobs\":[");
        for (int64_t i = span->begin; i < span->end; i++) rlf_str_printf(out, "%.9g,", (double)t->logprobs.v[i]);
        close_with(out, "],");
    }
    close_with(out, "},");
    rlf_str_clean_up(&text);
}

static void put_turn(rlf_str *out, const rlf_turn *turn) {
    rlf_str_putc(out, '{');
    put_integer(out, "turn", turn->turn);
    put_integer(out, "call", turn->call);
    put_slice(out, "tool", turn->tool);
    put_slice(out, "arguments", turn->arguments);
    put_slice(out, "status", rlf_slice_of(rlf_call_status_text(turn->status)));
    put_real(out, "latency_ms", turn->latency_ms);
    put_real(out, "reward", turn->reward);
    put_integer(out, "cut", turn->cut);
    put_slice(out, "answer", turn->answer);
    close_with(out, "},");
}

/* The last message of the user. */
static rlf_slice question_of(const rlf_row *row) {
    for (size_t i = row->n_messages; i-- > 0;)
        if (strcmp(row->messages[i].role, "user") == 0) return rlf_slice_of(row->messages[i].content);
    return rlf_slice_of("");
}

static void put_row(rlf_str *out, const rlf_row *row) {
    put_slice(out, "data_source", rlf_slice_of(row->data_source));
    put_slice(out, "id", rlf_slice_of(row->id));
    put_slice(out, "question", question_of(row));
    rlf_str_puts(out, "\"targets\":[");
    for (size_t i = 0; i < row->n_targets; i++) {
        trainer_put_json_text(out, row->targets[i], strlen(row->targets[i]));
        rlf_str_putc(out, ',');
    }
    close_with(out, "],");
}

/* Spans of an episode lost to infrastructure were not checked: only those that lie inside are shown. */
static bool span_is_sound(const rlf_trajectory *t, const rlf_span *span) {
    return span->begin >= 0 && span->begin <= span->end && span->end <= (int64_t)t->tokens.n && t->logprobs.n == t->tokens.n &&
        span->kind >= 0 &&
           span->kind <= RLF_SPAN_OBSERVATION;
}

void trainer_trajectory_line(const rlf_trajectory *t, const rlf_row *row, const rlf_tokenizer *tokenizer,
                             const double *advantage, rlf_str *out) {
    rlf_str_putc(out, '{');
    put_integer(out, "uid", t->uid);
    put_integer(out, "sample", t->sample);
    put_integer(out, "attempt", t->attempt);
    put_integer(out, "version", t->version);
    put_row(out, row);
    put_real(out, "reward", t->reward);
    rlf_str_puts(out, "\"components\":{");
    for (size_t i = 0; i < t->components.n; i++) {
        trainer_put_json_text(out, t->components.v[i].name.ptr, t->components.v[i].name.len);
        rlf_str_printf(out, ":%.9g,", t->components.v[i].value);
    }
    close_with(out, "},");
    put_slice(out, "finish", rlf_slice_of(rlf_finish_text(t->finish)));
    if (t->error.len) put_slice(out, "error", t->error);
    if (advantage) put_real(out, "advantage", *advantage);
    rlf_str_puts(out, "\"spans\":[");
    for (size_t i = 0; i < t->spans.n; i++)
        if (span_is_sound(t, &t->spans.v[i])) put_span(out, t, &t->spans.v[i], tokenizer);
    close_with(out, "],\"turns\":[");
    for (size_t i = 0; i < t->turns.n; i++) put_turn(out, &t->turns.v[i]);
    close_with(out, "],");
    put_real(out, "generate_ms", t->generate_ms);
    put_real(out, "tool_ms", t->tool_ms);
    close_with(out, "}\n");
}
