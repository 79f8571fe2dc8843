/* A checkpoint folder opened for one process: what `rlf score` and `rlf generate` need of it. */
#ifndef RLF_TRAINER_CLI_MODEL_H
#define RLF_TRAINER_CLI_MODEL_H

#include "common/text/tokenizer.h"
#include "kernels/transformer/transformer.h"

typedef struct rlf_cli_model {
    rlf_model_layout layout;
    rlf_tokenizer *tokenizer;
    kern_device *device;
    kern_queue *queue;
    kern_model *model; /* NULL until the weights are read */
} rlf_cli_model;

/* The ids that end a text: eos_token_id of DIR's generation_config.json, else of its config.json, else the usual ones. Appended to *out. */
rlf_status rlf_cli_stops(const char *dir, const rlf_tokenizer *tokenizer, rlf_ids *out) RLF_MUST_USE;
/* Those that the tokenizer has of <|im_end|>, <|eot_id|>, <|eom_id|>, which end a turn, and <|endoftext|>, <|end_of_text|>, in this order. */
void rlf_cli_usual_stops(const rlf_tokenizer *tokenizer, rlf_ids *out);

/* Texts of one command: a line of standard input each, or one given as an argument. */
typedef struct rlf_cli_texts {
    rlf_ids *ids; /* (n) owned, each with its own tokens */
    size_t n, longest; /* tokens of the longest */
} rlf_cli_texts;

/* What a command computes on: --device auto, cpu or cuda (the first card), --threads and --isa of the CPU. A card is told on
 * standard error, with a warning. */
bool rlf_cli_device_parse(const char *text, const char **out);
rlf_status rlf_cli_device_open(kern_device **out, const kern_device_options *options) RLF_MUST_USE;

/* Reads DIR/config.json and tokenizer.json, and opens the device. Clean up after failure too. */
rlf_status rlf_cli_model_open(rlf_cli_model *model, const char *dir, const kern_device_options *device) RLF_MUST_USE;
/* Reads the weights, to be stored as `precision` says whatever the files have; RLF_DTYPE_OTHER: as rlf_checkpoint_dtype says, for the factors:
 * as they are stored. `positions`: length of the longest sequence to come. Refuses one longer than the model has positions. */
rlf_status rlf_cli_model_read(rlf_cli_model *model, const char *dir, kern_precision precision, size_t positions) RLF_MUST_USE;
void rlf_cli_model_clean_up(rlf_cli_model *model);

/* Calls `encode` for each text (without its newline) in order; `text` NULL: the lines of standard input. */
typedef rlf_status rlf_cli_encode_fn(void *ctx, const char *text, size_t n, rlf_ids *ids);
rlf_status rlf_cli_texts_read(rlf_cli_texts *texts, const char *text, rlf_cli_encode_fn *encode, void *ctx) RLF_MUST_USE;
void rlf_cli_texts_clean_up(rlf_cli_texts *texts);

/* One line: a JSON array. */
void rlf_cli_print_ids(const rlf_ids *ids);

#endif
