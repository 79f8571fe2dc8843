/* The rollout role over the real transport: rank 0 is the coordinator, then come one or two tool ranks that only score, the
 * rollout ranks, and a learner that hands out weights. Every group is played twice, on different rollout ranks where there are
 * several: the same bits must come back. Then one rollout rank is given an episode for weights that it
 * does not have, which is its error, and the others are stopped. All ranks vote before the verdict. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/checkpoint.h"
#include "kernels/comm/comm.h"
#include "rollout/rollout.h"
#include "tests/unit/rollout/byte_tokenizer.h"

enum { GROUPS = 6, SAMPLES = 3, EPISODES = GROUPS * SAMPLES, ATTEMPTS = 2, WAIT_MS = 30000, VERSION = 3 };

typedef struct ranks {
    int tools, rollout_first, rollouts, learner;
} ranks;

static rlf_transport *g_t;
static ranks g_ranks;
static char g_dir[64] = "/tmp/rlf_test_rollout_XXXXXX";
static char g_reason[256];

static bool check(bool good, const char *what) {
    if (!good && !g_reason[0]) snprintf(g_reason, sizeof g_reason, "%s (%s)", what, rlf_error_message());
    return good;
}
#define CHECK(expr) check(expr, #expr)

static ranks ranks_of(int size) {
    int tools = size < 6 ? 1 : 2;
    return (ranks){.tools = tools, .rollout_first = 1 + tools, .rollouts = size - 2 - tools, .learner = size - 1};
}

/* ---- the model folder ------------------------------------------------------------------------------------------------------------- */

static bool write_text(const char *name, const rlf_str *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", g_dir, name);
    FILE *f = fopen(path, "w");
    if (!f) return false;
    bool good = fwrite(text->ptr, 1, text->len, f) == text->len;
    return fclose(f) == 0 && good;
}

static float *random_weights(rlf_model_layout *layout) {
    rlf_model_shape shape;
    if (!CHECK(rlf_model_shape_named(&shape, "tiny") == RLF_OK)) return NULL;
    rlf_model_layout_init(layout, &shape);
    float *weights = rlf_calloc(layout->total, sizeof *weights);
    rlf_checkpoint_random(layout, 5, 0.02, RLF_DTYPE_F32, weights);
    return weights;
}

static bool write_model(void) {
    rlf_model_layout layout = {0};
    rlf_str json = {0};
    float *weights = random_weights(&layout);
    byte_tokenizer_json(&json);
    bool good = CHECK(mkdtemp(g_dir) != NULL) && CHECK(weights != NULL) &&
        CHECK(rlf_checkpoint_write(g_dir, &layout, RLF_DTYPE_F32, weights, NULL, RLF_SHARD_BYTES) == RLF_OK) &&
                CHECK(write_text("tokenizer.json", &json));
    rlf_str_clean_up(&json);
    rlf_model_layout_clean_up(&layout);
    free(weights);
    return good;
}

static void remove_model(void) {
    static const char *const names[] = {"tokenizer.json", "config.json", "generation_config.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", g_dir, names[i]);
        unlink(path);
    }
    rmdir(g_dir);
}

/* ---- the coordinator -------------------------------------------------------------------------------------------------------------- */

typedef struct inbox {
    rlf_received m;
    rlf_arena arena; /* keeps everything that came */
} inbox;

/* The next message that is not a heartbeat. */
static bool next(inbox *in, int *from, rlf_message_type *type, void *record) {
    bool got = false;
    do {
        if (!CHECK(rlf_receive(g_t, &in->m, WAIT_MS, &got) == RLF_OK) || !CHECK(got)) return false;
    } while (in->m.type == RLF_MSG_HEARTBEAT);
    *from = in->m.from;
    *type = in->m.type;
    return CHECK(rlf_message_decode(in->m.type, in->m.bytes.ptr, in->m.bytes.len, in->m.from, &in->arena, record) == RLF_OK);
}

typedef union any { rlf_control control; rlf_trajectory trajectory; rlf_open open; rlf_score score; rlf_close close; } any;

static bool send_control(int to, rlf_control_kind kind, int64_t value) {
    rlf_control m = {.kind = kind, .value = value, .text = {"", 0}};
    return CHECK(rlf_send(g_t, to, RLF_MSG_CONTROL, &m) == RLF_OK);
}

/* One control message of that kind from every rollout rank; their texts must agree. */
static bool gather(inbox *in, rlf_control_kind kind, int64_t value) {
    rlf_slice first = {NULL, 0};
    for (int i = 0; i < g_ranks.rollouts; i++) {
        int from;
        rlf_message_type type;
        any m;
        if (!next(in, &from, &type, &m) || !CHECK(type == RLF_MSG_CONTROL) || !CHECK(m.control.kind == kind)) return false;
        if (i == 0) first = m.control.text;
        if (!CHECK(rlf_slice_eq(first, m.control.text.ptr)) || !CHECK(value < 0 || m.control.value == value)) return false;
    }
    return true;
}

static bool send_episode(int to, int64_t uid, int64_t attempt, int64_t version) {
    rlf_said prompt = {.role = rlf_slice_of("user"), .content = rlf_slice_of("What is the capital of Peru?")};
    rlf_text target = {rlf_slice_of("Lima")};
    rlf_limits limits = {.turns = 2, .turn_tokens = 40 + uid, .observation_tokens = 40, .tokens = 160, .timeout_ms = WAIT_MS};
    rlf_sampling sampling = {.temperature = 1, .top_p = 0.95};
    rlf_episode m = {.uid = uid, .samples = SAMPLES, .attempt = attempt, .seed = 7, .version = version, .prompt = {&prompt, 1},
                     .tools = {"", 0},
                     .targets = {&target, 1}, .data_source = rlf_slice_of("nq"), .extra = {"", 0}, .limits = {&limits, 1},
                     .sampling = {&sampling, 1}};
    return CHECK(rlf_send(g_t, to, RLF_MSG_EPISODE, &m) == RLF_OK);
}

static bool same(const rlf_trajectory *a, const rlf_trajectory *b) {
    return a->tokens.n == b->tokens.n && a->spans.n == b->spans.n && a->finish == b->finish &&
           !memcmp(a->tokens.v, b->tokens.v, a->tokens.n * sizeof *a->tokens.v) &&
           !memcmp(a->logprobs.v, b->logprobs.v, a->tokens.n * sizeof *a->logprobs.v);
}

static bool take_trajectory(rlf_trajectory *seen, const rlf_trajectory *t) {
    bool known = t->uid >= 0 && t->uid < GROUPS && t->sample >= 0 && t->sample < SAMPLES && t->attempt >= 0 && t->attempt < ATTEMPTS;
    if (!CHECK(known) || !CHECK(t->version == VERSION) || !CHECK(t->tokens.n > 0) || !CHECK(t->components.n == 1) ||
        !CHECK(t->reward == 0.5))
        return false;
    seen[(t->attempt * GROUPS + t->uid) * SAMPLES + t->sample] = *t;
    return true;
}

static bool play_groups(inbox *in) {
    static rlf_trajectory seen[ATTEMPTS * EPISODES];
    bool good = true;
    for (int64_t attempt = 0; attempt < ATTEMPTS; attempt++)
        for (int64_t uid = 0; uid < GROUPS && good; uid++)
            good = send_episode(g_ranks.rollout_first + (int)(uid + attempt) % g_ranks.rollouts, uid, attempt, VERSION);
    for (int i = 0; i < ATTEMPTS * EPISODES && good; i++) {
        int from;
        rlf_message_type type;
        any m;
        good = next(in, &from, &type, &m) && CHECK(type == RLF_MSG_TRAJECTORY) && take_trajectory(seen, &m.trajectory);
    }
    for (int i = 0; i < EPISODES && good; i++) good = CHECK(same(&seen[i], &seen[EPISODES + i]));
    return good && CHECK(!same(&seen[0], &seen[1]));
}

static bool publish(inbox *in) {
    bool good = send_control(g_ranks.learner, RLF_CONTROL_PUBLISH, VERSION);
    for (int i = 0; i < g_ranks.rollouts && good; i++) good = send_control(g_ranks.rollout_first + i, RLF_CONTROL_PUBLISH, VERSION);
    return good && gather(in, RLF_CONTROL_PUBLISHED, VERSION);
}

static bool run_coordinator(void) {
    inbox in = {0};
    bool good = gather(&in, RLF_CONTROL_READY, -1) && publish(&in) && play_groups(&in);
    good = send_episode(g_ranks.rollout_first, 200, 0, VERSION + 1) && good;
    for (int rank = 1; rank <= g_ranks.learner; rank++)
        if (rank != g_ranks.rollout_first) good = send_control(rank, RLF_CONTROL_STOP, 0) && good;
    rlf_str_clean_up(&in.m.bytes);
    rlf_arena_clean_up(&in.arena);
    return good;
}

/* ---- the others ------------------------------------------------------------------------------------------------------------------- */

static bool answer_score(int to, const rlf_score *s) {
    rlf_component part = {rlf_slice_of("exact_match"), 1, 0.5};
    rlf_reward m = {.uid = s->uid, .sample = s->sample, .attempt = s->attempt, .components = {&part, 1}};
    return CHECK(s->turns.n == 1) && CHECK(rlf_slice_eq(s->targets.v[0].text, "Lima")) &&
        CHECK(rlf_send(g_t, to, RLF_MSG_REWARD, &m) == RLF_OK);
}

static bool run_tool(void) {
    inbox in = {0};
    int from, open = 0;
    rlf_message_type type;
    any m;
    bool good = true, stop = false;
    while (good && (!stop || open) && (good = next(&in, &from, &type, &m))) {
        if (type == RLF_MSG_CONTROL) stop = true;
        if (type == RLF_MSG_OPEN) open++;
        if (type == RLF_MSG_CLOSE) open--;
        if (type == RLF_MSG_SCORE) good = answer_score(from, &m.score);
    }
    rlf_str_clean_up(&in.m.bytes);
    rlf_arena_clean_up(&in.arena);
    return good;
}

static bool run_learner(void) {
    inbox in = {0};
    rlf_model_layout layout = {0};
    float *weights = random_weights(&layout);
    int from;
    rlf_message_type type;
    any m;
    kern_device *device = NULL;
    kern_queue *queue = NULL;
    kern_buf *buf = NULL, *shared;
    kern_comm *comm = NULL;
    kern_handover *handover = NULL;
    bool good = weights != NULL;
    good = good && CHECK(kern_device_open(&device, &(kern_device_options){.name = "cpu", .threads = 1}) == RLF_OK) &&
           CHECK(kern_queue_new(&queue, device) == RLF_OK) && CHECK(kern_buf_new(&buf, device, layout.total * sizeof *weights) == RLF_OK) &&
           CHECK(kern_comm_new(&comm, queue, g_t, KERN_WINDOW_BYTES, WAIT_MS) == RLF_OK) &&
           CHECK(kern_handover_new(&handover, comm, g_ranks.rollout_first, g_ranks.rollouts, 1, buf, layout.total, KERN_F32, &shared) ==
                 RLF_OK);
    if (good) kern_upload(queue, kern_view(buf, KERN_F32), weights, layout.total);
    while (good && (good = next(&in, &from, &type, &m)) && m.control.kind == RLF_CONTROL_PUBLISH)
        good = CHECK(kern_handover_run(handover, kern_view(buf, KERN_F32), "weights") == RLF_OK);
    kern_handover_destroy(handover);
    kern_comm_destroy(comm);
    kern_buf_destroy(buf);
    kern_queue_destroy(queue);
    kern_device_close(device);
    rlf_str_clean_up(&in.m.bytes);
    rlf_arena_clean_up(&in.arena);
    rlf_model_layout_clean_up(&layout);
    free(weights);
    return good;
}

static bool run_rollout(int rank) {
    rlf_config c = {.mode = (char[]){"rl"}, .threads = 1, .model = {.path = g_dir, .dtype = (char[]){"float32"}, .compute_dtype = (char[]){"auto"}},
                    .ranks = {.rollout = g_ranks.rollouts, .tool = g_ranks.tools},
                    .episode = {.chat = (char[]){"chatml"}, .stop_at_answer = true, .max_calls = 4, .max_prompt_tokens = 100,
                                .max_tokens = 200},
                    .rollout = {.batch = 16 * rank, .prefill_chunk = 8 * rank, .page_size = 16, .cache_tokens = 1024 * rank,
                                .seats = 4 * rank},
                    .deadline = {.message_s = 30, .collective_s = 30}};
    rlf_status status = rollout_run(g_t, &c, &(kern_device_options){.name = "cpu", .threads = 1});
    if (rank > g_ranks.rollout_first) return CHECK(status == RLF_OK);
    return CHECK(status == RLF_PROTOCOL) && CHECK(strstr(rlf_error_message(), "weights version 4") != NULL);
}

static bool run_rank(int rank) {
    if (rank == 0) return run_coordinator();
    if (rank < g_ranks.rollout_first) return run_tool();
    return rank == g_ranks.learner ? run_learner() : run_rollout(rank);
}

int main(int argc, char **argv) {
    if (rlf_transport_new(&g_t, &argc, &argv) != RLF_OK) {
        fprintf(stderr, "%s\n", rlf_error_message());
        return 1;
    }
    int rank = rlf_transport_rank(g_t), all = 0, written = 1;
    g_ranks = ranks_of(rlf_transport_size(g_t));
    rlf_log_init(rank, "test", RLF_LOG_WARN);
    if (rank == 0) written = write_model();
    MPI_Bcast(&written, 1, MPI_INT, 0, MPI_COMM_WORLD);
    MPI_Bcast(g_dir, sizeof g_dir, MPI_CHAR, 0, MPI_COMM_WORLD);
    int mine = written && run_rank(rank);
    if (!mine) fprintf(stderr, "rank %d failed: %s\n", rank, g_reason);
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    if (rank == 0) remove_model();
    if (rlf_transport_destroy(g_t, 10000) != RLF_OK) rlf_transport_abort(g_t, 1);
    if (rank == 0) printf("%s groups_come_back_with_the_same_bits_from_any_rollout_rank\n", all ? "ok" : "FAILED");
    return all ? 0 : 1;
}
