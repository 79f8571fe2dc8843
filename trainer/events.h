/* A TensorBoard event file: scalars only. Records are framed as TFRecord (length, masked CRC-32C, data, masked CRC-32C); a record is a
 * hand-encoded Event (tensorflow/core/util/event.proto: wall_time 1, step 2, file_version 3, summary 5, session_log 7; Summary.Value:
 * tag 1, simple_value 2).
 *
 * A resumed run opens a new file which tells TensorBoard to drop what earlier files hold from its first step on. Private to trainer/. */
#ifndef RLF_TRAINER_EVENTS_H
#define RLF_TRAINER_EVENTS_H

#include <stdint.h>
#include <stdio.h>

#include "common/base/mem.h"

typedef struct trainer_events {
    FILE *file;
    char *path;       /* owned */
    rlf_str record;   /* the summary being built */
} trainer_events;

/* Makes FOLDER/events.out.tfevents.TIME.HOST.PID. Steps from `first_step` on are this file's. */
rlf_status trainer_events_open(trainer_events *events, const char *folder, int64_t first_step) RLF_MUST_USE;
void trainer_events_close(trainer_events *events);
/* Adds a scalar to the record under way. */
void trainer_events_add(trainer_events *events, const char *tag, double value);
/* Writes the record under way, and hands it to the system. */
rlf_status trainer_events_flush(trainer_events *events, int64_t step) RLF_MUST_USE;

/* CRC-32C (Castagnoli), as in RFC 3720 B.4. */
uint32_t trainer_crc32c(const void *bytes, size_t n);

#endif
