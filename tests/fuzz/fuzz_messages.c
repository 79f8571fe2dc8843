/* Fuzzes the message decoder: first byte chooses the type, the rest are the bytes. */
#include <stdint.h>

#include "common/msg/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    union { rlf_episode a; rlf_trajectory b; rlf_batch c; rlf_score d; char bytes[1024]; } record;
    rlf_arena arena = {0};
    rlf_status status = rlf_message_decode((rlf_message_type)(data[0] % (RLF_MSG_COUNT + 1)), data + 1, size - 1, 0, &arena, &record);
    (void)status;
    rlf_arena_clean_up(&arena);
    return 0;
}
