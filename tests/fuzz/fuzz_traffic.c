/* A recording of any bytes, replayed: it is refused with its place, or its calls are found as they stand there. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "toolsvc/traffic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char g_folder[] = "/tmp/rlf-fuzz-traffic-XXXXXX", g_path[64];

static void remove_folder(void) {
    unlink(g_path);
    rmdir(g_folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (!mkdtemp(g_folder)) abort();
    snprintf(g_path, sizeof g_path, "%s/rank_1.jsonl", g_folder);
    return atexit(remove_folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    FILE *f = fopen(g_path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
    rlf_config config = {.traffic = {.replay = g_folder}};
    toolsvc_traffic *traffic = NULL;
    json_t *functions = NULL;
    if (toolsvc_traffic_open(&traffic, &config, 1, NULL) != RLF_OK) assert(strstr(rlf_error_message(), g_path));
    if (toolsvc_traffic_functions(g_folder, &functions) == RLF_OK) assert(json_is_array(functions));
    if (traffic) {
        rlf_call call = {.uid = 7, .sample = 1, .turn = 2, .call = 3, .tool = rlf_slice_of("calc"), .arguments = rlf_slice_of("{}")};
        rlf_call_status status;
        const rlf_str *text;
        assert(toolsvc_traffic_replays(traffic));
        if (toolsvc_traffic_find(traffic, 1, &call, &status, &text)) assert(status >= 0 && status < RLF_CALL_STATUS_COUNT && text);
        if (toolsvc_traffic_close(traffic) != RLF_OK) abort();
    }
    json_decref(functions);
    return 0;
}
