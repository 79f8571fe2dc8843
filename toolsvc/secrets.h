/* Secrets of a tool: values from the environment that its key `secrets` lists by name. `${NAME}` in other keys stands for them; where a
 * service's answer holds one of 8 bytes or more, as it is, as a JSON text or percent-encoded, it is blotted out before anyone sees it. The configuration holds names alone, so no
 * value gets into a log, a trajectory or a run folder.
 *
 * Threads: constant once made. */
#ifndef RLF_TOOLSVC_SECRETS_H
#define RLF_TOOLSVC_SECRETS_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

/* Zeroed: none. */
typedef struct toolsvc_secrets {
    json_t *names; /* owned; a list, or NULL */
    char **v;      /* owned; what to blot out: values of 8 bytes or more in each of their forms */
    size_t n, cap;
} toolsvc_secrets;

/* names: the key, JSON text or "". Errors name the key. */
rlf_status toolsvc_secrets_init(toolsvc_secrets *secrets, const char *names) RLF_MUST_USE;
void toolsvc_secrets_clean_up(toolsvc_secrets *secrets);
/* One more value to blot out, unless it is shorter than 8 bytes: such a text may stand anywhere by chance. */
void toolsvc_secrets_add(toolsvc_secrets *secrets, const char *value);

/* Appends `text` with every ${NAME} replaced. key: names where it comes from, in errors. */
rlf_status toolsvc_secrets_fill(const toolsvc_secrets *secrets, const char *key, const char *text, rlf_str *out) RLF_MUST_USE;
/* Appends n bytes without the secrets. */
void toolsvc_secrets_blot(const toolsvc_secrets *secrets, const char *bytes, size_t n, rlf_str *out);

#endif
