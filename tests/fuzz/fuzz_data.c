/* One data row, read as a question and as a conversation: what is accepted holds what data.h promises. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "common/config/data.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static rlf_arena arena;
    rlf_row row;
    for (int supervised = 0; supervised < 2; supervised++) {
        if (rlf_row_parse(&row, (const char *)data, n, "fuzz", 1, supervised, &arena) != RLF_OK) continue;
        size_t assistant = 0;
        for (size_t i = 0; i < row.n_messages; i++) {
            assistant += !strcmp(row.messages[i].role, "assistant");
            assert(row.messages[i].content);
        }
        assert(row.n_messages > 0 && (supervised ? assistant : row.n_targets) > 0);
        for (size_t i = 0; i < row.n_targets; i++) assert(row.targets[i]);
        assert(row.id && row.extra && row.data_source);
    }
    rlf_arena_reset(&arena);
    return 0;
}
