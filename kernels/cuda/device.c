/* A CUDA card as a device of kern.h: memory, copies, and the table of the operations in this folder. */
#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/link.h"

enum { STAGE_ALIGN = 64 };

const void *kern_cuda_stage(kern_ctx *ctx, const void *host, size_t bytes) {
    assert(bytes <= KERN_CUDA_STAGING_BYTES);
    if (ctx->staged + bytes > KERN_CUDA_STAGING_BYTES) ctx->staged = 0;
    void *at = ctx->staging + ctx->staged;
    ctx->staged += (bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    if (bytes) kern_card_upload(ctx->card, at, host, bytes);
    return at;
}

static size_t free_bytes(kern_ctx *ctx) { return kern_card_free_bytes(ctx->card); }
static void *allocate(kern_ctx *ctx, size_t bytes) { return kern_card_allocate(ctx->card, bytes); }
static void release(kern_ctx *ctx, void *ptr, size_t bytes) {
    (void)bytes;
    kern_card_release(ctx->card, ptr);
}
static void *host_allocate(kern_ctx *ctx, size_t bytes) { return kern_card_host_allocate(ctx->card, bytes); }
static void host_release(kern_ctx *ctx, void *ptr, size_t bytes) {
    (void)bytes;
    kern_card_host_release(ctx->card, ptr);
}
static void upload(kern_ctx *ctx, void *dst, const void *src, size_t bytes) { kern_card_upload(ctx->card, dst, src, bytes); }
static void download(kern_ctx *ctx, void *dst, const void *src, size_t bytes) { kern_card_download(ctx->card, dst, src, bytes); }
static void fetch(kern_ctx *ctx, void *dst, const void *src, size_t bytes) { kern_card_fetch(ctx->card, dst, src, bytes); }
static void copy(kern_ctx *ctx, void *dst, const void *src, size_t bytes) { kern_card_copy(ctx->card, dst, src, bytes); }
static void zero(kern_ctx *ctx, void *dst, size_t bytes) { kern_card_zero(ctx->card, dst, bytes); }
static rlf_status sync_card(kern_ctx *ctx) { return kern_card_sync(ctx->card); }
static void mark(kern_ctx *ctx, void **at) { kern_card_mark(ctx->card, at); }
static rlf_status wait_for(kern_ctx *ctx, void *at) { return kern_card_wait(ctx->card, at); }
static void unmark(kern_ctx *ctx, void *at) { kern_card_unmark(ctx->card, at); }

static void record(kern_ctx *ctx) { kern_card_record(ctx->card); }
static rlf_status recorded(kern_ctx *ctx, void **graph) { return kern_card_recorded(ctx->card, graph); }
static void replay(kern_ctx *ctx, void *graph) { kern_card_replay(ctx->card, graph); }
static void forget(kern_ctx *ctx, void *graph) { kern_card_forget(ctx->card, graph); }

static rlf_status share(kern_ctx *ctx, void *ptr, unsigned char handle[KERN_SHARE_BYTES]) {
    return kern_card_share(ctx->card, ptr, handle);
}
static rlf_status open_shared(kern_ctx *ctx, const unsigned char handle[KERN_SHARE_BYTES], void **ptr) {
    return kern_card_open_shared(ctx->card, handle, ptr);
}
static void close_shared(kern_ctx *ctx, void *ptr) { kern_card_close_shared(ctx->card, ptr); }

#ifdef KERN_HAVE_LINK
static rlf_status make_link(kern_link **out, kern_ctx *ctx, const unsigned char id[KERN_LINK_ID_BYTES], int rank, int count,
                            int timeout_ms) {
    return kern_link_new(out, ctx->card, id, rank, count, timeout_ms);
}
static const kern_link_ops card_links = {.id = kern_link_id, .make = make_link, .destroy = kern_link_destroy,
                                         .exchange = kern_link_exchange, .broadcast = kern_link_broadcast};
#define LINKS &card_links
#else
#define LINKS NULL
#endif

static void close_card(kern_ctx *ctx) {
    if (ctx->scratch) kern_card_release(ctx->card, ctx->scratch);
    if (ctx->counters) kern_card_release(ctx->card, ctx->counters);
    if (ctx->staging) kern_card_release(ctx->card, ctx->staging);
    if (ctx->parts) kern_card_host_release(ctx->card, ctx->parts);
    kern_free_close(ctx->free);
    if (ctx->card) kern_card_close(ctx->card);
    free(ctx);
}

static const kern_backend cuda_backend = {.close = close_card, .free_bytes = free_bytes, .allocate = allocate, .release = release,
                                          .host_allocate = host_allocate, .host_release = host_release, .upload = upload,
                                          .download = download, .copy = copy, .zero = zero, .sync = sync_card, .fetch = fetch,
                                          .mark = mark, .wait = wait_for, .unmark = unmark, .record = record,
                                          .recorded = recorded, .replay = replay, .forget = forget, .share = share,
                                          .open_shared = open_shared, .close_shared = close_shared, .link = LINKS,
                                          .norm_linear = kern_cuda_norm_linear};

#define ENTRY_(type, name, parameters) .name = kern_cuda_##name,
static const kern_ops cuda_ops = {KERN_OP_TABLE(ENTRY_)};
#undef ENTRY_

int kern_cards(void) { return kern_card_count(); }
rlf_status kern_card_find(kern_card_facts *out, int card) {
    out->links = cuda_backend.link != NULL;
    return kern_card_describe(card, out->name, sizeof out->name, &out->bytes);
}

/* Whether to use what Hopper's cards have: as asked for, else where they have it. */
static rlf_status choose(bool *hopper, const kern_ctx *ctx, const char *isa) {
    const bool has = kern_card_hopper(ctx->card);
    *hopper = has && (!isa || strcmp(isa, "ampere") != 0);
    if (!isa || !strcmp(isa, "ampere") || !strcmp(isa, "free") || (!strcmp(isa, "hopper") && has)) return RLF_OK;
    return RLF_RAISE(UNSUPPORTED, "%s: no instructions called '%s'; there are%s 'ampere' and 'free'", kern_card_name(ctx->card), isa,
                     has ? " 'hopper'," : "");
}

enum { CARDS_REMEMBERED = 64 };
static atomic_bool checked[CARDS_REMEMBERED]; /* cards whose instructions were found to agree, once a process */

static rlf_status check_once(kern_ctx *ctx, int card, const char **differs) {
    *differs = NULL;
    if (card < CARDS_REMEMBERED && atomic_load(&checked[card])) return RLF_OK;
    rlf_status status = kern_cuda_check_hopper(ctx, differs);
    if (status == RLF_OK && !*differs && card < CARDS_REMEMBERED) atomic_store(&checked[card], true);
    return status;
}

rlf_status kern_cuda_open(kern_device *device, const kern_device_options *options) {
    rlf_status status = RLF_OK;
    kern_ctx *ctx = rlf_calloc(1, sizeof *ctx);
    const char *differs = NULL;
    RLF_TRY(kern_card_open(&ctx->card, options->card));
    RLF_TRY(choose(&ctx->hopper, ctx, options->isa));
    ctx->processors = kern_card_processors(ctx->card);
    ctx->scratch_floats = KERN_CUDA_SCRATCH_FLOATS;
    ctx->scratch = kern_card_allocate(ctx->card, ctx->scratch_floats * sizeof(float));
    ctx->counters = kern_card_allocate(ctx->card, KERN_CUDA_COUNTERS * sizeof *ctx->counters);
    ctx->staging = kern_card_allocate(ctx->card, KERN_CUDA_STAGING_BYTES);
    ctx->parts = kern_card_host_allocate(ctx->card, KERN_CUDA_PARTS * sizeof(double));
    if (!ctx->scratch || !ctx->counters || !ctx->staging || !ctx->parts)
        RLF_FAIL(NO_MEMORY, "CUDA card %d, %s: no memory left for work space", options->card, kern_card_name(ctx->card));
    if (ctx->hopper) RLF_TRY(check_once(ctx, options->card, &differs));
    if (differs && options->isa)
        RLF_FAIL(UNSUPPORTED, "CUDA card %d, %s: %s does not have the bits of 'ampere' by the instructions called 'hopper'", options->card,
                 kern_card_name(ctx->card), differs);
    ctx->hopper = ctx->hopper && !differs;
    if (options->isa && !strcmp(options->isa, "free")) RLF_TRY(kern_free_open(&ctx->free, ctx->card));
    snprintf(device->name, sizeof device->name, "cuda card %d, %s%s%s%s", options->card, kern_card_name(ctx->card),
             differs ? ", without wgmma, which gives other bits for " : "", differs ? differs : "", ctx->free ? ", products by cuBLASLt" : "");
    kern_card_identity(ctx->card, device->identity);
    device->major = kern_card_major(ctx->card);
    device->backend = &cuda_backend;
    device->ops = &cuda_ops;
    device->ctx = ctx;
    ctx = NULL;
out:
    if (ctx && status != RLF_DEVICE) close_card(ctx); /* what hangs is left to the end of the process */
    return status;
}
