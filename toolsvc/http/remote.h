/* A service behind HTTP, as the kinds that speak to one see it: its replicas, headers and secrets, from the keys url, headers, secrets,
 * ca, allow_private, timeout_ms and max_bytes of a tool.
 *
 * Each exchange goes to the replica with the fewest outstanding, after the one asked last where several have as few; so a retry meets
 * another one if it can.
 *
 * Secrets (secrets.h): `${NAME}` in url, headers and what toolsvc_remote_fill is given is replaced by the environment variable NAME, which
 * the key secrets must list. */
#ifndef RLF_TOOLSVC_REMOTE_H
#define RLF_TOOLSVC_REMOTE_H

#include "toolsvc/http/http.h"
#include "toolsvc/kind.h"

typedef struct toolsvc_remote toolsvc_remote;
typedef struct toolsvc_remote_exchange toolsvc_remote_exchange;

/* Errors name the key. templates: `{{…}}` is allowed in url, behind its host. */
rlf_status toolsvc_remote_open(toolsvc_remote **out, const rlf_tool_config *config, uv_loop_t *loop, bool templates) RLF_MUST_USE;
/* As toolsvc_kind.close. */
void toolsvc_remote_close(toolsvc_remote *remote);

/* Makes the URL of one exchange of a replica's; appends. NULL: it is taken as it is. */
typedef void toolsvc_url_fn(const void *user, const char *replica, rlf_str *out);

toolsvc_remote_exchange *toolsvc_remote_send(toolsvc_remote *remote, const char *method, rlf_slice body, toolsvc_url_fn *url,
                                             const void *url_user, toolsvc_http_fn *done, void *user);
void toolsvc_remote_cancel(toolsvc_remote_exchange *exchange);

/* Appends `text`, the value of `key`, with every ${NAME} replaced. */
rlf_status toolsvc_remote_fill(const toolsvc_remote *remote, const char *key, const char *text, rlf_str *out) RLF_MUST_USE;
/* Appends n bytes without the secrets. */
void toolsvc_remote_blot(const toolsvc_remote *remote, const char *bytes, size_t n, rlf_str *out);

/* Whether the exchange failed in a way that is the service's fault: no answer, 408, 425, 429 or 5xx. Then `why` (for the model's reader and
 * the log) is appended and *count is the name it is counted under. */
bool toolsvc_remote_failed(const toolsvc_http_answer *answer, const char **count, rlf_str *why);

/* The body as JSON, a new reference. NULL: it is none; then *why says so, and *count is the name it is counted under. */
json_t *toolsvc_remote_json(rlf_slice body, const char **count, const char **why);

#endif
