/* Windows (kern.h): the tensor's own memory, or a stage between it and the host. */
#include <stdlib.h>

#include "common/base/mem.h"
#include "kernels/ops.h"

struct kern_window {
    kern_queue *queue;
    size_t bytes;
    kern_stage stage;
};

rlf_status kern_window_new(kern_window **out, kern_queue *queue, size_t bytes) {
    rlf_status status = RLF_OK;
    kern_window *w = rlf_calloc(1, sizeof *w);
    *w = (kern_window){.queue = queue, .bytes = bytes};
    if (!kern_queue_device(queue)->backend->host_memory) RLF_TRY(kern_stage_new(&w->stage, kern_queue_device(queue), bytes));
    *out = w;
    w = NULL;
out:
    kern_window_destroy(w);
    return status;
}

void kern_window_destroy(kern_window *w) {
    if (!w) return;
    kern_stage_clean_up(&w->stage);
    free(w);
}

void *kern_window_room(kern_window *w, kern_tensor t, size_t *n) {
    void *own = kern_host_ptr(t);
    size_t most = w->bytes / kern_dtype_size(t.dtype);
    if (own) return own;
    if (*n > most) *n = most;
    return w->stage.memory;
}

rlf_status kern_window_read(kern_window *w, kern_tensor t, size_t *n, const void **host) {
    void *room = kern_window_room(w, t, n);
    *host = room;
    if (!kern_host_ptr(t)) kern_download(w->queue, room, t, *n);
    return kern_sync(w->queue);
}

rlf_status kern_window_write(kern_window *w, kern_tensor t, size_t n) {
    if (!kern_host_ptr(t)) kern_upload(w->queue, t, w->stage.memory, n);
    return kern_sync(w->queue);
}
