/* Files of MCP servers: any bytes are read or refused, and what is read is a map of maps. */
#include <assert.h>
#include <stdint.h>

#include "common/config/servers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    json_t *servers, *entry;
    const char *name;
    char known_by[65];
    if (rlf_servers_parse((const char *)data, n, "fuzz.json", &servers) != RLF_OK) return 0;
    json_object_foreach(servers, name, entry) {
        assert(json_is_object(entry) && *name);
        rlf_server_tool_name(name, known_by, sizeof known_by);
        assert(*known_by);
    }
    json_decref(servers);
    return 0;
}
