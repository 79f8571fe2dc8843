/* Updates, and the optimizer's state in checkpoints (optimizer.h). */
#include "trainer/optimizer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/model/safetensors.h"
#include "kernels/scalar.h"
#include "trainer/files.h"

/* What the state consists of, and what its tensors are called in optimizer.safetensors: "exp_avg.NAME". Masters are whole there; what is
 * held of them is the rest of kern_adamw. */
enum { MOMENT1, MOMENT2, MASTER, STATES };
static const char *const state_names[STATES] = {"exp_avg", "exp_avg_sq", "master"};
static const kern_dtype state_dtypes[STATES] = {KERN_F32, KERN_F32, KERN_I16};
static int states_of(rlf_dtype dtype) { return dtype == RLF_DTYPE_F32 ? MASTER : STATES; }

enum { MASTERS = 1 << 20 }; /* that the host has whole at a time */

struct trainer_optimizer {
    kern_queue *queue;
    kern_model *model;
    const rlf_model_layout *layout;
    trainer_learners all;
    kern_buf *state[STATES]; /* of the shard; MASTER is NULL where weights are float32 */
    int states;
    size_t begin, end; /* the shard */
    int64_t updates;   /* made since the start of training */
};

static kern_tensor state_of(const trainer_optimizer *o, int i) { return kern_view(o->state[i], state_dtypes[i]); }
static kern_tensor weights_of(const trainer_optimizer *o) { return kern_at(kern_model_params(o->model), o->begin); }

rlf_status trainer_optimizer_new(trainer_optimizer **out, kern_queue *queue, kern_model *model, const trainer_learners *learners) {
    rlf_status status = RLF_OK;
    trainer_optimizer *o = rlf_calloc(1, sizeof *o);
    *o = (trainer_optimizer){.queue = queue, .model = model, .layout = kern_model_layout(model), .all = *learners};
    o->states = states_of(kern_model_params(model).dtype == KERN_BF16 ? RLF_DTYPE_BF16 : RLF_DTYPE_F32);
    rlf_shard(o->layout->total, learners->count, learners->index, &o->begin, &o->end);
    for (int i = 0; i < o->states; i++)
        RLF_TRY(kern_buf_new(&o->state[i], kern_queue_device(queue), (o->end - o->begin) * kern_dtype_size(state_dtypes[i])));
    *out = o;
    o = NULL;
out:
    trainer_optimizer_destroy(o);
    return status;
}

void trainer_optimizer_destroy(trainer_optimizer *o) {
    if (!o) return;
    for (int i = 0; i < STATES; i++) kern_buf_destroy(o->state[i]);
    free(o);
}

size_t trainer_optimizer_bytes(const rlf_model_layout *layout, rlf_dtype dtype, int learners) {
    size_t b, e, bytes = 0;
    rlf_shard(layout->total, learners, learners - 1, &b, &e); /* none is longer */
    for (int i = 0; i < states_of(dtype); i++) bytes += (e - b) * kern_dtype_size(state_dtypes[i]);
    return bytes;
}

/* ---- one update ------------------------------------------------------------------------------------------------------------------- */

static void update_shard(trainer_optimizer *o, kern_tensor grads, kern_adamw_args args) {
    size_t n = o->end - o->begin;
    kern_tensor rest = o->state[MASTER] ? state_of(o, MASTER) : kern_none();
    kern_adamw(o->queue, weights_of(o), rest, kern_at(grads, o->begin), state_of(o, MOMENT1), state_of(o, MOMENT2), n, args);
}

rlf_status trainer_optimizer_update(trainer_optimizer *o, kern_tensor grads, const trainer_adamw *a, double *norm) {
    rlf_status status = RLF_OK;
    const trainer_learners *all = &o->all;
    RLF_TRY(kern_comm_reduce_scatter(all->comm, grads, o->layout->total, all->reduce));
    double square = kern_sumsq(o->queue, kern_at(grads, o->begin), o->end - o->begin);
    RLF_TRY(rlf_all_reduce(all->transport, all->first, all->count, &square, 1, all->timeout_ms));
    *norm = sqrt(square);
    if (!isfinite(*norm)) RLF_FAIL(INVALID, "gradient norm is not finite in update %lld", (long long)o->updates + 1);

    double scale = a->clip > 0 && *norm > a->clip ? a->clip / (*norm + 1e-6) : 1.0;
    update_shard(o, grads, (kern_adamw_args){.lr = (float)a->lr, .beta1 = (float)a->beta1, .beta2 = (float)a->beta2, .eps = (float)a->eps,
                                             .weight_decay = (float)a->weight_decay, .step = ++o->updates, .grad_scale = (float)scale});
    RLF_TRY(kern_sync(o->queue));
    RLF_TRY(kern_comm_all_gather(all->comm, kern_model_params(o->model), o->layout->total));
out:
    return status;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------------- */

static const char sending[] = "optimizer state for a checkpoint";

/* Elements of a state that go from one learner to another at a time. */
static size_t sent_at_a_time(int state) { return KERN_WINDOW_BYTES / kern_dtype_size(state_dtypes[state]); }

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The state of all learners as learner 0 sees it: state by state, shard by shard, a piece at a time. The file is written in that
 * order. Of masters others send the rest: weights are the same everywhere. */
typedef struct reader {
    trainer_optimizer *o;
    kern_window *window, *weights; /* on its own shard; on the weights */
    char *buffer;        /* (KERN_WINDOW_BYTES) what others send; NULL where there are none; owned */
    float *masters;      /* (MASTERS), owned */
    int state, learner;  /* of the piece at hand */
    size_t begin, end;   /* the piece, as elements of the slab */
    const void *data;
} reader;

/* The piece at hand from the learner that holds it. */
static rlf_status fetch(reader *r) {
    rlf_status status = RLF_OK;
    const trainer_learners *all = &r->o->all;
    int from = all->first + r->learner;
    rlf_control ask = {.kind = RLF_CONTROL_FETCH, .value = (int64_t)((size_t)r->state * r->o->layout->total + r->begin),
                       .text = rlf_slice_of("")};
    RLF_TRY(rlf_send(all->transport, from, RLF_MSG_CONTROL, &ask));
    RLF_TRY(rlf_bulk_receive(all->transport, from, r->buffer, (r->end - r->begin) * kern_dtype_size(state_dtypes[r->state]),
                             all->timeout_ms, sending));
    r->data = r->buffer;
out:
    return status;
}

static rlf_status next_piece(reader *r) {
    const trainer_learners *all = &r->o->all;
    size_t total = r->o->layout->total, begin, end, n;
    if (r->end == total) {
        r->state++;
        r->learner = 0;
        r->end = 0;
    }
    r->begin = r->end;
    rlf_shard(total, all->count, r->learner, &begin, &end);
    while (r->begin == end) rlf_shard(total, all->count, ++r->learner, &begin, &end);
    n = end - r->begin;
    if (r->learner == 0) {
        rlf_status status = kern_window_read(r->window, kern_at(state_of(r->o, r->state), r->begin), &n, &r->data);
        r->end = r->begin + n;
        return status;
    }
    r->end = r->begin + smaller(n, sent_at_a_time(r->state));
    return fetch(r);
}

/* n masters, or fewer, from element `at` of the slab on. */
static rlf_status whole_masters(reader *r, size_t at, size_t *n) {
    const int16_t *rest = (const int16_t *)r->data + (at - r->begin);
    const void *weights;
    if (*n > MASTERS) *n = MASTERS;
    rlf_status status = kern_window_read(r->weights, kern_at(kern_model_params(r->o->model), at), n, &weights);
    if (status != RLF_OK) return status;
    for (size_t i = 0; i < *n; i++) r->masters[i] = kern_master_of(kern_float_of_bf16(((const uint16_t *)weights)[i]), rest[i]);
    return RLF_OK;
}

/* rlf_st_source_fn: tensors are numbered state by state. */
static rlf_status state_data(void *ctx, size_t i, size_t begin, size_t *bytes, const void **data) {
    rlf_status status = RLF_OK;
    reader *r = ctx;
    size_t tensors = r->o->layout->n_tensors, at = r->o->layout->tensors[i % tensors].offset + begin / sizeof(float);
    while (r->state < (int)(i / tensors) || at >= r->end) RLF_TRY(next_piece(r));
    size_t n = *bytes / sizeof(float), held = r->end - at;
    if (n > held) n = held;
    if (r->state == MASTER) RLF_TRY(whole_masters(r, at, &n));
    *bytes = n * sizeof(float);
    *data = r->state == MASTER ? r->masters : (const float *)r->data + (at - r->begin);
out:
    return status;
}

static rlf_status write_tensors(trainer_optimizer *o, const char *folder, reader *r) {
    size_t n = o->layout->n_tensors, count = (size_t)o->states * n;
    rlf_arena arena = {0};
    rlf_st_tensor *out = rlf_arena_alloc(&arena, count, sizeof *out);
    for (size_t i = 0; i < count; i++) {
        const rlf_tensor_info *t = &o->layout->tensors[i % n];
        out[i] = (rlf_st_tensor){.name = rlf_arena_printf(&arena, "%s.%s", state_names[i / n], t->name), .dtype = RLF_DTYPE_F32,
                                 .dims = t->vector ? 1 : 2, .bytes = (size_t)t->rows * (size_t)t->cols * sizeof(float)};
        out[i].shape[0] = t->vector ? t->cols : t->rows;
        out[i].shape[1] = t->vector ? 0 : t->cols;
    }
    rlf_status status = rlf_safetensors_write(rlf_arena_printf(&arena, "%s/optimizer.safetensors", folder), out, count, state_data, r);
    rlf_arena_clean_up(&arena);
    return status;
}

rlf_status trainer_optimizer_write(trainer_optimizer *o, const char *folder) {
    rlf_status status = RLF_OK;
    reader r = {.o = o};
    if (o->all.count > 1) r.buffer = rlf_calloc(KERN_WINDOW_BYTES, 1);
    r.masters = rlf_calloc(MASTERS, sizeof *r.masters);
    RLF_TRY(kern_window_new(&r.window, o->queue, KERN_WINDOW_BYTES));
    RLF_TRY(kern_window_new(&r.weights, o->queue, MASTERS * sizeof(uint16_t)));
    RLF_TRY(write_tensors(o, folder, &r));
    RLF_TRY(trainer_json_write(folder, "optimizer.json", json_pack("{s:I}", "updates", (json_int_t)o->updates), 9));
out:
    kern_window_destroy(r.window);
    kern_window_destroy(r.weights);
    free(r.masters);
    if (status != RLF_TIMEOUT) free(r.buffer); /* transport.h */
    return status;
}

rlf_status trainer_optimizer_send(trainer_optimizer *o, int64_t at) {
    const size_t total = o->layout->total, state = (size_t)at / total, begin = (size_t)at % total;
    if (at < 0 || state >= (size_t)o->states || begin < o->begin || begin >= o->end)
        return RLF_RAISE(PROTOCOL, "FETCH: element %lld of the optimizer's state is not of this learner", (long long)at);
    return kern_comm_send(o->all.comm, &o->all.first, 1, kern_at(state_of(o, (int)state), begin - o->begin),
                          smaller(o->end - begin, sent_at_a_time((int)state)), sending);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------------- */

/* The tensor of a state that belongs to `info`. */
static rlf_status find(const rlf_safetensors *file, const char *state, const rlf_tensor_info *info, const rlf_st_tensor **out) {
    char name[128];
    size_t n = (size_t)info->rows * (size_t)info->cols;
    snprintf(name, sizeof name, "%s.%s", state, info->name);
    *out = rlf_safetensors_find(file, name);
    if (*out && (*out)->dtype == RLF_DTYPE_F32 && (*out)->bytes == n * sizeof(float)) return RLF_OK;
    return RLF_RAISE(INVALID, "optimizer.safetensors: tensor %s is missing or not F32 of %zu elements", name, n);
}

/* Elements begin .. end-1 of the slab of one state. */
static rlf_status read_range(const rlf_safetensors *file, const rlf_model_layout *layout, const char *state, size_t begin, size_t end,
                             float *to) {
    rlf_status status = RLF_OK;
    const rlf_st_tensor *from;
    rlf_model_run run;
    for (size_t at = begin; at < end; at += run.n) {
        float *place = to + (at - begin);
        run = rlf_model_run_at(layout, at, end);
        if (run.tensor) RLF_TRY(find(file, state, run.tensor, &from));
        if (run.tensor) RLF_TRY(rlf_safetensors_read(file, from, run.begin * sizeof *to, run.n * sizeof *to, place));
        else memset(place, 0, run.n * sizeof *to);
    }
out:
    return status;
}

/* This shard of a moment. */
static rlf_status read_moment(trainer_optimizer *o, const rlf_safetensors *file, int state, kern_window *window) {
    rlf_status status = RLF_OK;
    size_t n;
    for (size_t at = o->begin; at < o->end; at += n) {
        kern_tensor part = kern_at(state_of(o, state), at - o->begin);
        n = o->end - at;
        float *room = kern_window_room(window, part, &n);
        RLF_TRY(read_range(file, o->layout, state_names[state], at, at + n, room));
        RLF_TRY(kern_window_write(window, part, n));
    }
out:
    return status;
}

/* What n masters are beside the weights, from element `at` of the slab on. */
static rlf_status keep_rest(trainer_optimizer *o, kern_window *window, const float *masters, size_t at, size_t n) {
    rlf_status status = RLF_OK;
    kern_tensor part = kern_at(state_of(o, MASTER), at - o->begin);
    const void *weights;
    RLF_TRY(kern_window_read(window, kern_at(kern_model_params(o->model), at), &n, &weights));
    for (size_t i = 0; i < n; i++)
        if (kern_bf16_of_float(masters[i]) != ((const uint16_t *)weights)[i])
            RLF_FAIL(INVALID, "optimizer.safetensors: a master weight, %g, does not round to the model's, %g: not of the same checkpoint",
                     (double)masters[i], (double)kern_float_of_bf16(((const uint16_t *)weights)[i]));
    int16_t *rest = kern_window_room(window, part, &n);
    for (size_t i = 0; i < n; i++) rest[i] = kern_rest_of(masters[i]);
    RLF_TRY(kern_window_write(window, part, n));
out:
    return status;
}

static rlf_status read_masters(trainer_optimizer *o, const rlf_safetensors *file, kern_window *window) {
    rlf_status status = RLF_OK;
    float *masters = rlf_calloc(MASTERS, sizeof *masters);
    size_t n;
    for (size_t at = o->begin; at < o->end; at += n) {
        n = o->end - at < MASTERS ? o->end - at : MASTERS;
        RLF_TRY(read_range(file, o->layout, state_names[MASTER], at, at + n, masters));
        RLF_TRY(keep_rest(o, window, masters, at, n));
        rlf_alive();
    }
out:
    free(masters);
    return status;
}

static rlf_status read_updates(trainer_optimizer *o, const char *folder) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    json_error_t error;
    rlf_str_printf(&path, "%s/optimizer.json", folder);
    json_t *state = json_load_file(path.ptr, 0, &error);
    if (!state || !json_is_integer(json_object_get(state, "updates")))
        RLF_FAIL(INVALID, "%s: expected {\"updates\": N}: %s", path.ptr, error.text);
    o->updates = json_integer_value(json_object_get(state, "updates"));
out:
    json_decref(state);
    rlf_str_clean_up(&path);
    return status;
}

rlf_status trainer_optimizer_read(trainer_optimizer *o, const char *folder) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    rlf_safetensors *file = NULL;
    kern_window *window = NULL;
    RLF_TRY(read_updates(o, folder));
    rlf_str_printf(&path, "%s/optimizer.safetensors", folder);
    RLF_TRY(rlf_safetensors_open(&file, path.ptr));
    if (rlf_safetensors_count(file) != (size_t)o->states * o->layout->n_tensors)
        RLF_FAIL(INVALID, "%s: %zu tensors, expected %d for each parameter with model.dtype %s: the run began with another one", path.ptr,
                 rlf_safetensors_count(file), o->states, o->state[MASTER] ? "bfloat16" : "float32");
    RLF_TRY(kern_window_new(&window, o->queue, KERN_WINDOW_BYTES));
    for (int i = MOMENT1; i <= MOMENT2; i++) RLF_TRY(read_moment(o, file, i, window));
    if (o->state[MASTER]) RLF_TRY(read_masters(o, file, window));
out:
    kern_window_destroy(window);
    rlf_safetensors_destroy(file);
    rlf_str_clean_up(&path);
    return status;
}
