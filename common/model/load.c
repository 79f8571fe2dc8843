/* Reading tensors in pieces, by one thread or several (load.h).
 *
 * The pieces of all tensors form one list; threads take the next piece from a counter until none is left or one has failed. Pieces are
 * taken in order and a taken piece is always finished, so the earliest failing piece is always found: the error does not depend on timing. */
#include "common/model/load.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/model/values.h"

enum {
    PIECE = 1 << 18,     /* elements */
    THREADS_MAX = 4,
    THREAD_PIECES = 16   /* fewer pieces a thread are not worth a thread */
};

typedef struct job {
    const rlf_load *loads;
    const size_t *first; /* (n + 1) number of the first piece of each load */
    size_t n;
    atomic_size_t next;
    atomic_bool failed;
} job;

/* A thread and the earliest piece that failed in its hands. */
typedef struct reader {
    job *job;
    void *buffer; /* of one piece as it is stored, and of a twin's as it is wanted; owned */
    rlf_status status;
    size_t piece;
    char message[1024];
} reader;

static const rlf_load *load_of(const job *j, size_t piece) {
    size_t low = 0, high = j->n;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (j->first[middle] <= piece) low = middle;
        else high = middle;
    }
    return &j->loads[low];
}

/* Elements begin .. begin+n-1 of a tensor as `dtype`, at `to`; `raw` has room for a piece. */
static rlf_status read_values(rlf_stored from, size_t begin, size_t n, rlf_dtype dtype, char *raw, char *to) {
    rlf_status status = RLF_OK;
    const rlf_st_tensor *t = from.tensor;
    size_t size = rlf_dtype_size(t->dtype), bad;
    if (t->dtype == dtype) raw = to;
    RLF_TRY(rlf_safetensors_read(from.file, t, begin * size, n * size, raw));
    if (!rlf_values_convert(to, dtype, raw, t->dtype, n, &bad))
        RLF_FAIL(INVALID, "%s: tensor '%s': element %zu is not a finite number%s", rlf_safetensors_label(from.file), t->name, begin + bad,
                 t->dtype == RLF_DTYPE_F32 && dtype == RLF_DTYPE_BF16 ? " in BF16" : "");
out:
    return status;
}

/* n elements of a load from its `at`-th on. */
static rlf_status read_piece(const rlf_load *load, size_t at, size_t n, char *buffer) {
    rlf_status status = RLF_OK;
    size_t size = rlf_dtype_size(load->dtype);
    char *place = (char *)load->to + at * size, *again = buffer + PIECE * sizeof(float);
    RLF_TRY(read_values(load->from, load->begin + at, n, load->dtype, buffer, place));
    if (!load->twin.tensor) goto out;
    RLF_TRY(read_values(load->twin, load->begin + at, n, load->dtype, buffer, again));
    if (memcmp(again, place, n * size) != 0)
        RLF_FAIL(INVALID, "%s: '%s' differs from the embedding, but config.json says tie_word_embeddings",
                 rlf_safetensors_label(load->twin.file), load->twin.tensor->name);
out:
    return status;
}

static void *run_reader(void *arg) {
    reader *r = arg;
    job *j = r->job;
    size_t piece;
    while (!atomic_load(&j->failed) && (piece = atomic_fetch_add(&j->next, 1)) < j->first[j->n]) {
        const rlf_load *load = load_of(j, piece);
        size_t at = (piece - j->first[load - j->loads]) * PIECE, left = load->n - at;
        r->status = read_piece(load, at, left < PIECE ? left : PIECE, r->buffer);
        if (r->status == RLF_OK) continue;
        r->piece = piece;
        snprintf(r->message, sizeof r->message, "%s", rlf_error_message());
        atomic_store(&j->failed, true);
        break;
    }
    return NULL;
}

/* The error record is the thread's own: the earliest failure is raised again in the caller's. */
static rlf_status first_failure(const reader *readers, int n) {
    const reader *first = NULL;
    for (int i = 0; i < n; i++)
        if (readers[i].status != RLF_OK && (!first || readers[i].piece < first->piece)) first = &readers[i];
    return first ? rlf_raise_at(__FILE__, __LINE__, first->status, "%s", first->message) : RLF_OK;
}

rlf_status rlf_load_run(const rlf_load *loads, size_t n) {
    size_t *first = rlf_calloc(n + 1, sizeof *first);
    reader readers[THREADS_MAX] = {0};
    pthread_t threads[THREADS_MAX];
    int started = 1;
    for (size_t i = 0; i < n; i++) first[i + 1] = first[i] + (loads[i].n + PIECE - 1) / PIECE;
    job j = {.loads = loads, .first = first, .n = n};
    for (int i = 0; i < THREADS_MAX; i++) readers[i].job = &j;
    readers[0].buffer = rlf_calloc(2 * (size_t)PIECE, sizeof(float));
    while (started < THREADS_MAX && first[n] >= (size_t)started * THREAD_PIECES) {
        readers[started].buffer = rlf_calloc(2 * (size_t)PIECE, sizeof(float));
        if (pthread_create(&threads[started], NULL, run_reader, &readers[started]) != 0) break; /* those that run do its work */
        started++;
    }
    run_reader(&readers[0]);
    for (int i = 1; i < started; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS_MAX; i++) free(readers[i].buffer);
    free(first);
    return first_failure(readers, started);
}
