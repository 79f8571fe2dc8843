/* Rule rewards, see reward.h. The normal form equals that of the reference Python (str.lower, re's \b and \w, str.split) but for
 * the final sigma, which str.lower writes differently at the end of a word. */
#include "toolsvc/reward.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "common/text/toolcall.h"

/* ---- normalisation ----------------------------------------------------------------------------------------------------------------- */

static bool is_space(utf8proc_int32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
        (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* \w of a Python str pattern, less the underscore, which is deleted before. */
static bool is_word(utf8proc_int32_t c) {
    utf8proc_category_t category = utf8proc_category(c);
    return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO) ||
        (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

static bool is_punctuation(utf8proc_int32_t c) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

static void append_code_point(rlf_str *out, utf8proc_int32_t c) {
    utf8proc_uint8_t bytes[4];
    rlf_str_append(out, bytes, (size_t)utf8proc_encode_char(c, bytes));
}

static void append_lower(rlf_str *out, utf8proc_int32_t c) {
    if (c == 0x130) { /* dotted capital I: the one letter whose lower case is two code points */
        rlf_str_puts(out, "i\xcc\x87");
        return;
    }
    append_code_point(out, utf8proc_tolower(c));
}

/* Length of the code point at s, which goes to *c; a byte that is not UTF-8 gives length 1 and *c = -1. */
static size_t code_point(const char *s, size_t n, utf8proc_int32_t *c) {
    utf8proc_ssize_t len = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, c);
    if (len > 0) return (size_t)len;
    *c = -1;
    return 1;
}

static void lower_without_punctuation(const char *text, size_t n, rlf_str *out) {
    utf8proc_int32_t c;
    for (size_t i = 0, len; i < n; i += len) {
        len = code_point(text + i, n - i, &c);
        if (c < 0)
            rlf_str_append(out, text + i, 1);
        else if (!is_punctuation(c))
            append_lower(out, c);
    }
}

/* Length of the run of word characters at s. */
static size_t word_length(const char *s, size_t n) {
    utf8proc_int32_t c;
    size_t at = 0, len;
    for (; at < n; at += len) {
        len = code_point(s + at, n - at, &c);
        if (c < 0 || !is_word(c)) break;
    }
    return at;
}

static bool is_article(const char *s, size_t n) {
    return (n == 1 && s[0] == 'a') || (n == 2 && memcmp(s, "an", 2) == 0) || (n == 3 && memcmp(s, "the", 3) == 0);
}

void toolsvc_reward_normalize(const char *text, size_t n, rlf_str *out) {
    rlf_str lower = {0};
    lower_without_punctuation(text, n, &lower);
    size_t begin = out->len;
    bool gap = false; /* white space or an article since the last character kept */
    for (size_t i = 0, len; i < lower.len; i += len) {
        utf8proc_int32_t c;
        const char *s = lower.ptr + i;
        size_t word = word_length(s, lower.len - i);
        len = word ? word : code_point(s, lower.len - i, &c);
        if (word ? is_article(s, word) : is_space(c)) {
            gap = true;
            continue;
        }
        if (gap && out->len > begin) rlf_str_putc(out, ' ');
        gap = false;
        rlf_str_append(out, s, len);
    }
    rlf_str_clean_up(&lower);
}

/* ---- token F1 ---------------------------------------------------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b) {
    const rlf_slice *x = a, *y = b;
    int order = memcmp(x->ptr, y->ptr, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* The words of a normalised text, sorted. Free the result. */
static rlf_slice *sorted_words(rlf_slice text, size_t *n) {
    rlf_slice *words = NULL;
    size_t cap = 0;
    *n = 0;
    for (size_t begin = 0, end; begin < text.len; begin = end + 1) {
        const char *space = memchr(text.ptr + begin, ' ', text.len - begin);
        end = space ? (size_t)(space - text.ptr) : text.len;
        words = rlf_grow(words, *n, &cap, sizeof *words);
        words[(*n)++] = (rlf_slice){text.ptr + begin, end - begin};
    }
    if (*n) qsort(words, *n, sizeof *words, by_bytes);
    return words;
}

static size_t common_words(const rlf_slice *a, size_t n_a, const rlf_slice *b, size_t n_b) {
    size_t common = 0;
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        int order = by_bytes(&a[i], &b[j]);
        common += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    return common;
}

double toolsvc_reward_f1(rlf_slice answer, rlf_slice target) {
    size_t n_answer, n_target;
    rlf_slice *a = sorted_words(answer, &n_answer), *t = sorted_words(target, &n_target);
    size_t common = common_words(a, n_answer, t, n_target);
    free(a);
    free(t);
    if (n_answer == 0 && n_target == 0) return 1;
    return 2.0 * (double)common / (double)(n_answer + n_target); /* = 2PR / (P + R) */
}

/* ---- components -------------------------------------------------------------------------------------------------------------------- */

/* Appends the text outside <think>…</think>. An unclosed <think> runs to the end; a lone </think> closes one that the prompt opened. */
static void without_thinking(rlf_slice text, rlf_str *out) {
    static const char open[] = "<think>", shut[] = "</think>";
    const char *at = text.ptr, *end = text.ptr + text.len;
    while (at < end) {
        const char *begin = memmem(at, (size_t)(end - at), open, sizeof open - 1),
            *close = memmem(at, (size_t)(end - at), shut, sizeof shut - 1);
        if (close && (!begin || close < begin)) {
            rlf_str_reset(out);
            at = close + sizeof shut - 1;
            continue;
        }
        rlf_str_append(out, at, (size_t)((begin ? begin : end) - at));
        if (!begin || !close) return;
        at = close + sizeof shut - 1;
    }
}

/* Puts the normalised answer into `out`; false: there is none. *tagged: it stood in an <answer> tag of the last turn. */
static bool find_answer(const rlf_config *config, const rlf_score *score, rlf_str *out, bool *tagged) {
    rlf_tool_syntax syntax = {.search = config->episode.search_call, .python = config->episode.python_call};
    if (!rlf_tool_format_parse(config->episode.tool_format, &syntax.format)) syntax.format = RLF_TOOLS_HERMES; /* auto: no format of tags */
    *tagged = false;
    for (size_t i = score->turns.n; i-- > 0;) {
        rlf_slice text = score->turns.v[i].text, answer = rlf_answer_find(&syntax, text.ptr, text.len);
        if (!answer.ptr) continue;
        *tagged = i + 1 == score->turns.n;
        toolsvc_reward_normalize(answer.ptr, answer.len, out);
        return true;
    }
    if (score->turns.n == 0 || score->finish != RLF_FINISH_ANSWER) return false;
    rlf_str plain = {0};
    without_thinking(score->turns.v[score->turns.n - 1].text, &plain);
    toolsvc_reward_normalize(plain.ptr, plain.len, out);
    rlf_str_clean_up(&plain);
    return true;
}

static rlf_slice slice_of(const rlf_str *s) { return (rlf_slice){s->ptr ? s->ptr : "", s->len}; }

void toolsvc_reward_score(const rlf_config *config, const rlf_score *score, rlf_component components[TOOLSVC_REWARD_COMPONENTS]) {
    rlf_str answer = {0}, target = {0};
    bool tagged;
    double exact = 0, f1 = 0;
    bool answered = find_answer(config, score, &answer, &tagged);
    for (size_t i = 0; answered && i < score->targets.n; i++) {
        rlf_str_reset(&target);
        toolsvc_reward_normalize(score->targets.v[i].text.ptr, score->targets.v[i].text.len, &target);
        rlf_slice a = slice_of(&answer), t = slice_of(&target);
        if (a.len == t.len && memcmp(a.ptr, t.ptr, a.len) == 0) exact = 1;
        double each = toolsvc_reward_f1(a, t);
        if (each > f1) f1 = each;
    }
    double format = tagged && score->finish == RLF_FINISH_ANSWER && score->bad_calls == 0;
    components[0] = (rlf_component){rlf_slice_of("exact_match"), config->reward.exact_match, exact};
    components[1] = (rlf_component){rlf_slice_of("f1"), config->reward.f1, f1};
    components[2] = (rlf_component){rlf_slice_of("format"), config->reward.format, format};
    rlf_str_clean_up(&answer);
    rlf_str_clean_up(&target);
}
