/* JSON-RPC 2.0 messages, read and written. What is read comes from outside: n bytes that the caller has bounded, of any content. */
#ifndef RLF_TOOLSVC_JSONRPC_H
#define RLF_TOOLSVC_JSONRPC_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

enum { TOOLSVC_RPC_PARSE_ERROR = -32700, TOOLSVC_RPC_INVALID_REQUEST = -32600, TOOLSVC_RPC_METHOD_NOT_FOUND = -32601,
       TOOLSVC_RPC_INTERNAL_ERROR = -32603 };

typedef enum toolsvc_rpc_type { TOOLSVC_RPC_REQUEST, TOOLSVC_RPC_NOTIFICATION, TOOLSVC_RPC_RESULT, TOOLSVC_RPC_FAILURE } toolsvc_rpc_type;

typedef struct toolsvc_rpc { /* borrowed, during the callback */
    toolsvc_rpc_type type;
    const json_t *id;     /* request: a text or an integer, for the answer to repeat */
    int64_t number;       /* result, failure: the id, which was ours and so an integer; -1: it is none of ours */
    const char *method;   /* request, notification */
    const json_t *params; /* request, notification: NULL if there are none */
    const json_t *result;
    int64_t code;         /* failure */
    const char *message;  /* failure: for people; "" if there is none */
} toolsvc_rpc;

/* False: stop here; the rest of a batch is not looked at. */
typedef bool toolsvc_rpc_fn(void *user, const toolsvc_rpc *message);

/* Calls `each` for the message, or for each one of a batch. Bytes that are not UTF-8 are read as U+FFFD. False: something in it is no
 * JSON-RPC message; the others have been handed over. */
bool toolsvc_rpc_read(const char *text, size_t n, toolsvc_rpc_fn *each, void *user);

/* Append one message on one line, without a line feed. params, result: taken over; NULL: none. */
void toolsvc_rpc_put_request(rlf_str *out, int64_t id, const char *method, json_t *params);
void toolsvc_rpc_put_notification(rlf_str *out, const char *method, json_t *params);
void toolsvc_rpc_put_result(rlf_str *out, const json_t *id, json_t *result);
void toolsvc_rpc_put_failure(rlf_str *out, const json_t *id, int code, const char *message);

#endif
