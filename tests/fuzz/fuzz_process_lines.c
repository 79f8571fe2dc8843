/* Lines of a program behind the kind "process": what is taken for an answer must be one. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "toolsvc/kinds/process_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool check(void *user, const toolsvc_process_answer *a) {
    rlf_str text = {0};
    assert(a->id <= TOOLSVC_PROCESS_MOST_ID);
    assert(!a->value != !a->functions);
    assert(!a->functions || json_is_array(a->functions));
    if (a->value) toolsvc_process_text(a->value, &text);
    rlf_str_clean_up(&text);
    return ++*(size_t *)user < 16;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    size_t answers = 0;
    bool good = toolsvc_process_read((const char *)data, n, check, &answers);
    assert(good == (answers > 0));
    return 0;
}
