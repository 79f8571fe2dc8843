// A plugin in C++17: compiled by the tests where there is a C++ compiler, to see that the header is good for it.
#include "toolsvc/plugin.h"

#include <stdlib.h>

namespace {

const char *describe(void *) { return "[]"; }

rlf_plugin_status run(void *, void *, const rlf_plugin_call *call, rlf_plugin_out *answer) {
    if (rlf_plugin_cancelled(call)) return RLF_PLUGIN_INFRA_ERROR;
    rlf_plugin_puts(answer, call->function);
    return RLF_PLUGIN_OK;
}

const rlf_plugin plugin = {RLF_PLUGIN_ABI, describe, nullptr, nullptr, nullptr, nullptr, run};

}

const rlf_plugin *rlf_plugin_entry(void) { return &plugin; }
