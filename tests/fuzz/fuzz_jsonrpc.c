/* JSON-RPC messages of any bytes, and the results of MCP calls in them: what jsonrpc.h and mcp_content.h promise holds. */
#include <assert.h>
#include <stdint.h>

#include "toolsvc/mcp/jsonrpc.h"
#include "toolsvc/mcp/mcp_content.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static bool check(void *user, const toolsvc_rpc *m) {
    (void)user;
    bool call = m->type == TOOLSVC_RPC_REQUEST || m->type == TOOLSVC_RPC_NOTIFICATION;
    assert(call == (m->method != NULL) && m->message);
    assert((m->type == TOOLSVC_RPC_REQUEST) == (m->id != NULL));
    assert((m->type == TOOLSVC_RPC_RESULT) == (m->result != NULL));
    rlf_str text = {0};
    if (m->result && toolsvc_mcp_content(m->result, &text) == RLF_CALL_INFRA) assert(text.len == 0);
    rlf_str_clean_up(&text);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    toolsvc_rpc_read((const char *)data, n, check, NULL);
    return 0;
}
