/* The job file: YAML up to the first NUL byte, then overrides, each up to the next one. What is accepted must come back from its dump. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void round_trip(const rlf_config *config) {
    rlf_str first = {0}, second = {0};
    rlf_config again;
    rlf_config_dump(config, &first);
    rlf_status status = rlf_config_parse(&again, first.ptr, first.len, "dump", NULL, 0);
    assert(status == RLF_OK);
    rlf_config_dump(&again, &second);
    assert(first.len == second.len && !memcmp(first.ptr, second.ptr, first.len));
    rlf_config_clean_up(&again);
    rlf_str_clean_up(&first);
    rlf_str_clean_up(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    enum { OVERRIDES = 4 };
    char *copy = malloc(n + 1), *overrides[OVERRIDES];
    size_t count = 0;
    if (n) memcpy(copy, data, n);
    copy[n] = '\0';
    for (size_t i = 0; i < n && count < OVERRIDES; i++)
        if (!copy[i]) overrides[count++] = copy + i + 1;
    rlf_config config;
    if (rlf_config_parse(&config, copy, strlen(copy), "fuzz", overrides, count) == RLF_OK) round_trip(&config);
    rlf_config_clean_up(&config);
    free(copy);
    return 0;
}
