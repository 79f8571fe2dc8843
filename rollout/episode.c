/* The episode state machine (episode.h). */
#include "rollout/episode.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/text/toolcall.h"
#include "common/text/utf8.h"

enum { OUTSTANDING = -1, MAX_SAMPLES = 1 << 16 };

typedef enum episode_phase { GENERATING, CALLING, SCORING } episode_phase;

/* What the episodes of one message share. */
typedef struct episode_group {
    rlf_arena arena;
    int holders;
    int64_t uid, attempt, seed, version;
    rlf_limits limits;
    rlf_text *targets;
    size_t n_targets;
    rlf_slice data_source, extra;
    rollout_prompt *prompt;
    size_t prompt_tokens;
    const char *opening; /* of the first turn, borrowed */
} episode_group;

typedef struct rollout_episode {
    rollout_episodes *set;
    episode_group *group;
    int64_t sample;
    rollout_seq *seq;
    episode_phase phase;
    rlf_arena arena; /* texts of turns and calls */
    rlf_span *spans;
    size_t n_spans, cap_spans;
    rlf_turn *turns; /* one per call; status OUTSTANDING while the service works on it */
    size_t n_turns, cap_turns;
    rlf_text *texts; /* the texts of its turns */
    size_t n_texts, cap_texts;
    rlf_str text;       /* of the turn under way, behind what its generation prompt wrote of it */
    rlf_turn_scan scan; /* of that text */
    size_t turn_begin;  /* its first token */
    int64_t turn;       /* number of the turn under way */
    size_t round_begin; /* first of `turns` that belongs to the round under way */
    size_t waiting;     /* answers outstanding in it */
    bool done;          /* a tool said so */
    bool refused;       /* all calls of the round are malformed: no tool answers */
    int64_t rounds, bad_calls;
    rlf_finish finish;
    const char *error;
    int64_t since_ms, generate_ms, tool_ms; /* since_ms 0: the clock stands */
} rollout_episode;

struct rollout_episodes {
    rollout_engine *engine;
    const rlf_chat *chat;
    rollout_episode_options options;
    rollout_port port;
    rollout_episode **live;
    size_t n_live, cap_live;
    rlf_ids ids; /* work space */
};

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

rollout_episodes *rollout_episodes_new(rollout_engine *engine, const rlf_chat *chat,
                                       const rollout_episode_options *options, rollout_port port) {
    rollout_episodes *set = rlf_calloc(1, sizeof *set);
    *set = (rollout_episodes){.engine = engine, .chat = chat, .options = *options, .port = port};
    return set;
}

static void group_release(episode_group *g) {
    if (--g->holders) return;
    if (g->prompt) rollout_prompt_release(g->prompt);
    rlf_arena_clean_up(&g->arena);
    free(g);
}

static void episode_destroy(rollout_episode *ep) {
    rollout_seq_close(ep->seq);
    group_release(ep->group);
    rlf_arena_clean_up(&ep->arena);
    rlf_str_clean_up(&ep->text);
    free(ep->spans);
    free(ep->turns);
    free(ep->texts);
    free(ep);
}

void rollout_episodes_destroy(rollout_episodes *set) {
    if (!set) return;
    for (size_t i = 0; i < set->n_live; i++) episode_destroy(set->live[i]);
    free(set->live);
    rlf_ids_clean_up(&set->ids);
    free(set);
}

static void forget(rollout_episode *ep) {
    rollout_episodes *set = ep->set;
    size_t i = 0;
    while (set->live[i] != ep) i++;
    set->n_live--;
    memmove(set->live + i, set->live + i + 1, (set->n_live - i) * sizeof(*set->live));
    episode_destroy(ep);
}

size_t rollout_episodes_alive(const rollout_episodes *set) { return set->n_live; }

size_t rollout_episodes_waiting(const rollout_episodes *set) {
    size_t n = 0;
    for (size_t i = 0; i < set->n_live; i++) n += set->live[i]->phase != GENERATING;
    return n;
}

static rlf_status send(rollout_episode *ep, rlf_message_type type, const void *record) {
    return ep->set->port.send(ep->set->port.ctx, type, record);
}

static rlf_status send_close(rollout_episode *ep) {
    rlf_close message = {.uid = ep->group->uid, .sample = ep->sample, .attempt = ep->group->attempt};
    return send(ep, RLF_MSG_CLOSE, &message);
}

/* ---- small parts ------------------------------------------------------------------------------------------------------------------ */

static rlf_slice dup_slice(rlf_arena *arena, rlf_slice s) { return (rlf_slice){rlf_arena_dup(arena, s.ptr ? s.ptr : "", s.len), s.len}; }

/* Adds the time since the last change to the phase being left. */
static void enter(rollout_episode *ep, episode_phase phase) {
    int64_t now = rlf_now_ms(), spent = ep->since_ms ? now - ep->since_ms : 0;
    if (ep->phase == GENERATING) ep->generate_ms += spent;
    if (ep->phase == CALLING) ep->tool_ms += spent;
    ep->since_ms = now;
    ep->phase = phase;
}

static void add_span(rollout_episode *ep, size_t begin, size_t end, rlf_span_kind kind) {
    ep->spans = rlf_grow(ep->spans, ep->n_spans, &ep->cap_spans, sizeof *ep->spans);
    ep->spans[ep->n_spans++] = (rlf_span){.begin = (int64_t)begin, .end = (int64_t)end, .kind = kind, .turn = ep->turn,
                                          .version = ep->group->version};
}

static size_t length(const rollout_episode *ep) { return rollout_seq_tokens(ep->seq)->n; }

static rlf_chat_end turn_end(const rollout_episode *ep) {
    const rlf_ids *ids = rollout_seq_tokens(ep->seq);
    return (rlf_chat_end){.id = ids->v[ids->n - 1], .refused = ep->refused};
}

/* Closes the span of the turn under way and keeps its text; the next begins as its generation prompt does, where it has one. */
static void keep_turn(rollout_episode *ep) {
    if (length(ep) == ep->turn_begin) return; /* nothing drawn yet */
    add_span(ep, ep->turn_begin, length(ep), RLF_SPAN_MODEL);
    ep->texts = rlf_grow(ep->texts, ep->n_texts, &ep->cap_texts, sizeof *ep->texts);
    ep->texts[ep->n_texts++] = (rlf_text){.text = dup_slice(&ep->arena, (rlf_slice){ep->text.ptr, ep->text.len})};
    rlf_str_reset(&ep->text);
    if (!rlf_chat_goes_on(ep->set->chat, turn_end(ep).id)) rlf_str_puts(&ep->text, rlf_chat_opening(ep->set->chat, NULL));
    ep->scan = (rlf_turn_scan){0};
    ep->turn_begin = length(ep);
}

/* ---- the end ---------------------------------------------------------------------------------------------------------------------- */

static rlf_status deliver(rollout_episode *ep, const rlf_reward *reward) {
    rlf_status status = RLF_OK;
    const rlf_ids *ids = rollout_seq_tokens(ep->seq);
    enter(ep, SCORING);
    rlf_trajectory t = {.uid = ep->group->uid, .sample = ep->sample, .attempt = ep->group->attempt, .version = ep->group->version,
                        .tokens = {ids->v, ids->n}, .logprobs = {(float *)rollout_seq_logprobs(ep->seq), ids->n},
                        .spans = {ep->spans, ep->n_spans}, .turns = {ep->turns, ep->n_turns}, .finish = ep->finish,
                        .error = rlf_slice_of(ep->error ? ep->error : ""), .generate_ms = (double)ep->generate_ms,
                        .tool_ms = (double)ep->tool_ms};
    if (reward) {
        t.components.v = reward->components.v;
        t.components.n = reward->components.n;
        for (size_t i = 0; i < reward->components.n; i++) t.reward += reward->components.v[i].weight * reward->components.v[i].value;
    }
    RLF_TRY(send_close(ep));
    RLF_TRY(send(ep, RLF_MSG_TRAJECTORY, &t));
    forget(ep);
out:
    return status;
}

static rlf_status finish_infra(rollout_episode *ep, const char *error) {
    keep_turn(ep);
    for (size_t i = ep->round_begin; i < ep->n_turns; i++)
        if (ep->turns[i].status == OUTSTANDING) ep->turns[i].status = RLF_CALL_INFRA;
    ep->finish = RLF_FINISH_INFRA;
    ep->error = error;
    return deliver(ep, NULL);
}

static rlf_status finish(rollout_episode *ep, rlf_finish why) {
    keep_turn(ep);
    rollout_seq_pause(ep->seq);
    ep->finish = why;
    enter(ep, SCORING);
    const episode_group *g = ep->group;
    rlf_score message = {.uid = g->uid, .sample = ep->sample, .attempt = g->attempt, .turns = {ep->texts, ep->n_texts},
                         .targets = {g->targets, g->n_targets}, .data_source = g->data_source, .extra = g->extra,
                         .calls = (int64_t)ep->n_turns, .bad_calls = ep->bad_calls, .finish = why};
    return send(ep, RLF_MSG_SCORE, &message);
}

/* ---- a round of calls ------------------------------------------------------------------------------------------------------------- */

static size_t round_calls(const rollout_episode *ep) { return ep->n_turns - ep->round_begin; }

static const rlf_tool_syntax *syntax(const rollout_episode *ep) { return rlf_chat_tool_syntax(ep->set->chat); }

/* Tokens that `n` answers of no tokens take: the template around them and the next generation prompt. */
static size_t round_overhead(rollout_episode *ep, size_t n) {
    rlf_slice *none = rlf_arena_alloc(&ep->arena, n, sizeof *none);
    for (size_t i = 0; i < n; i++) none[i] = rlf_slice_of("");
    ep->set->ids.n = 0;
    rlf_chat_observation(ep->set->chat, none, n, 0, turn_end(ep), &ep->set->ids, NULL);
    return ep->set->ids.n;
}

/* Tokens each of `n` answers may have so that all fit with one more token behind them; below 1: there is no room. */
static int64_t answer_room(rollout_episode *ep, size_t n) {
    int64_t room = (ep->group->limits.tokens - (int64_t)length(ep) - (int64_t)round_overhead(ep, n) - 1) / (int64_t)n;
    return room < ep->group->limits.observation_tokens ? room : ep->group->limits.observation_tokens;
}

static void append_observation(rollout_episode *ep) {
    size_t n = round_calls(ep), max_tokens = (size_t)answer_room(ep, n);
    rlf_slice *answers = rlf_arena_alloc(&ep->arena, n, sizeof *answers);
    bool *cut = rlf_arena_alloc(&ep->arena, n, sizeof *cut);
    for (size_t i = 0; i < n; i++) answers[i] = ep->turns[ep->round_begin + i].answer;
    ep->set->ids.n = 0;
    rlf_chat_observation(ep->set->chat, answers, n, max_tokens, turn_end(ep), &ep->set->ids, cut);
    for (size_t i = 0; i < n; i++) ep->turns[ep->round_begin + i].cut = cut[i];
    add_span(ep, length(ep), length(ep) + ep->set->ids.n, RLF_SPAN_OBSERVATION);
    rollout_seq_append(ep->seq, ep->set->ids.v, ep->set->ids.n);
}

static rlf_status end_round(rollout_episode *ep) {
    ep->rounds++;
    if (ep->done) return finish(ep, RLF_FINISH_STOP);
    append_observation(ep);
    ep->turn_begin = length(ep);
    ep->turn++;
    rollout_seq_resume(ep->seq);
    enter(ep, GENERATING);
    return RLF_OK;
}

/* What went wrong is visible in the text, whatever the service wrote. */
static rlf_slice answer_text(rollout_episode *ep, int64_t status, rlf_slice text) {
    static const char mark[] = "error";
    if (status == RLF_CALL_OK || (text.len >= sizeof mark - 1 && !memcmp(text.ptr, mark, sizeof mark - 1)))
        return dup_slice(&ep->arena, text);
    return rlf_slice_of(rlf_arena_printf(&ep->arena, "error: %s: %.*s", rlf_call_status_text(status), (int)text.len,
                                         text.ptr ? text.ptr : ""));
}

static void refuse_call(rollout_episode *ep, rlf_turn *turn, const char *text) {
    turn->status = RLF_CALL_BAD_CALL;
    turn->answer = rlf_slice_of(text);
    ep->bad_calls++;
}

static rlf_status make_call(rollout_episode *ep, const rlf_tool_call *call, size_t index) {
    const episode_group *g = ep->group;
    ep->turns = rlf_grow(ep->turns, ep->n_turns, &ep->cap_turns, sizeof *ep->turns);
    rlf_turn *turn = &ep->turns[ep->n_turns++];
    *turn = (rlf_turn){.turn = ep->turn, .call = (int64_t)index, .tool = rlf_slice_of(call->name),
                       .arguments = rlf_slice_of(call->arguments), .answer = rlf_slice_of("")};
    if ((int64_t)index >= ep->set->options.max_calls) {
        refuse_call(ep, turn, rlf_arena_printf(&ep->arena, "error: too many calls: at most %lld in one turn",
                                               (long long)ep->set->options.max_calls));
        return RLF_OK;
    }
    if (call->error) {
        bool own_words = syntax(ep)->format == RLF_TOOLS_SEARCH_R1;
        refuse_call(ep, turn, own_words ? call->error : rlf_arena_printf(&ep->arena, "error: %s", call->error));
        return RLF_OK;
    }
    turn->status = OUTSTANDING;
    ep->waiting++;
    rlf_call message = {.uid = g->uid, .sample = ep->sample, .attempt = g->attempt, .turn = ep->turn, .call = (int64_t)index,
                        .tool = turn->tool, .arguments = turn->arguments};
    return send(ep, RLF_MSG_CALL, &message);
}

static rlf_status begin_round(rollout_episode *ep, const rlf_tool_call *calls, size_t n) {
    rlf_status status = RLF_OK;
    keep_turn(ep);
    rollout_seq_pause(ep->seq);
    enter(ep, CALLING);
    ep->round_begin = ep->n_turns;
    ep->waiting = 0;
    for (size_t i = 0; i < n; i++) RLF_TRY(make_call(ep, &calls[i], i));
    if (!ep->waiting) RLF_TRY(end_round(ep));
out:
    return status;
}

/* ---- generation ------------------------------------------------------------------------------------------------------------------- */

static rlf_status end_turn(rollout_episode *ep) {
    size_t n = 0;
    const char *text = ep->text.ptr ? ep->text.ptr : "";
    rlf_tool_calls_parse(syntax(ep), text, ep->text.len, &ep->arena, NULL, 0, &n);
    if (!n) return finish(ep, RLF_FINISH_ANSWER);
    if (ep->rounds >= ep->group->limits.turns) return finish(ep, RLF_FINISH_TURN_LIMIT);
    rlf_tool_call *calls = rlf_arena_alloc(&ep->arena, n, sizeof *calls);
    rlf_tool_calls_parse(syntax(ep), text, ep->text.len, &ep->arena, calls, n, &n);
    ep->refused = true;
    for (size_t i = 0; i < n; i++) ep->refused = ep->refused && calls[i].error;
    if (answer_room(ep, n) < 1) return finish(ep, RLF_FINISH_LENGTH_LIMIT);
    return begin_round(ep, calls, n);
}

/* What the text completes with the token just drawn; an answer counts only where it ends the episode. */
static rlf_turn_event read_turn(rollout_episode *ep) {
    rlf_turn_event event;
    do event = rlf_turn_scan_next(&ep->scan, syntax(ep), ep->text.ptr, ep->text.len);
    while (event == RLF_TURN_ANSWER && !ep->set->options.stop_at_answer);
    return event;
}

static rlf_status on_token(void *owner, rollout_seq *seq, int32_t id, float logprob) {
    (void)seq;
    (void)logprob;
    rollout_episode *ep = owner;
    const rlf_limits *limits = &ep->group->limits;
    if (!ep->since_ms) ep->since_ms = rlf_now_ms();
    rlf_chat_read(ep->set->chat, id, &ep->text);
    if (rlf_chat_is_stop(ep->set->chat, id)) return end_turn(ep);
    switch (read_turn(ep)) {
    case RLF_TURN_ANSWER: return finish(ep, RLF_FINISH_ANSWER);
    case RLF_TURN_CALL: return end_turn(ep);
    case RLF_TURN_GOES_ON: break;
    }
    if ((int64_t)(length(ep) - ep->turn_begin) >= limits->turn_tokens || (int64_t)length(ep) >= limits->tokens)
        return finish(ep, RLF_FINISH_LENGTH_LIMIT);
    return RLF_OK;
}

/* ---- messages in ------------------------------------------------------------------------------------------------------------------ */

static rollout_episode *find(const rollout_episodes *set, int64_t uid, int64_t sample, int64_t attempt) {
    for (size_t i = 0; i < set->n_live; i++) {
        rollout_episode *ep = set->live[i];
        if (ep->group->uid == uid && ep->sample == sample && ep->group->attempt == attempt) return ep;
    }
    return NULL;
}

static rlf_status check_message(const rollout_episodes *set, const rlf_episode *m) {
    long long uid = (long long)m->uid;
    if (m->limits.n != 1 || m->sampling.n != 1)
        return RLF_RAISE(PROTOCOL, "episode %lld: %zu limits and %zu samplings: expected one of each", uid, m->limits.n, m->sampling.n);
    const rlf_limits *l = m->limits.v;
    if (m->samples < 1 || m->samples > MAX_SAMPLES || m->first_sample < 0 || m->first_sample > MAX_SAMPLES)
        return RLF_RAISE(PROTOCOL, "episode %lld: %lld samples from %lld: expected at least 1, at most %d", uid, (long long)m->samples,
                         (long long)m->first_sample, MAX_SAMPLES);
    if (l->turns < 0 || l->turn_tokens < 1 || l->observation_tokens < 1 || l->tokens < 2 || l->tokens > set->options.max_tokens)
        return RLF_RAISE(PROTOCOL, "episode %lld: limits of %lld tokens (%lld a turn, %lld an observation), %lld tool rounds: "
                                   "expected at most %lld tokens",
                         uid, (long long)l->tokens, (long long)l->turn_tokens, (long long)l->observation_tokens, (long long)l->turns,
                         (long long)set->options.max_tokens);
    for (int64_t i = 0; i < m->samples; i++)
        if (find(set, m->uid, m->first_sample + i, m->attempt))
            return RLF_RAISE(PROTOCOL, "episode %lld sample %lld attempt %lld is under way already", uid, (long long)(m->first_sample + i),
                             (long long)m->attempt);
    return RLF_OK;
}

static rlf_status render_prompt(rollout_episodes *set, episode_group *g, const rlf_episode *m) {
    rlf_status status = RLF_OK;
    rlf_chat_message *messages = rlf_arena_alloc(&g->arena, m->prompt.n, sizeof *messages);
    for (size_t i = 0; i < m->prompt.n; i++) {
        messages[i].role = dup_slice(&g->arena, m->prompt.v[i].role).ptr;
        messages[i].content = dup_slice(&g->arena, m->prompt.v[i].content).ptr;
        if (m->prompt.v[i].reasoned) messages[i].reasoning = dup_slice(&g->arena, m->prompt.v[i].reasoning).ptr;
        if (m->prompt.v[i].tool_calls.len) messages[i].tool_calls = dup_slice(&g->arena, m->prompt.v[i].tool_calls).ptr;
    }
    set->ids.n = 0;
    RLF_TRY(rlf_chat_prompt(set->chat, messages, m->prompt.n, m->tools.len ? dup_slice(&g->arena, m->tools).ptr : NULL, &set->ids));
    int64_t n = (int64_t)set->ids.n, most = set->options.max_prompt_tokens;
    if (most >= g->limits.tokens) most = g->limits.tokens - 1;
    if (n < 1 || n > most) RLF_FAIL(LIMIT, "prompt of %lld tokens: expected 1 to %lld", (long long)n, (long long)most);
    g->prompt = rollout_prompt_new(set->engine, set->ids.v, set->ids.n);
    g->prompt_tokens = set->ids.n;
    g->opening = rlf_chat_opening(set->chat, &messages[m->prompt.n - 1]);
out:
    if (status != RLF_OK) rlf_error_context("episode %lld", (long long)m->uid);
    return status;
}

static episode_group *group_new(const rlf_episode *m) {
    episode_group *g = rlf_calloc(1, sizeof *g);
    g->holders = 1;
    g->uid = m->uid;
    g->attempt = m->attempt;
    g->seed = m->seed;
    g->version = m->version;
    g->limits = m->limits.v[0];
    g->data_source = dup_slice(&g->arena, m->data_source);
    g->extra = dup_slice(&g->arena, m->extra);
    g->n_targets = m->targets.n;
    g->targets = rlf_arena_alloc(&g->arena, m->targets.n, sizeof *g->targets);
    for (size_t i = 0; i < m->targets.n; i++) g->targets[i].text = dup_slice(&g->arena, m->targets.v[i].text);
    return g;
}

static rlf_status start(rollout_episodes *set, episode_group *g, int64_t sample, kern_filter filter) {
    rollout_episode *ep = rlf_calloc(1, sizeof *ep);
    rollout_draw draw = {.uid = (uint64_t)g->uid, .seed = (uint64_t)g->seed, .sample = (uint32_t)sample, .filter = filter};
    g->holders++;
    ep->set = set;
    ep->group = g;
    ep->sample = sample;
    ep->turn_begin = g->prompt_tokens;
    rlf_str_puts(&ep->text, g->opening);
    ep->seq = rollout_seq_open(set->engine, g->prompt, draw, on_token, ep);
    add_span(ep, 0, g->prompt_tokens, RLF_SPAN_PROMPT);
    set->live = rlf_grow(set->live, set->n_live, &set->cap_live, sizeof(*set->live));
    set->live[set->n_live++] = ep;
    rlf_open message = {.uid = g->uid, .sample = sample, .attempt = g->attempt, .version = g->version, .seed = g->seed,
                        .extra = g->extra};
    return send(ep, RLF_MSG_OPEN, &message);
}

rlf_status rollout_episodes_submit(rollout_episodes *set, const rlf_episode *message) {
    rlf_status status = RLF_OK;
    episode_group *g = NULL;
    RLF_TRY(check_message(set, message));
    const rlf_sampling *s = message->sampling.v;
    kern_filter filter = {.temperature = (float)s->temperature, .top_p = (float)s->top_p, .top_k = (int)s->top_k};
    g = group_new(message);
    RLF_TRY(render_prompt(set, g, message));
    for (int64_t i = 0; i < message->samples; i++) RLF_TRY(start(set, g, message->first_sample + i, filter));
out:
    if (g) group_release(g);
    return status;
}

static rlf_status check_status(const char *what, int64_t uid, int64_t status) {
    if (status >= 0 && status < RLF_CALL_STATUS_COUNT) return RLF_OK;
    return RLF_RAISE(PROTOCOL, "%s for episode %lld has status %lld: expected below %d", what, (long long)uid, (long long)status,
                     RLF_CALL_STATUS_COUNT);
}

/* The whole answer is in the turn. */
static const char *failure_of(rollout_episode *ep, const rlf_turn *turn) {
    enum { SHOWN = 1000 };
    size_t n = turn->answer.len > SHOWN ? rlf_utf8_valid(turn->answer.ptr, SHOWN) : turn->answer.len;
    return rlf_arena_printf(&ep->arena, "tool %s: %.*s", turn->tool.ptr, (int)n, turn->answer.ptr);
}

rlf_status rollout_episodes_observe(rollout_episodes *set, const rlf_observation *m) {
    rlf_status status = RLF_OK;
    rollout_episode *ep = find(set, m->uid, m->sample, m->attempt);
    RLF_TRY(check_status("observation", m->uid, m->status));
    if (!ep || ep->phase != CALLING || m->turn != ep->turn || m->call < 0 || (size_t)m->call >= round_calls(ep)) return RLF_OK;
    rlf_turn *turn = &ep->turns[ep->round_begin + (size_t)m->call];
    if (turn->status != OUTSTANDING) return RLF_OK;
    turn->status = m->status;
    turn->latency_ms = m->latency_ms;
    turn->reward = m->reward;
    turn->answer = answer_text(ep, m->status, m->text);
    ep->done = ep->done || m->done;
    ep->bad_calls += m->status == RLF_CALL_BAD_CALL;
    ep->waiting--;
    if (m->status == RLF_CALL_INFRA)
        RLF_TRY(finish_infra(ep, failure_of(ep, turn)));
    else if (!ep->waiting)
        RLF_TRY(end_round(ep));
out:
    return status;
}

rlf_status rollout_episodes_reward(rollout_episodes *set, const rlf_reward *m) {
    rlf_status status = RLF_OK;
    rollout_episode *ep = find(set, m->uid, m->sample, m->attempt);
    RLF_TRY(check_status("reward", m->uid, m->status));
    if (!ep || ep->phase != SCORING) return RLF_OK;
    if (m->status == RLF_CALL_OK) RLF_TRY(deliver(ep, m));
    else RLF_TRY(finish_infra(ep, rlf_arena_printf(&ep->arena, "reward: %s", rlf_call_status_text(m->status))));
out:
    return status;
}

/* ---- time ------------------------------------------------------------------------------------------------------------------------- */

static const char *waited_for(const rollout_episode *ep) {
    if (ep->phase == GENERATING) return "its next token";
    if (ep->phase == SCORING) return "its reward";
    for (size_t i = ep->round_begin; i < ep->n_turns; i++)
        if (ep->turns[i].status == OUTSTANDING) return ep->turns[i].tool.ptr;
    return "nothing";
}

/* An episode's clock stands while it waits for a seat: waiting for others is not its fault. */
static rlf_status check_deadline(rollout_episode *ep, int64_t now) {
    int64_t timeout = ep->group->limits.timeout_ms;
    bool stands = ep->phase == GENERATING && !rollout_seq_seated(ep->seq);
    if (stands) ep->since_ms = 0;
    else if (!ep->since_ms) ep->since_ms = now;
    if (timeout <= 0 || !ep->since_ms) return RLF_OK;
    if (ep->generate_ms + ep->tool_ms + (now - ep->since_ms) <= timeout) return RLF_OK;
    return finish_infra(ep, rlf_arena_printf(&ep->arena, "episode %lld sample %lld: not done after %lld ms, waiting for %s",
                                             (long long)ep->group->uid, (long long)ep->sample, (long long)timeout, waited_for(ep)));
}

rlf_status rollout_episodes_step(rollout_episodes *set) {
    rlf_status status = RLF_OK;
    int64_t now = rlf_now_ms();
    for (size_t i = set->n_live; i-- > 0;) RLF_TRY(check_deadline(set->live[i], now));
    RLF_TRY(rollout_engine_step(set->engine));
out:
    return status;
}
