/* TensorBoard event files (events.h). */
#include "trainer/events.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint32_t trainer_crc32c(const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static uint32_t masked_crc(const void *bytes, size_t n) {
    uint32_t crc = trainer_crc32c(bytes, n);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* ---- protobuf: varint fields (wire type 0), doubles (1), bytes (2), floats (5) -------------------------------------------------- */

static void put_varint(rlf_str *out, uint64_t value) {
    for (; value >= 0x80; value >>= 7) rlf_str_putc(out, (char)(value | 0x80));
    rlf_str_putc(out, (char)value);
}

static void put_number(rlf_str *out, int field, int64_t value) {
    put_varint(out, (uint64_t)field << 3);
    put_varint(out, (uint64_t)value);
}

static void put_double(rlf_str *out, int field, double value) {
    put_varint(out, (uint64_t)field << 3 | 1);
    rlf_str_append(out, &value, sizeof value);
}

static void put_float(rlf_str *out, int field, float value) {
    put_varint(out, (uint64_t)field << 3 | 5);
    rlf_str_append(out, &value, sizeof value);
}

static void put_bytes(rlf_str *out, int field, const void *bytes, size_t n) {
    put_varint(out, (uint64_t)field << 3 | 2);
    put_varint(out, n);
    rlf_str_append(out, bytes, n);
}

/* ---- records -------------------------------------------------------------------------------------------------------------------- */

static rlf_status write_record(trainer_events *events, const rlf_str *event) {
    uint64_t length = event->len;
    uint32_t length_crc = masked_crc(&length, sizeof length), data_crc = masked_crc(event->ptr, event->len);
    bool ok = fwrite(&length, sizeof length, 1, events->file) == 1 && fwrite(&length_crc, sizeof length_crc, 1, events->file) == 1 &&
              fwrite(event->ptr, event->len, 1, events->file) == 1 && fwrite(&data_crc, sizeof data_crc, 1, events->file) == 1 &&
              fflush(events->file) == 0;
    return ok ? RLF_OK : RLF_RAISE(IO, "cannot write %s: %s", events->path, strerror(errno));
}

static rlf_status write_event(trainer_events *events, int64_t step, int field, const void *bytes, size_t n) {
    struct timespec now;
    rlf_str event = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    put_double(&event, 1, (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    if (step != 0) put_number(&event, 2, step);
    put_bytes(&event, field, bytes, n);
    rlf_status status = write_record(events, &event);
    rlf_str_clean_up(&event);
    return status;
}

rlf_status trainer_events_open(trainer_events *events, const char *folder, int64_t first_step) {
    rlf_status status = RLF_OK;
    rlf_str path = {0};
    char host[64] = "host";
    static const char version[] = "brain.Event:2", started[] = {0x08, 0x01}; /* SessionLog {status: START} */
    memset(events, 0, sizeof *events);
    (void)gethostname(host, sizeof host - 1);
    rlf_str_printf(&path, "%s/events.out.tfevents.%010lld.%s.%d", folder, (long long)time(NULL), host, (int)getpid());
    events->path = path.ptr;
    events->file = fopen(events->path, "wb");
    if (!events->file) RLF_FAIL(IO, "cannot create %s: %s", events->path, strerror(errno));
    RLF_TRY(write_event(events, 0, 3, version, sizeof version - 1));
    RLF_TRY(write_event(events, first_step, 7, started, sizeof started));
out:
    if (status != RLF_OK) trainer_events_close(events);
    return status;
}

void trainer_events_close(trainer_events *events) {
    if (events->file) fclose(events->file);
    free(events->path);
    rlf_str_clean_up(&events->record);
    memset(events, 0, sizeof *events);
}

void trainer_events_add(trainer_events *events, const char *tag, double value) {
    rlf_str scalar = {0};
    put_bytes(&scalar, 1, tag, strlen(tag));
    put_float(&scalar, 2, (float)value);
    put_bytes(&events->record, 1, scalar.ptr, scalar.len);
    rlf_str_clean_up(&scalar);
}

rlf_status trainer_events_flush(trainer_events *events, int64_t step) {
    if (events->record.len == 0) return RLF_OK;
    rlf_status status = write_event(events, step, 5, events->record.ptr, events->record.len);
    rlf_str_reset(&events->record);
    return status;
}
