/* metrics.jsonl and its twin for TensorBoard (metrics.h). */
#include "trainer/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/alive.h"
#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/outfile.h"
#include "trainer/files.h"

enum { MAX_BYTES = 1 << 30 };

void trainer_put_real(json_t *object, const char *key, double value) {
    json_object_set_new(object, key, isfinite(value) ? json_real(value) : json_null());
}

void trainer_metrics_cut(const char *text, size_t n, int64_t step, bool evaluated, rlf_str *out, trainer_metrics_kept *kept) {
    const char *end;
    *kept = (trainer_metrics_kept){0};
    for (size_t begin = 0; begin < n; begin = (size_t)(end - text) + 1) {
        end = memchr(text + begin, '\n', n - begin);
        if (!end) return;
        json_t *line = json_loadb(text + begin, (size_t)(end - text) - begin, 0, NULL);
        json_t *at = json_object_get(line, "step");
        bool evaluation = json_object_get(line, "eval");
        if (!json_is_integer(at)) kept->unreadable++;
        else if (json_integer_value(at) <= (evaluation && !evaluated ? step - 1 : step)) {
            rlf_str_append(out, text + begin, (size_t)(end - text) + 1 - begin);
            kept->steps += !evaluation;
            kept->elapsed_s = json_number_value(json_object_get(line, "elapsed_s"));
        }
        json_decref(line);
    }
}

static rlf_status cut_file(const char *path, int64_t step, bool evaluated, double *elapsed_s) {
    rlf_status status = RLF_OK;
    rlf_str text = {0}, out = {0};
    trainer_metrics_kept kept;
    if (step > 0 && trainer_file_exists(path)) RLF_TRY(rlf_str_read_file(&text, path, MAX_BYTES));
    trainer_metrics_cut(text.ptr, text.len, step, evaluated, &out, &kept);
    *elapsed_s = kept.elapsed_s;
    if (kept.unreadable || kept.steps < step)
        RLF_WARN("%s: %zu lines cannot be read and are left out; it has %lld of %lld steps", path, kept.unreadable, (long long)kept.steps,
                 (long long)step);
    RLF_TRY(rlf_outfile_put(path, out.ptr ? out.ptr : "", out.len));
out:
    rlf_str_clean_up(&text);
    rlf_str_clean_up(&out);
    return status;
}

rlf_status trainer_metrics_open(trainer_metrics *metrics, const char *output, int64_t start_step, bool evaluated) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    double elapsed_s = 0;
    memset(metrics, 0, sizeof *metrics);
    rlf_str_printf(&path, "%s/metrics.jsonl", output);
    metrics->path = path.ptr;
    RLF_TRY(cut_file(metrics->path, start_step, evaluated, &elapsed_s));
    metrics->started_s = rlf_now_s() - elapsed_s;
    metrics->file = fopen(metrics->path, "ab");
    if (!metrics->file) RLF_FAIL(IO, "cannot open %s: %s", metrics->path, strerror(errno));
    RLF_TRY(trainer_events_open(&metrics->events, output, start_step > 0 ? start_step + 1 : 0));
out:
    return status;
}

void trainer_metrics_close(trainer_metrics *metrics) {
    if (metrics->file) fclose(metrics->file);
    free(metrics->path);
    trainer_events_close(&metrics->events);
    memset(metrics, 0, sizeof *metrics);
}

rlf_status trainer_metrics_sync(const trainer_metrics *metrics) {
    /* Some file systems cannot sync a file and say so with EINVAL: nothing more can be done there. */
    if (fsync(fileno(metrics->file)) != 0 && errno != EINVAL) return RLF_RAISE(IO, "cannot sync %s: %s", metrics->path, strerror(errno));
    rlf_alive();
    return RLF_OK;
}

double trainer_metrics_elapsed(const trainer_metrics *metrics) { return rlf_now_s() - metrics->started_s; }

static void add_scalars(trainer_events *events, const char *prefix, json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        rlf_str tag = {0};
        rlf_str_printf(&tag, "%s%s%s", prefix, prefix[0] ? "/" : "", key);
        if (json_is_object(value)) add_scalars(events, tag.ptr, value);
        else if (json_is_number(value) && strcmp(key, "step") != 0) trainer_events_add(events, tag.ptr, json_number_value(value));
        rlf_str_clean_up(&tag);
    }
}

rlf_status trainer_metrics_write(trainer_metrics *metrics, int64_t step, json_t *object) {
    rlf_status status = RLF_OK;
    trainer_put_real(object, "elapsed_s", trainer_metrics_elapsed(metrics));
    char *line = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!line) RLF_FAIL(INTERNAL, "metrics of step %lld cannot be encoded", (long long)step);
    if (fprintf(metrics->file, "%s\n", line) < 0 || fflush(metrics->file) != 0)
        RLF_FAIL(IO, "cannot write %s: %s", metrics->path, strerror(errno));
    add_scalars(&metrics->events, "", object);
    RLF_TRY(trainer_events_flush(&metrics->events, step));
out:
    free(line);
    json_decref(object);
    return status;
}
