/* The model's text side, and rows to episodes and supervised sequences (job.h). */
#include <stdlib.h>
#include <string.h>

#include "common/base/alive.h"
#include "common/base/json.h"
#include "trainer/job.h"

static rlf_status check_positions(const trainer_job *job) {
    const rlf_config *config = job->config;
    if (config->episode.max_tokens <= job->shape.max_positions) return RLF_OK;
    return RLF_RAISE(LIMIT, "episode.max_tokens is %lld, but %s has %d positions", (long long)config->episode.max_tokens, config->model.path,
                     job->shape.max_positions);
}

static rlf_status open_chat(trainer_job *job) {
    const rlf_config *config = job->config;
    rlf_status status = rlf_chat_new(&job->chat, job->tokenizer, config->model.path, rlf_chat_options_of(config));
    if (status != RLF_OK) rlf_error_context("key 'episode.chat'");
    return status;
}

static rlf_status check_tags(const trainer_job *job) {
    bool calls = trainer_generates(job->config) && job->config->n_tools > 0 && job->config->episode.max_turns > 0;
    return calls ? rlf_tool_syntax_check(rlf_chat_tool_syntax(job->chat), job->tool_schemas) : RLF_OK;
}

rlf_status trainer_text_open(trainer_job *job) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    RLF_TRY(rlf_model_shape_read(&job->shape, config->model.path));
    RLF_TRY(check_positions(job));
    RLF_TRY(rlf_tokenizer_load(&job->tokenizer, config->model.path));
    RLF_TRY(open_chat(job));
    RLF_TRY(check_tags(job));
out:
    return status;
}

void trainer_text_close(trainer_job *job) {
    rlf_chat_destroy(job->chat);
    rlf_tokenizer_destroy(job->tokenizer);
    rlf_dataset_clean_up(&job->train);
    rlf_dataset_clean_up(&job->eval);
}

/* ---- prompts ---------------------------------------------------------------------------------------------------------------------- */

/* The prompt as chat messages: the row's, behind episode.system where it is set and the row brings no system message. In the arena. */
static const rlf_chat_message *messages_of(const trainer_job *job, const rlf_row *row, rlf_arena *arena, size_t *n) {
    const char *system = job->config->episode.system;
    bool add = system[0] && (row->n_messages == 0 || strcmp(row->messages[0].role, "system") != 0);
    *n = row->n_messages + add;
    if (!add) return row->messages;
    rlf_chat_message *messages = rlf_arena_alloc(arena, *n, sizeof *messages);
    messages[0] = (rlf_chat_message){.role = "system", .content = system};
    memcpy(messages + 1, row->messages, row->n_messages * sizeof *messages);
    return messages;
}

static const json_t *find_schema(const json_t *schemas, const char *name) {
    for (size_t i = 0; i < json_array_size(schemas); i++) {
        const json_t *schema = json_array_get(schemas, i), *named = json_object_get(json_object_get(schema, "function"), "name");
        if (json_is_string(named) && strcmp(json_string_value(named), name) == 0) return schema;
    }
    return NULL;
}

/* The schemas of the row's own tools, in the order of the job. */
static rlf_status choose_schemas(const trainer_job *job, const rlf_row *row, rlf_arena *arena, const char **out) {
    rlf_status status = RLF_OK;
    json_t *all = rlf_json_parse(job->tool_schemas, strlen(job->tool_schemas), 0, NULL), *chosen = json_array();
    for (size_t i = 0; i < row->n_tools; i++)
        if (!find_schema(all, row->tools[i])) RLF_FAIL(INVALID, "'extra_info.tools': no tool of the job offers \"%.64s\"", row->tools[i]);
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *schema = json_array_get(all, i);
        const char *name = json_string_value(json_object_get(json_object_get(schema, "function"), "name"));
        for (size_t k = 0; name && k < row->n_tools; k++)
            if (strcmp(row->tools[k], name) == 0) {
                json_array_append(chosen, schema);
                break;
            }
    }
    char *text = json_array_size(chosen) ? json_dumps(chosen, JSON_COMPACT) : NULL;
    *out = text ? rlf_arena_dup(arena, text, strlen(text)) : NULL;
    free(text);
out:
    json_decref(all);
    json_decref(chosen);
    return status;
}

/* The schemas shown in the row's prompt, in *out: the job's, or those of the functions that extra_info.tools lists; NULL if none are. A
 * name that no tool offers is an error. */
static rlf_status tools_shown(const trainer_job *job, const rlf_row *row, rlf_arena *arena, const char **out) {
    const rlf_config *config = job->config;
    *out = config->n_tools > 0 ? job->tool_schemas : NULL;
    rlf_status status = row->tools ? choose_schemas(job, row, arena, out) : RLF_OK;
    if (!config->episode.tools_in_prompt || config->episode.max_turns == 0) *out = NULL;
    return status;
}

/* What an episode of a row begins with. */
typedef struct prompt {
    const rlf_chat_message *messages; /* (n) */
    size_t n;
    const char *tools; /* NULL: none are shown */
    size_t tokens;
} prompt;

/* Makes the prompt of a row and measures it; errors name file and line. */
static rlf_status prompt_of(const trainer_job *job, const rlf_row *row, const char *file, rlf_arena *arena, prompt *out) {
    rlf_ids ids = {0};
    int64_t most = job->config->episode.max_prompt_tokens;
    rlf_status status = tools_shown(job, row, arena, &out->tools);
    out->messages = messages_of(job, row, arena, &out->n);
    if (status == RLF_OK) status = rlf_chat_prompt(job->chat, out->messages, out->n, out->tools, &ids);
    if (status == RLF_OK && (int64_t)ids.n > most)
        status = RLF_RAISE(LIMIT, "the prompt has %zu tokens, episode.max_prompt_tokens is %lld", ids.n, (long long)most);
    if (status != RLF_OK) rlf_error_context("%s:%zu", file, row->line);
    out->tokens = ids.n;
    rlf_ids_clean_up(&ids);
    return status;
}

static void put_texts(rlf_episode *out, const rlf_chat_message *messages, size_t n, const rlf_row *row, rlf_arena *arena) {
    out->prompt.v = rlf_arena_alloc(arena, n, sizeof *out->prompt.v);
    out->prompt.n = n;
    for (size_t i = 0; i < n; i++) {
        out->prompt.v[i].role = rlf_slice_of(messages[i].role);
        out->prompt.v[i].content = rlf_slice_of(messages[i].content);
        out->prompt.v[i].reasoned = messages[i].reasoning != NULL;
        out->prompt.v[i].reasoning = rlf_slice_of(messages[i].reasoning ? messages[i].reasoning : "");
        out->prompt.v[i].tool_calls = rlf_slice_of(messages[i].tool_calls ? messages[i].tool_calls : "");
    }
    out->targets.v = rlf_arena_alloc(arena, row->n_targets, sizeof *out->targets.v);
    out->targets.n = row->n_targets;
    for (size_t i = 0; i < row->n_targets; i++) out->targets.v[i].text = rlf_slice_of(row->targets[i]);
}

static void put_limits(rlf_episode *out, const rlf_config *config, rlf_sampling sampling, rlf_arena *arena) {
    out->limits.v = rlf_arena_alloc(arena, 1, sizeof *out->limits.v);
    out->limits.n = 1;
    out->limits.v[0] = (rlf_limits){.turns = config->episode.max_turns, .turn_tokens = config->episode.max_turn_tokens,
                                    .observation_tokens = config->episode.max_observation_tokens, .tokens = config->episode.max_tokens,
                                    .timeout_ms = config->episode.timeout_s * 1000};
    out->sampling.v = rlf_arena_alloc(arena, 1, sizeof *out->sampling.v);
    out->sampling.n = 1;
    out->sampling.v[0] = sampling;
}

rlf_status trainer_episode_of(const trainer_job *job, const rlf_row *row, const char *file, int64_t uid, int64_t samples,
                              rlf_sampling sampling, rlf_arena *arena, rlf_episode *out) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    prompt p;
    RLF_TRY(prompt_of(job, row, file, arena, &p));
    *out = (rlf_episode){.uid = uid, .samples = samples, .seed = config->seed, .version = job->published,
                         .tools = rlf_slice_of(p.tools ? p.tools : ""),
                         .data_source = rlf_slice_of(row->data_source), .extra = rlf_slice_of(row->extra)};
    put_texts(out, p.messages, p.n, row, arena);
    put_limits(out, config, sampling, arena);
out:
    return status;
}

/* ---- supervised ----------------------------------------------------------------------------------------------------------------- */

typedef struct span_list {
    rlf_span *v;
    size_t n, cap;
} span_list;

/* Version -1: nothing sampled these tokens, so no log-prob of a rollout is compared. */
static void add_span(void *ctx, size_t begin, size_t end, bool model) {
    span_list *list = ctx;
    rlf_span_kind kind = model ? RLF_SPAN_MODEL : list->n == 0 ? RLF_SPAN_PROMPT : RLF_SPAN_OBSERVATION;
    list->v = rlf_grow(list->v, list->n, &list->cap, sizeof *list->v);
    list->v[list->n] = (rlf_span){.begin = (int64_t)begin, .end = (int64_t)end, .kind = kind, .turn = (int64_t)list->n / 2, .version = -1};
    list->n++;
}

static void keep(rlf_sequence *out, const rlf_ids *ids, const span_list *spans, rlf_arena *arena) {
    out->tokens.v = rlf_arena_alloc(arena, ids->n, sizeof *out->tokens.v);
    memcpy(out->tokens.v, ids->v, ids->n * sizeof *ids->v);
    out->logprobs.v = rlf_arena_alloc(arena, ids->n, sizeof *out->logprobs.v);
    out->tokens.n = out->logprobs.n = ids->n;
    out->spans.v = rlf_arena_alloc(arena, spans->n, sizeof *out->spans.v);
    memcpy(out->spans.v, spans->v, spans->n * sizeof *spans->v);
    out->spans.n = spans->n;
}

rlf_status trainer_supervised_of(const trainer_job *job, const rlf_row *row, int64_t uid, rlf_arena *arena, rlf_sequence *out) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    rlf_ids ids = {0};
    span_list spans = {0};
    size_t n;
    const rlf_chat_message *messages = messages_of(job, row, arena, &n);
    const char *tools;
    status = tools_shown(job, row, arena, &tools);
    if (status == RLF_OK)
        status = rlf_chat_supervised(job->chat, messages, n, tools, (size_t)config->episode.max_observation_tokens, &ids, add_span, &spans);
    if (status != RLF_OK) {
        rlf_error_context("%s:%zu", config->data.train, row->line);
        goto out;
    }
    if ((int64_t)ids.n > config->episode.max_tokens)
        RLF_FAIL(LIMIT, "%s:%zu: the row has %zu tokens, episode.max_tokens is %lld", config->data.train, row->line, ids.n,
                 (long long)config->episode.max_tokens);
    *out = (rlf_sequence){.uid = uid, .advantage = 1, .weight = 1};
    keep(out, &ids, &spans, arena);
out:
    rlf_ids_clean_up(&ids);
    free(spans.v);
    return status;
}

/* ---- all rows --------------------------------------------------------------------------------------------------------------------- */

static void measured(trainer_lengths *lengths, size_t tokens) {
    lengths->rows++;
    lengths->total += (int64_t)tokens;
    if ((int64_t)tokens > lengths->longest) lengths->longest = (int64_t)tokens;
    rlf_alive();
}

/* The prompts of the first `limit` rows; 0: of all. */
static rlf_status measure_prompts(trainer_job *job, const rlf_dataset *data, int64_t limit, const char *file, trainer_lengths *out) {
    rlf_status status = RLF_OK;
    size_t rows = limit > 0 && (size_t)limit < data->n ? (size_t)limit : data->n;
    for (size_t i = 0; i < rows; i++) {
        prompt p;
        rlf_arena_reset(&job->arena);
        RLF_TRY(prompt_of(job, &data->rows[i], file, &job->arena, &p));
        measured(out, p.tokens);
    }
out:
    return status;
}

static rlf_status measure_supervised(trainer_job *job, trainer_lengths *out) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; i < job->train.n; i++) {
        rlf_sequence sequence;
        rlf_arena_reset(&job->arena);
        RLF_TRY(trainer_supervised_of(job, &job->train.rows[i], 1, &job->arena, &sequence));
        measured(out, sequence.tokens.n);
    }
out:
    return status;
}

rlf_status trainer_data_load(trainer_job *job, trainer_lengths *train, trainer_lengths *eval) {
    rlf_status status = RLF_OK;
    const rlf_config *config = job->config;
    const bool supervised = trainer_mode_is(config, "sft");
    *train = *eval = (trainer_lengths){0};
    if (!trainer_mode_is(config, "eval")) {
        RLF_TRY(rlf_dataset_load(&job->train, config->data.train, supervised));
        RLF_TRY(supervised ? measure_supervised(job, train) : measure_prompts(job, &job->train, 0, config->data.train, train));
        job->state.rows = (int64_t)job->train.n;
        job->state.rows_checksum = job->train.checksum;
    }
    if (config->data.eval[0]) {
        RLF_TRY(rlf_dataset_load(&job->eval, config->data.eval, false));
        RLF_TRY(measure_prompts(job, &job->eval, config->data.eval_limit, config->data.eval, eval));
    }
out:
    return status;
}
