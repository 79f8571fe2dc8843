/* A service that fails in every way, and the check of a run that used it. What a call meets is a function of its query alone, so that the
 * check knows what ought to have been counted.
 *
 *   faulty serve                       prints its port, then answers until it is killed
 *   faulty check RUN RETRIES ATTEMPTS  exact: counts by name, episodes lost, what has no part in loss and baseline
 *
 * RETRIES and ATTEMPTS are the executions of a failing call and of a failing episode, the first included. */
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>

#include "../unit/toolsvc/loopback.h"

/* Of 20 queries 6 meet a 500. name: what the execution is counted under; infra: whether it is the service's fault. */
typedef struct fault {
    int first; /* of the residues that meet it */
    const char *path, *name, *status;
    bool infra;
} fault;

static const fault faults[] = {{0, "/status/500 ", "http_5xx", "infra_error", true},
                               {6, "/reset ", "http_reset", "infra_error", true},
                               {7, "/stall ", "cancelled", "timeout", false},
                               {8, "/huge ", "http_too_large", "infra_error", true},
                               {9, "/utf8 ", "invalid_utf8", "infra_error", true},
                               {10, "/json ", "invalid_json", "infra_error", true},
                               {11, "/to?http://169.254.169.254/ ", "http_redirect", "infra_error", true},
                               {12, "/refuse ", "http_4xx", "tool_error", false},
                               {14, "/tell ", "", "ok", false}};
enum { FAULTS = sizeof faults / sizeof *faults, RESIDUES = 20 };

static const fault *fault_of(const char *query) {
    uint32_t h = 2166136261u;
    for (; *query; query++) h = (h ^ (unsigned char)*query) * 16777619u; /* FNV-1a */
    h ^= h >> 15;
    const fault *found = faults;
    for (size_t i = 0; i < FAULTS; i++)
        if (h % RESIDUES >= (uint32_t)faults[i].first) found = &faults[i];
    return found;
}

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* ---- serve -------------------------------------------------------------------------------------------------------------------------- */

static const char *choose(const char *body, size_t n) {
    json_t *root = json_loadb(body, n, 0, NULL);
    const char *query = json_string_value(json_object_get(root, "query")), *path = query ? fault_of(query)->path : "/status/400 ";
    json_decref(root);
    return path;
}

static int serve(void) {
    uv_loop_t loop;
    loopback server;
    if (uv_loop_init(&loop) != 0 || !loopback_start(&server, &loop)) die("no server");
    server.choose = choose;
    signal(SIGPIPE, SIG_IGN); /* of callers that hang up in the middle of 1 GB */
    printf("%d\n", server.http.port);
    fflush(stdout);
    return uv_run(&loop, UV_RUN_DEFAULT);
}

/* ---- check -------------------------------------------------------------------------------------------------------------------------- */

typedef struct tally {
    int retries, attempts;
    int64_t named[FAULTS], calls, episodes, lost;
    int64_t loose; /* executions that may not have come to their end */
    double reward; /* sum over episodes that count */
} tally;

static json_t *read_object(const char *path) {
    json_t *object = json_load_file(path, 0, NULL);
    if (!object) die("%s: no JSON object", path);
    return object;
}

/* A call of a trajectory; true: it is the service's fault that the episode was lost. loose: it may have been given up with the episode. */
static bool take_call(tally *t, const json_t *turn, int attempts, bool loose) {
    const char *status = json_string_value(json_object_get(turn, "status")), *text = json_string_value(json_object_get(turn, "arguments"));
    json_t *arguments = json_loads(text, 0, NULL);
    const char *query = json_string_value(json_object_get(arguments, "query"));
    if (strcmp(status, "bad_call") == 0) {
        json_decref(arguments);
        return false;
    }
    const fault *met = fault_of(query);
    if (strcmp(met->status, status) != 0 && !loose) die("\"%s\" has the status %s; %s was expected", query, status, met->status);
    t->calls += attempts;
    t->loose += loose ? attempts * t->retries : 0;
    t->named[met - faults] += attempts * (met->infra ? t->retries : 1);
    json_decref(arguments);
    return met->infra;
}

static bool is_lost(const json_t *episode) { return strcmp(json_string_value(json_object_get(episode, "finish")), "infra") == 0; }
static double number(const json_t *object, const char *key) { return json_number_value(json_object_get(object, key)); }

/* Advantages of one group: GRPO's, (reward - mean) / deviation, over those of its episodes that were not lost (a single one has the mean 0
 * and the deviation 1); 0 for the others. */
static void check_group(json_t *const *episodes, size_t n) {
    double sum = 0, square = 0, count = 0;
    for (size_t i = 0; i < n; i++)
        if (!is_lost(episodes[i])) sum += number(episodes[i], "reward"), count++;
    double mean = count > 1 ? sum / count : 0;
    for (size_t i = 0; i < n; i++)
        if (!is_lost(episodes[i])) square += pow(number(episodes[i], "reward") - mean, 2);
    double deviation = count > 1 ? sqrt(square / (count - 1)) : 1;
    for (size_t i = 0; i < n; i++) {
        double wanted = is_lost(episodes[i]) ? 0 : (number(episodes[i], "reward") - mean) / (deviation + 1e-6);
        if (fabs(number(episodes[i], "advantage") - wanted) > 1e-6)
            die("an advantage of %g; %g was expected over the episodes that count", number(episodes[i], "advantage"), wanted);
    }
}

static void take_episode(tally *t, const json_t *episode) {
    const json_t *turns = json_object_get(episode, "turns");
    bool lost = is_lost(episode), broken = false;
    const json_t *last = json_array_get(turns, json_array_size(turns) ? json_array_size(turns) - 1 : 0);
    bool several = lost && json_integer_value(json_object_get(last, "call")) > 0; /* the first of these that failed ended the episode */
    int attempts = lost ? t->attempts : 1;
    if (lost && json_integer_value(json_object_get(episode, "attempt")) != t->attempts - 1) die("a lost episode was not tried again");
    for (size_t i = 0; i < json_array_size(turns); i++) {
        const json_t *turn = json_array_get(turns, i);
        bool loose = several && json_integer_value(json_object_get(turn, "turn")) == json_integer_value(json_object_get(last, "turn"));
        broken |= take_call(t, turn, attempts, loose);
    }
    if (broken != lost) die("an episode is %s, its calls are %s", lost ? "lost" : "whole", broken ? "broken" : "whole");
    t->episodes++;
    t->lost += lost;
    if (!lost) t->reward += number(episode, "reward");
}

/* The trajectories of one step, groups of the same uid one after another; then what metrics say of the same step. */
static void check_step(tally *t, const char *run, int64_t step, const json_t *metrics) {
    enum { MOST = 64 };
    json_t *group[MOST];
    char path[4096], *line = NULL;
    size_t cap = 0, n = 0;
    int64_t episodes = t->episodes, lost = t->lost;
    double reward = t->reward;
    snprintf(path, sizeof path, "%s/rollouts/step_%06lld.jsonl", run, (long long)step);
    FILE *f = fopen(path, "r");
    if (!f) die("%s: cannot open", path);
    while (getline(&line, &cap, f) > 0) {
        json_t *episode = json_loads(line, 0, NULL);
        if (!episode) die("%s: not JSON", path);
        take_episode(t, episode);
        if (n && json_integer_value(json_object_get(group[0], "uid")) != json_integer_value(json_object_get(episode, "uid"))) {
            check_group(group, n);
            while (n) json_decref(group[--n]);
        }
        if (n == MOST) die("%s: a group of more than %d", path, (int)MOST);
        group[n++] = episode;
    }
    check_group(group, n);
    while (n) json_decref(group[--n]);
    free(line);
    fclose(f);
    episodes = t->episodes - episodes, lost = t->lost - lost, reward = (t->reward - reward) / (double)(episodes - lost);
    if (json_integer_value(json_object_get(metrics, "infra")) != lost) die("step %lld: infra is not %lld", (long long)step, (long long)lost);
    if (fabs(number(metrics, "reward_mean") - reward) > 1e-6) die("step %lld: reward_mean is not %g", (long long)step, reward);
    if (json_integer_value(json_object_get(metrics, "retried")) != lost * (t->attempts - 1)) die("step %lld: retried is not what it ought to be", (long long)step);
}

static void check_count(const json_t *counts, const char *name, int64_t wanted, int64_t loose) {
    char key[64];
    snprintf(key, sizeof key, "search.%s", name);
    int64_t n = json_integer_value(json_object_get(counts, key));
    printf("    %-22s %lld\n", key, (long long)n);
    if (n > wanted + loose || n < wanted - loose) die("%s is %lld; %lld was expected", key, (long long)n, (long long)wanted);
    if (n == 0) die("%s never happened", key);
}

static int check(const char *run, int retries, int attempts) {
    tally t = {.retries = retries, .attempts = attempts};
    char path[4096], *line = NULL;
    size_t cap = 0;
    int64_t steps = 0, infra = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    FILE *f = fopen(path, "r");
    if (!f) die("%s: cannot open", path);
    while (getline(&line, &cap, f) > 0) {
        json_t *metrics = json_loads(line, 0, NULL);
        check_step(&t, run, ++steps, metrics);
        json_decref(metrics);
    }
    free(line);
    fclose(f);
    snprintf(path, sizeof path, "%s/summary.json", run);
    json_t *summary = read_object(path), *counts = json_object_get(summary, "tools");
    printf("    %lld episodes in %lld steps, %lld lost; executions that may be missing: %lld\n", (long long)t.episodes, (long long)steps,
           (long long)t.lost, (long long)t.loose);
    check_count(counts, "calls", t.calls, t.loose);
    for (size_t i = 0; i < FAULTS; i++) {
        if (*faults[i].name) check_count(counts, faults[i].name, t.named[i], t.loose);
        infra += faults[i].infra ? t.named[i] : 0;
    }
    check_count(counts, "infra_errors", infra, t.loose);
    json_decref(summary);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "serve") == 0) return serve();
    if (argc == 5 && strcmp(argv[1], "check") == 0) return check(argv[2], (int)strtol(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10));
    die("usage: faulty serve | faulty check RUN RETRIES ATTEMPTS");
}
