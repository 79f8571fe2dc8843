/* A program behind the kind "process", for tests: toolsvc/PROCESS.md's protocol, and every way to break it. The function `search` tells
 * its `query`, how often its episode asked, and the episode's number: its seed modulo 1000, and how often it asked. The argument
 * `what` of the others, `do` and `do_too`, says what they do:
 *   echo      answers `text`
 *   keep      answers only when `release` comes, then all that were kept, the last first, in one line
 *   add       adds 1 to the episode's number, which starts as its seed modulo 1000, and answers {"n": …, "extra": its extra_info}
 *   count     answers what was received so far: {"opens", "closes", "cancels", "batches", "largest", "alive": episodes open}
 *   key, pid  answers the environment variable KEY, its process
 *   fail, infra        errors, of the tool and of the service
 *   die, garbage, stranger, mute, hang, deaf, endless    ends with status 3, says what is no answer, answers a number that was never
 *             given, closes its output, reads no more, so too and ignores SIGTERM, says a line without end
 * First argument: `describe` answers describe with functions; `silent` does not answer it; `refuses` answers with an error;
 *             `none` offers none; `ends` ends at once.
 * Second: the number of calls of `search` after which it ends. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_EPISODES = 4096 };

static struct { json_int_t episode, n, asked; json_t *extra; } episodes[MOST_EPISODES];
static long searches_left = -1;
static int opens, closes, cancels, batches, largest;
static json_t *kept;

static void say(json_t *value) {
    char *text = json_dumps(value, JSON_COMPACT);
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(value);
}

static void answer(json_t *id, const char *key, json_t *value) { say(json_pack("{s:O, s:o}", "id", id, key, value)); }

static int find_episode(json_int_t episode) {
    int i = 0;
    while (i < MOST_EPISODES - 1 && episodes[i].episode != episode) i++;
    return i;
}

static void release(json_t *id) {
    json_t *all = json_array();
    for (size_t i = json_array_size(kept); i--;) json_array_append(all, json_array_get(kept, i));
    json_array_clear(kept);
    json_array_append_new(all, json_pack("{s:O, s:s}", "id", id, "result", "released"));
    say(all);
}

static void add(json_t *id, json_t *call) {
    int i = find_episode(json_integer_value(json_object_get(call, "episode")));
    json_t *extra = episodes[i].extra ? json_incref(episodes[i].extra) : json_null();
    answer(id, "result", json_pack("{s:I, s:o}", "n", ++episodes[i].n, "extra", extra));
}

static void search(json_t *id, json_t *call, const char *query) {
    int i = find_episode(json_integer_value(json_object_get(call, "episode")));
    if (searches_left-- == 0) exit(4);
    answer(id, "result", json_sprintf("Doc 1(Title: %.200s) Question %d, at %d.", query, (int)++episodes[i].asked, (int)++episodes[i].n));
}

static void count(json_t *id) {
    int alive = 0;
    for (int i = 0; i < MOST_EPISODES; i++) alive += episodes[i].episode != 0;
    answer(id, "result", json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "opens", opens, "closes", closes, "cancels", cancels, "batches",
                                   batches, "largest", largest, "alive", alive));
}

static void say_endlessly(void) {
    for (;;) fputs("{\"id\": 1, \"result\": \"", stdout);
}

static void sleep_on(void) {
    for (;;) pause();
}

static void break_off(const char *what) {
    if (!strcmp(what, "die")) fputs("no more\n", stderr), exit(3);
    if (!strcmp(what, "garbage")) puts("Traceback: \xff oh");
    if (!strcmp(what, "stranger")) puts("{\"id\": 900000, \"result\": \"\"}");
    fflush(stdout);
    if (!strcmp(what, "mute")) close(1), sleep_on();
    if (!strcmp(what, "deaf")) signal(SIGTERM, SIG_IGN), sleep_on();
    if (!strcmp(what, "hang")) sleep_on();
    if (!strcmp(what, "endless")) say_endlessly();
}

static void take_call(json_t *call) {
    json_t *id = json_object_get(call, "id"), *arguments = json_object_get(call, "arguments");
    const char *what = json_string_value(json_object_get(arguments, "what")), *key = getenv("KEY");
    if (!what) search(id, call, json_string_value(json_object_get(arguments, "query")));
    else if (!strcmp(what, "echo")) answer(id, "result", json_incref(json_object_get(arguments, "text")));
    else if (!strcmp(what, "keep"))
        json_array_append_new(kept, json_pack("{s:O, s:O}", "id", id, "result", json_object_get(arguments, "text")));
    else if (!strcmp(what, "release")) release(id);
    else if (!strcmp(what, "add")) add(id, call);
    else if (!strcmp(what, "count")) count(id);
    else if (!strcmp(what, "key")) answer(id, "result", json_string(key ? key : ""));
    else if (!strcmp(what, "pid")) answer(id, "result", json_integer(getpid()));
    else if (!strcmp(what, "fail")) answer(id, "error", json_string("no such thing"));
    else if (!strcmp(what, "infra")) answer(id, "infra_error", json_string("out of order"));
    else break_off(what);
}

static void take_batch(json_t *calls) {
    batches++;
    if ((int)json_array_size(calls) > largest) largest = (int)json_array_size(calls);
    for (size_t i = 0; i < json_array_size(calls); i++) take_call(json_array_get(calls, i));
}

static void open_episode(json_t *line) {
    int i = find_episode(0);
    opens++;
    episodes[i].episode = json_integer_value(json_object_get(line, "episode"));
    episodes[i].asked = 0;
    episodes[i].n = json_integer_value(json_object_get(line, "seed")) % 1000;
    episodes[i].extra = json_incref(json_object_get(line, "extra_info"));
}

static void close_episode(json_t *line) {
    int i = find_episode(json_integer_value(json_object_get(line, "episode")));
    closes++;
    episodes[i].episode = 0;
    json_decref(episodes[i].extra);
    episodes[i].extra = NULL;
}

static void describe(json_t *line, const char *how) {
    json_t *schema = json_pack("{s:s, s:{s:{s:s}}, s:[s]}", "type", "object", "properties", "what", "type", "string", "required", "what");
    json_t *query = json_pack("{s:s, s:{s:{s:s}}, s:[s]}", "type", "object", "properties", "query", "type", "string", "required", "query");
    json_t *functions = !strcmp(how, "none") ? json_array()
        : json_pack("[{s:s, s:s, s:O}, {s:s, s:s, s:O}, {s:s, s:s, s:O}]", "name", "do", "description", "Does what it is told.",
                    "parameters", schema, "name", "do_too", "description", "So does this.", "parameters", schema, "name", "search",
                    "description", "Tells every query.", "parameters", query);
    if (strcmp(how, "silent") != 0) answer(json_object_get(line, "id"), "functions", functions);
    else json_decref(functions);
    json_decref(schema);
    json_decref(query);
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "describe";
    char *text = NULL;
    size_t cap = 0;
    kept = json_array();
    if (argc > 2) searches_left = strtol(argv[2], NULL, 10);
    if (!strcmp(how, "ends")) return fputs("cannot load the model\n", stderr), 2;
    while (getline(&text, &cap, stdin) > 0) {
        json_t *line = json_loads(text, 0, NULL);
        const char *op = json_string_value(json_object_get(line, "op"));
        if (!strcmp(op, "describe") && !strcmp(how, "refuses")) answer(json_object_get(line, "id"), "error", json_string("not today"));
        else if (!strcmp(op, "describe")) describe(line, how);
        else if (!strcmp(op, "open")) open_episode(line);
        else if (!strcmp(op, "close")) close_episode(line);
        else if (!strcmp(op, "cancel")) cancels++;
        else if (!strcmp(op, "batch")) take_batch(json_object_get(line, "calls"));
        else take_call(line);
        json_decref(line);
    }
    json_decref(kept);
    free(text);
    return 0;
}
