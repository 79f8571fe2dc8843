/* The progress line (progress.h). */
#include "trainer/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"

#define BAR_EVERY_S 0.25
#define LINE_EVERY_S 5.0
enum { BAR_WIDTH = 24 };

static bool launcher_on_terminal(void) {
    char link[64], target[64];
    snprintf(link, sizeof link, "/proc/%d/fd/2", (int)getppid());
    ssize_t n = readlink(link, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = '\0';
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

void trainer_progress_init(trainer_progress *progress, bool on, const char *mode, int64_t start, int64_t steps) {
    *progress = (trainer_progress){.on = on, .start = start, .step = start, .steps = steps, .reward = NAN, .exact = NAN, .loss = NAN};
    progress->bar = isatty(STDERR_FILENO) || launcher_on_terminal();
    progress->begun_s = progress->drawn_s = rlf_now_s();
    snprintf(progress->mode, sizeof progress->mode, "%s", mode);
}

static void put_time(rlf_str *out, double seconds) {
    long s = (long)(seconds + 0.5);
    if (s >= 3600) rlf_str_printf(out, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s >= 60) rlf_str_printf(out, "%ldm%02lds", s / 60, s % 60);
    else rlf_str_printf(out, "%lds", s);
}

void trainer_progress_line(const trainer_progress *p, double now_s, rlf_str *out) {
    double elapsed = now_s - p->begun_s;
    int filled = p->steps > 0 ? (int)(BAR_WIDTH * p->step / p->steps) : 0;
    rlf_str_printf(out, "%s [", p->mode);
    for (int i = 0; i < BAR_WIDTH; i++) rlf_str_putc(out, i < filled ? '#' : '-');
    rlf_str_printf(out, "] %lld/%lld", (long long)p->step, (long long)p->steps);
    if (isfinite(p->reward)) rlf_str_printf(out, "  reward %.3f", p->reward);
    if (isfinite(p->exact)) rlf_str_printf(out, "  exact %.3f", p->exact);
    if (!isfinite(p->reward) && isfinite(p->loss)) rlf_str_printf(out, "  loss %.4f", p->loss);
    if (elapsed > 0) rlf_str_printf(out, "  %.0f tok/s", (double)p->tokens / elapsed);
    if (p->step > p->start && p->step < p->steps) {
        rlf_str_puts(out, "  ");
        put_time(out, elapsed / (double)(p->step - p->start) * (double)(p->steps - p->step));
        rlf_str_puts(out, " left");
    }
}

void trainer_progress_draw(trainer_progress *p, bool force) {
    double now = rlf_now_s();
    if (!p->on || (!force && now - p->drawn_s < (p->bar ? BAR_EVERY_S : LINE_EVERY_S))) return;
    rlf_str line = {0};
    if (p->bar) rlf_str_puts(&line, "\r");
    trainer_progress_line(p, now, &line);
    rlf_str_puts(&line, p->bar ? "\033[K" : "\n");
    fwrite(line.ptr, line.len, 1, stderr);
    fflush(stderr);
    rlf_str_clean_up(&line);
    p->drawn = p->bar;
    p->drawn_s = now;
}

void trainer_progress_clear(trainer_progress *p) {
    if (p->drawn) fputc('\n', stderr);
    p->drawn = false;
}
