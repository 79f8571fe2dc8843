/* A tokenizer whose ids are bytes, plus "ab" and ">!" as one token each and the control tokens of every chat template: scripts for it can be written by
 * hand. */
#ifndef RLF_TESTS_ROLLOUT_BYTE_TOKENIZER_H
#define RLF_TESTS_ROLLOUT_BYTE_TOKENIZER_H

#include <stdlib.h>
#include <string.h>

#include "common/text/tokenizer.h"

enum { BYTE_AB = 256, BYTE_CLOSE, BYTE_END_OF_TEXT, BYTE_START, BYTE_END, BYTE_CALL, BYTE_CALL_END, BYTE_VOCAB = 384 };

static const char *const byte_added[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
                                         "<tool_response>", "</tool_response>", "<think>", "</think>", "<|begin_of_text|>",
                                         "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
                                         "<|python_tag|>"};
enum { BYTE_ADDED = sizeof byte_added / sizeof byte_added[0] };

/* GPT-2's printable stand-in for a byte. */
static inline int byte_letter(int byte) {
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) return printable ? b : next;
        next += !printable;
    }
    return -1;
}

/* Appends the tokenizer.json. */
static inline void byte_tokenizer_json(rlf_str *json) {
    rlf_str_puts(json, "{\"added_tokens\":[");
    for (int i = 0; i < BYTE_ADDED; i++)
        rlf_str_printf(json, "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
                       i ? "," : "", BYTE_END_OF_TEXT + i, byte_added[i], strchr(byte_added[i], '|') ? "true" : "false");
    rlf_str_puts(json, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false},"
                        "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (int b = 0; b < 256; b++) rlf_str_printf(json, "\"\\u%04x\":%d,", byte_letter(b), b);
    rlf_str_printf(json, "\"ab\":%d,\">!\":%d},\"merges\":[\"a b\",\"> !\"]}}", BYTE_AB, BYTE_CLOSE);
}

static inline rlf_tokenizer *byte_tokenizer(void) {
    rlf_str json = {0};
    rlf_tokenizer *tokenizer = NULL;
    byte_tokenizer_json(&json);
    if (rlf_tokenizer_parse(&tokenizer, json.ptr, json.len, "byte tokenizer") != RLF_OK) abort();
    rlf_str_clean_up(&json);
    return tokenizer;
}

/* Ids of a script: bytes one by one ("ab" stays two tokens, unlike what the tokenizer makes of it), control tokens as one. */
static inline void byte_script(const char *text, rlf_ids *out) {
    while (*text) {
        int added = 0;
        while (added < BYTE_ADDED && strncmp(text, byte_added[added], strlen(byte_added[added]))) added++;
        rlf_ids_push(out, added < BYTE_ADDED ? BYTE_END_OF_TEXT + added : (unsigned char)*text);
        text += added < BYTE_ADDED ? strlen(byte_added[added]) : 1;
    }
}

#endif
