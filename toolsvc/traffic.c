/* Recording appends lines to one stream; replay is a hash table from the place of a call to its answer (traffic.h). */
#include "toolsvc/traffic.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "toolsvc/map.h"

enum { LINE_MAX_BYTES = 64 << 20 };

typedef struct recorded {
    int64_t started_ms; /* the start of the run that recorded it */
    rlf_call_status status;
    rlf_str text;
} recorded;

struct toolsvc_traffic {
    FILE *file;       /* recording; NULL: replaying */
    char *path;
    toolsvc_map calls;  /* of recorded */
    int64_t started_ms; /* replaying: of the lines being read */
};

typedef rlf_status line_fn(void *user, const char *path, size_t line, json_t *object);

/* Every line of every .jsonl file of a folder, as a JSON object. */
static rlf_status read_file(const char *path, line_fn *each, void *user) {
    rlf_status status = RLF_OK;
    char *text = NULL;
    size_t cap = 0, number = 0;
    FILE *f = fopen(path, "rb");
    if (!f) return RLF_RAISE(IO, "%s: cannot open: %s", path, strerror(errno));
    for (ssize_t n; (n = getline(&text, &cap, f)) > 0;) {
        json_error_t error;
        number++;
        if (text[n - 1] != '\n') break; /* the run was killed while it wrote this line */
        if (n > LINE_MAX_BYTES) RLF_FAIL(LIMIT, "%s:%zu: a line of more than %d bytes", path, number, (int)LINE_MAX_BYTES);
        json_t *object = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &error);
        if (!object) RLF_FAIL(INVALID, "%s:%zu: not JSON: %s", path, number, error.text);
        status = each(user, path, number, object);
        json_decref(object);
        if (status != RLF_OK) goto out;
    }
    if (ferror(f)) RLF_FAIL(IO, "%s: cannot read: %s", path, strerror(errno));
out:
    free(text);
    fclose(f);
    return status;
}

static int is_recording(const struct dirent *entry) {
    size_t n = strlen(entry->d_name);
    return n > 6 && strcmp(entry->d_name + n - 6, ".jsonl") == 0;
}

static rlf_status read_folder(const char *folder, line_fn *each, void *user) {
    struct dirent **names = NULL;
    int n = scandir(folder, &names, is_recording, alphasort);
    rlf_status status = n > 0 ? RLF_OK : RLF_RAISE(NOT_FOUND, "key 'traffic.replay': %s holds no recorded traffic", folder);
    for (int i = 0; i < n; i++) {
        rlf_str path = {0};
        rlf_str_printf(&path, "%s/%s", folder, names[i]->d_name);
        if (status == RLF_OK) status = read_file(path.ptr, each, user);
        rlf_str_clean_up(&path);
        free(names[i]);
    }
    free(names);
    return status;
}

/* ---- recording ---------------------------------------------------------------------------------------------------------------------- */

static rlf_status cannot_write(const toolsvc_traffic *t) {
    return RLF_RAISE(IO, "key 'traffic.record': %s: cannot write: %s", t->path, strerror(errno));
}

static rlf_status put_line(toolsvc_traffic *t, json_t *object) {
    rlf_status status = RLF_OK;
    char *text = json_dumps(object, JSON_COMPACT);
    if (!text) RLF_FAIL(INTERNAL, "key 'traffic.record': %s: a call cannot be encoded", t->path);
    /* Flushed: a killed run leaves every call that its checkpoints have seen. */
    if (fprintf(t->file, "%s\n", text) < 0 || fflush(t->file) != 0) status = cannot_write(t);
out:
    free(text);
    json_decref(object);
    return status;
}

static rlf_status put_functions(toolsvc_traffic *t, const toolsvc_tools *tools) {
    json_t *list = json_array();
    for (size_t i = 0; i < tools->n_functions; i++) {
        const toolsvc_function *f = &tools->functions[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:O}", "tool", tools->v[f->tool].config->name, "name", f->name,
                                              "description", f->description, "parameters", f->parameters));
    }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return put_line(t, json_pack("{s:I, s:o}", "started_ms", (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, "functions", list));
}

/* Cuts off the line that a killed run left unfinished. */
static bool cut_unfinished(FILE *f) {
    char block[4096];
    off_t end = fseeko(f, 0, SEEK_END) == 0 ? ftello(f) : -1;
    while (end > 0) {
        off_t from = end > (off_t)sizeof block ? end - (off_t)sizeof block : 0;
        size_t n = (size_t)(end - from);
        if (fseeko(f, from, SEEK_SET) != 0 || fread(block, 1, n, f) != n) return false;
        const char *newline = memrchr(block, '\n', n);
        end = newline ? from + (newline - block) + 1 : from;
        if (newline) break;
    }
    return end >= 0 && ftruncate(fileno(f), end) == 0 && fseeko(f, 0, SEEK_END) == 0;
}

static rlf_status start_recording(toolsvc_traffic *t, const char *folder, int rank, const toolsvc_tools *tools) {
    rlf_str path = {0};
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) return RLF_RAISE(IO, "key 'traffic.record': %s: %s", folder, strerror(errno));
    rlf_str_printf(&path, "%s/rank_%d.jsonl", folder, rank);
    t->path = path.ptr;
    t->file = fopen(path.ptr, "a+b");
    if (!t->file || !cut_unfinished(t->file)) return RLF_RAISE(IO, "key 'traffic.record': %s: %s", path.ptr, strerror(errno));
    return put_functions(t, tools);
}

rlf_status toolsvc_traffic_note(toolsvc_traffic *t, int64_t version, const rlf_call *m, rlf_call_status status, const rlf_str *text) {
    if (!t || !t->file) return RLF_OK;
    return put_line(t, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s%, s:s%, s:s, s:s%}", "version", (json_int_t)version,
                                 "uid", (json_int_t)m->uid, "sample", (json_int_t)m->sample, "attempt", (json_int_t)m->attempt,
                                 "turn", (json_int_t)m->turn, "call", (json_int_t)m->call, "function", m->tool.ptr, m->tool.len,
                                 "arguments", m->arguments.ptr, m->arguments.len, "status", rlf_call_status_text(status),
                                 "text", text->ptr ? text->ptr : "", text->len));
}

/* ---- replaying ---------------------------------------------------------------------------------------------------------------------- */

static void make_key(int64_t version, const rlf_call *m, rlf_str *out) {
    rlf_str_printf(out, "%lld %lld %lld %lld %lld %lld ", (long long)version, (long long)m->uid, (long long)m->sample,
                   (long long)m->attempt, (long long)m->turn, (long long)m->call);
    rlf_str_append(out, m->tool.ptr, m->tool.len);
    rlf_str_putc(out, '\n');
    rlf_str_append(out, m->arguments.ptr, m->arguments.len);
}

static rlf_slice text_of(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_string(value) ? (rlf_slice){json_string_value(value), json_string_length(value)} : (rlf_slice){NULL, 0};
}

static bool number_of(const json_t *object, const char *key, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    return json_is_integer(value);
}

static bool status_of(rlf_slice text, rlf_call_status *out) {
    for (int i = 0; text.ptr && i < RLF_CALL_STATUS_COUNT; i++) {
        *out = (rlf_call_status)i;
        if (rlf_slice_eq(text, rlf_call_status_text(i))) return true;
    }
    return false;
}

static void free_recorded(void *value) {
    recorded *r = value;
    if (!r) return;
    rlf_str_clean_up(&r->text);
    free(r);
}

/* Keeps the later answer of two: a resumed run makes calls again, and went on with what it was told then. */
static void add_recorded(toolsvc_traffic *t, int64_t version, const rlf_call *m, rlf_call_status status, rlf_slice text) {
    rlf_str key = {0};
    make_key(version, m, &key);
    recorded *before = toolsvc_map_get(&t->calls, (rlf_slice){key.ptr, key.len});
    if (!before || before->started_ms <= t->started_ms) {
        recorded *r = rlf_calloc(1, sizeof *r);
        *r = (recorded){.started_ms = t->started_ms, .status = status};
        rlf_str_append(&r->text, text.ptr, text.len);
        toolsvc_map_put(&t->calls, (rlf_slice){key.ptr, key.len}, r);
        free_recorded(before);
    }
    rlf_str_clean_up(&key);
}

static rlf_status load_line(void *user, const char *path, size_t line, json_t *object) {
    toolsvc_traffic *t = user;
    rlf_call m = {.tool = text_of(object, "function"), .arguments = text_of(object, "arguments")};
    rlf_slice text = text_of(object, "text");
    rlf_call_status status;
    int64_t version;
    if (json_object_get(object, "functions") && number_of(object, "started_ms", &t->started_ms)) return RLF_OK;
    if (!number_of(object, "version", &version) || !number_of(object, "uid", &m.uid) || !number_of(object, "sample", &m.sample) ||
        !number_of(object, "attempt", &m.attempt) || !number_of(object, "turn", &m.turn) || !number_of(object, "call", &m.call) ||
        !m.tool.ptr || !m.arguments.ptr || !text.ptr || !status_of(text_of(object, "status"), &status))
        return RLF_RAISE(INVALID, "%s:%zu: not a recorded call", path, line);
    add_recorded(t, version, &m, status, text);
    return RLF_OK;
}

bool toolsvc_traffic_find(const toolsvc_traffic *t, int64_t version, const rlf_call *m, rlf_call_status *status, const rlf_str **text) {
    rlf_str key = {0};
    make_key(version, m, &key);
    const recorded *r = toolsvc_map_get(&t->calls, (rlf_slice){key.ptr, key.len});
    rlf_str_clean_up(&key);
    if (!r) return false;
    *status = r->status;
    *text = &r->text;
    return true;
}

static rlf_status take_functions(void *user, const char *path, size_t line, json_t *object) {
    json_t **out = user, *list = json_object_get(object, "functions");
    (void)path, (void)line;
    if (!*out && json_is_array(list)) *out = json_incref(list);
    return RLF_OK;
}

rlf_status toolsvc_traffic_functions(const char *folder, json_t **out) {
    *out = NULL;
    rlf_status status = read_folder(folder, take_functions, out);
    if (status == RLF_OK && !*out) status = RLF_RAISE(INVALID, "key 'traffic.replay': %s names no functions", folder);
    return status;
}

/* ---- life --------------------------------------------------------------------------------------------------------------------------- */

rlf_status toolsvc_traffic_open(toolsvc_traffic **out, const rlf_config *config, int rank, const toolsvc_tools *tools) {
    bool records = config->traffic.record && *config->traffic.record, replays = config->traffic.replay && *config->traffic.replay;
    *out = NULL;
    if (!records && !replays) return RLF_OK;
    toolsvc_traffic *t = rlf_calloc(1, sizeof *t);
    rlf_status status = replays ? read_folder(config->traffic.replay, load_line, t)
        : start_recording(t, config->traffic.record, rank, tools);
    if (status == RLF_OK) *out = t;
    else if (toolsvc_traffic_close(t) != RLF_OK) return status; /* the first error counts */
    return status;
}

rlf_status toolsvc_traffic_close(toolsvc_traffic *t) {
    rlf_status status = RLF_OK;
    if (!t) return RLF_OK;
    if (t->file && fclose(t->file) != 0) status = cannot_write(t);
    toolsvc_map_clean_up(&t->calls, free_recorded);
    free(t->path);
    free(t);
    return status;
}

bool toolsvc_traffic_replays(const toolsvc_traffic *t) { return t && !t->file; }
