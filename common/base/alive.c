/* Who is told, by thread (alive.h). */
#include "common/base/alive.h"

#include <stddef.h>

static _Thread_local struct {
    rlf_alive_fn *fn;
    void *ctx;
} t_told;

void rlf_alive(void) {
    if (t_told.fn) t_told.fn(t_told.ctx);
}

void rlf_alive_tell(rlf_alive_fn *fn, void *ctx) {
    t_told.fn = fn;
    t_told.ctx = ctx;
}
