/* rlf-train: the program of every rank. Reads the job file, finds its role, and runs it.
 *
 * Errors. Rank 0 prints one line and ends the whole job (rlf_transport_abort). Another rank sends its line to rank 0 as CONTROL ERROR
 * and waits a bounded time for the end; should rank 0 not act, it prints the line and ends the job itself. Only this file ends
 * the process, and startup.c, while MPI starts. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "rollout/rollout.h"
#include "toolsvc/toolsvc.h"
#include "trainer/cards.h"
#include "trainer/check.h"
#include "trainer/cores.h"
#include "trainer/signals.h"
#include "trainer/startup.h"
#include "trainer/trainer.h"

enum { GOODBYE_MS = 10000, CHECK_WAIT_MS = 3600 * 1000, STARTUP_S = 120 /* where no job file says */ };

static const char usage[] =
    "usage: mpirun -np N rlf-train [--check] JOB.yaml [key=value ...]\n"
    "\n"
    "Teaches a language model to use tools: N ranks run one job, which JOB.yaml describes (mode: rl, sft or eval).\n"
    "key=value overrides a key of the file, by its dotted name: train.steps=10.\n"
    "\n"
    "  --check    read config, data, model and tools, print the plan of ranks and memory, and stop\n"
    "  --help     this text\n"
    "  --version  the version\n"
    "\n"
    "SIGUSR1 to mpirun or rank 0, or SIGTERM to rank 0: finish the step, write a checkpoint, stop. (mpirun that gets SIGTERM\n"
    "kills all ranks 2 s later.) The same command goes on from the newest checkpoint.\n";

typedef struct arguments {
    const char *path;  /* JOB.yaml */
    char **overrides;  /* points into argv's strings */
    size_t n_overrides;
    bool check;
    const char *wrong; /* the argument that is not understood, NULL if none */
} arguments;

static void parse_arguments(int argc, char **argv, arguments *a) {
    *a = (arguments){.overrides = rlf_calloc((size_t)argc, sizeof *a->overrides)};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--check") == 0) a->check = true;
        else if (argv[i][0] == '-') a->wrong = argv[i];
        else if (!a->path) a->path = argv[i];
        else a->overrides[a->n_overrides++] = argv[i];
    }
}

/* All of it, or an error: what is printed is an answer to be relied on. */
static rlf_status print(const char *text) {
    return fputs(text, stdout) < 0 || fflush(stdout) != 0 ? RLF_RAISE(IO, "cannot write to standard output: %s", strerror(errno)) : RLF_OK;
}

static int print_alone(const char *text) {
    if (print(text) == RLF_OK) return EXIT_SUCCESS;
    fprintf(stderr, "rlf-train: error: %s\n", rlf_error_message());
    return EXIT_FAILURE;
}

static bool asks_for(int argc, char **argv, const char *option) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], option) == 0) return true;
    return false;
}

static rlf_status load_config(const arguments *a, rlf_config *config) {
    if (a->wrong) return RLF_RAISE(INVALID, "unknown option %s: see rlf-train --help", a->wrong);
    if (!a->path) return RLF_RAISE(INVALID, "no job file given: see rlf-train --help");
    return rlf_config_load(config, a->path, a->overrides, a->n_overrides);
}

static rlf_log_level log_level(const char *name) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, names[i]) == 0) return (rlf_log_level)i;
    return RLF_LOG_INFO;
}

static rlf_status run_check(rlf_transport *transport, const rlf_config *config) {
    rlf_status status = RLF_OK;
    rlf_str schemas = {0}, report = {0};
    rlf_control stop = {.kind = RLF_CONTROL_STOP, .text = rlf_slice_of("checked")};
    RLF_TRY(toolsvc_describe(config, &schemas));
    trainer_check_options options = {.config = config, .size = rlf_transport_size(transport), .tool_schemas = schemas.ptr,
                                     .rollout_work = rollout_work_bytes};
    options.near = rlf_transport_neighbours(transport, &options.n_near);
    RLF_TRY(trainer_check(&options, &report));
    rlf_str_printf(&report, "tools       %zu, all open\nok\n", config->n_tools);
    RLF_TRY(print(report.ptr));
    for (int rank = 1; rank < rlf_transport_size(transport); rank++) RLF_TRY(rlf_send(transport, rank, RLF_MSG_CONTROL, &stop));
out:
    rlf_str_clean_up(&schemas);
    rlf_str_clean_up(&report);
    return status;
}

/* Waits for the end of the job, which rank 0 decides: STOP, or being ended. False if neither came. */
static bool await_stop(rlf_transport *transport, int64_t timeout_ms) {
    rlf_received message = {0};
    int64_t end = rlf_now_ms() + timeout_ms;
    bool stop = false;
    while (!stop && rlf_now_ms() < end) {
        rlf_arena arena = {0};
        rlf_control control;
        bool got = false;
        if (rlf_receive(transport, &message, 100, &got) != RLF_OK) break;
        if (got && message.type == RLF_MSG_CONTROL)
            stop = rlf_message_decode(RLF_MSG_CONTROL, message.bytes.ptr, message.bytes.len, message.from, &arena, &control) == RLF_OK &&
                   control.kind == RLF_CONTROL_STOP;
        rlf_arena_clean_up(&arena);
    }
    rlf_str_clean_up(&message.bytes);
    return stop;
}

static rlf_status run_coordinator(rlf_transport *transport, const rlf_config *config) {
    rlf_status status = RLF_OK;
    rlf_str schemas = {0};
    RLF_TRY(toolsvc_describe(config, &schemas));
    RLF_TRY(trainer_coordinator_run(transport, config, schemas.ptr ? schemas.ptr : "[]"));
out:
    rlf_str_clean_up(&schemas);
    return status;
}

/* Bindings of the other nodes follow from the same command line: one warning, from rank 0, is enough. */
static void warn_of_binding(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n) {
    rlf_str line = {0};
    if (trainer_cores_short(config, topology, near, n, trainer_cores_available(), &line)) RLF_WARN("%s", line.ptr);
    rlf_str_clean_up(&line);
}

/* Chooses the device of this rank, and sees whether this node's cards hold what its ranks will take. */
static rlf_status choose_device(const rlf_config *config, const trainer_topology *topology, const rlf_neighbour *near, size_t n, int rank,
                                kern_device_options *out) {
    rlf_status status = RLF_OK;
    rlf_str plan = {0};
    rlf_model_shape shape;
    rlf_model_layout layout = {0};
    int cards;
    RLF_TRY(trainer_cards(config, &cards));
    *out = (kern_device_options){.name = cards ? "cuda" : "cpu", .threads = trainer_threads(config, topology, near, n, rank),
                                 .isa = strcmp(config->isa, "auto") ? config->isa : NULL,
                                 .card = trainer_card_of(topology, near, n, cards, rank)};
    if (cards == 0) goto out;
    RLF_TRY(rlf_model_shape_read(&shape, config->model.path));
    rlf_model_layout_init(&layout, &shape);
    trainer_memory rollout = trainer_memory_of_rollout(config, &layout, true, rollout_work_bytes);
    trainer_memory learner = trainer_memory_of_learner(config, &layout, true, topology->learners ? topology->learners : 1);
    RLF_TRY(trainer_cards_plan(topology, near, n, cards, &rollout, &learner, &plan));
out:
    rlf_model_layout_clean_up(&layout);
    rlf_str_clean_up(&plan);
    return status;
}

static rlf_status run_role(rlf_transport *transport, const rlf_config *config, trainer_role *role) {
    rlf_status status = RLF_OK;
    trainer_topology topology;
    kern_device_options device;
    int rank = rlf_transport_rank(transport);
    size_t n_near;
    const rlf_neighbour *near = rlf_transport_neighbours(transport, &n_near);
    RLF_TRY(trainer_topology_init(&topology, config, rlf_transport_size(transport)));
    *role = trainer_topology_role(&topology, rank);
    rlf_log_init(rank, trainer_role_name(*role), log_level(config->log.level));
    RLF_TRY(trainer_signals_start(transport, &topology));
    rlf_transport_set_deadline(transport, config->deadline.startup_s * 1000, config->deadline.message_s * 1000);
    if (rank == 0) warn_of_binding(config, &topology, near, n_near);
    if (*role == TRAINER_ROLLOUT || *role == TRAINER_LEARNER) RLF_TRY(choose_device(config, &topology, near, n_near, rank, &device));
    switch (*role) {
    case TRAINER_COORDINATOR: return run_coordinator(transport, config);
    case TRAINER_TOOL: return toolsvc_run(transport, config);
    case TRAINER_ROLLOUT: return rollout_run(transport, config, &device);
    case TRAINER_LEARNER: return trainer_learner_run(transport, config, &device);
    }
out:
    return status;
}

/* Ends the job, and with it this process, after `line`. */
static void abort_job(rlf_transport *transport, const rlf_str *line) {
    fprintf(stderr, "rlf-train: error: %s\n", line->ptr);
    trainer_signals_explained();
    if (rlf_transport_size(transport) > 1) rlf_transport_abort(transport, EXIT_FAILURE);
}

/* "rank 2 rollout: what went wrong (file.c:12)"; an error that another rank sent is its own line already. */
static void error_line(int rank, trainer_role role, rlf_status status, rlf_str *line) {
    if (rank == 0 && status == RLF_PEER) rlf_str_puts(line, rlf_error_message());
    else rlf_str_printf(line, "rank %d %s: %s (%s)", rank, trainer_role_name(role), rlf_error_message(), rlf_error_where());
}

static int end_with_error(rlf_transport *transport, trainer_role role, rlf_status status) {
    int rank = rlf_transport_rank(transport);
    rlf_str line = {0};
    error_line(rank, role, status, &line);
    if (rank > 0) {
        rlf_control error = {.kind = RLF_CONTROL_ERROR, .value = status, .text = {line.ptr, line.len}};
        if (rlf_send(transport, 0, RLF_MSG_CONTROL, &error) == RLF_OK && await_stop(transport, GOODBYE_MS)) return EXIT_FAILURE;
    }
    abort_job(transport, &line);
    rlf_str_clean_up(&line);
    return EXIT_FAILURE;
}

/* Parts from the other ranks. */
static int end(rlf_transport *transport, trainer_role role, int exit_status) {
    int rank = rlf_transport_rank(transport);
    rlf_str line = {0};
    rlf_status status;
    trainer_signals_end();
    status = rlf_transport_destroy(transport, GOODBYE_MS);
    if (status == RLF_OK) return exit_status;
    error_line(rank, role, status, &line);
    abort_job(transport, &line);
    rlf_str_clean_up(&line);
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    rlf_status status = RLF_OK;
    rlf_transport *transport = NULL;
    rlf_config config = {0};
    arguments given;
    trainer_role role = TRAINER_COORDINATOR;
    int exit_status = EXIT_SUCCESS;
    if (asks_for(argc, argv, "--help")) return print_alone(usage);
    if (asks_for(argc, argv, "--version")) return print_alone("rlf-train " RLF_VERSION "\n");
    trainer_signals_hold();
    parse_arguments(argc, argv, &given);
    rlf_status loaded = load_config(&given, &config); /* an error is told once there are ranks to tell it to */
    if (trainer_startup_begin(loaded == RLF_OK ? config.deadline.startup_s : STARTUP_S) != RLF_OK ||
        rlf_transport_new(&transport, &argc, &argv) != RLF_OK) {
        fprintf(stderr, "rlf-train: error: %s (%s)\n", rlf_error_message(), rlf_error_where());
        return EXIT_FAILURE;
    }
    trainer_startup_end();
    if (given.check && rlf_transport_rank(transport) > 0) {
        exit_status = await_stop(transport, CHECK_WAIT_MS) ? EXIT_SUCCESS : EXIT_FAILURE;
        goto out;
    }
    RLF_TRY(loaded);
    if (given.check) RLF_TRY(run_check(transport, &config));
    else RLF_TRY(run_role(transport, &config, &role));
out:
    if (status != RLF_OK) exit_status = end_with_error(transport, role, status);
    exit_status = end(transport, role, exit_status);
    rlf_config_clean_up(&config);
    free(given.overrides);
    return exit_status;
}
