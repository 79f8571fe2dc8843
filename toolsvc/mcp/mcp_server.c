/* Keys or a file's entry to one struct (mcp_server.h). */
#include "toolsvc/mcp/mcp_server.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/config/servers.h"

enum { FAREWELL_MS = 1000, FAREWELL_BYTES = 65536, NAME_MAX_BYTES = 128 };

/* Appends `text` with what it refers to filled in; `what` names it in errors. */
typedef rlf_status fill_fn(toolsvc_mcp_server *server, const char *what, const char *text, rlf_str *out);

static void free_server(toolsvc_mcp_server *s) {
    for (size_t i = 0; i < s->n_headers; i++) free(s->headers[i]);
    toolsvc_command_clean_up(&s->command);
    free(s->headers);
    free(s->folder);
    free(s->url);
    free(s);
}

/* ---- values ------------------------------------------------------------------------------------------------------------------------ */

static rlf_status fill_key(toolsvc_mcp_server *s, const char *what, const char *text, rlf_str *out) {
    return toolsvc_secrets_fill(&s->command.secrets, what, text, out);
}

/* VS Code asks its user for ${input:api-key}; here the environment has it, as API_KEY. It is taken for a secret. */
static rlf_status fill_input(toolsvc_mcp_server *s, const char *what, const char *id, rlf_str *out) {
    char name[NAME_MAX_BYTES];
    size_t n = 0;
    for (; id[n]; n++) name[n] = isalnum((unsigned char)id[n]) ? (char)toupper((unsigned char)id[n]) : '_';
    name[n] = '\0';
    const char *value = getenv(name);
    if (!value)
        return RLF_RAISE(INVALID, "%s: nobody is asked for ${input:%s} here, and the environment has no variable %s", what, id, name);
    toolsvc_secrets_add(&s->command.secrets, value);
    rlf_str_puts(out, value);
    return RLF_OK;
}

/* "NAME", "env:NAME", "NAME:-default" or "input:ID": n bytes between the braces. */
static rlf_status fill_reference(toolsvc_mcp_server *s, const char *what, const char *reference, size_t n, rlf_str *out) {
    char name[NAME_MAX_BYTES], folder[4096];
    if (n >= sizeof name) return RLF_RAISE(INVALID, "%s: ${%.32s…} is too long", what, reference);
    memcpy(name, reference, n);
    name[n] = '\0';
    if (strncmp(name, "input:", 6) == 0) return fill_input(s, what, name + 6, out);
    char *fallback = strstr(name, ":-"), *variable = strncmp(name, "env:", 4) == 0 ? name + 4 : name;
    if (fallback) *fallback = '\0';
    const char *value = strcmp(name, "workspaceFolder") == 0 ? getcwd(folder, sizeof folder)
        : getenv(strcmp(name, "userHome") == 0 ? "HOME" : variable);
    if (!value && fallback) value = fallback + 2;
    if (!value) return RLF_RAISE(INVALID, "%s: the environment has no variable %s", what, variable);
    rlf_str_puts(out, value);
    return RLF_OK;
}

static rlf_status fill_entry(toolsvc_mcp_server *s, const char *what, const char *text, rlf_str *out) {
    rlf_status status = RLF_OK;
    for (const char *at = text; *at;) {
        const char *end = strncmp(at, "${", 2) == 0 ? strchr(at, '}') : NULL;
        if (!end) {
            rlf_str_putc(out, *at++);
            continue;
        }
        RLF_TRY(fill_reference(s, what, at + 2, (size_t)(end - at - 2), out));
        at = end + 1;
    }
out:
    return status;
}

/* A new map with every text filled in. */
static rlf_status fill_map(toolsvc_mcp_server *s, const char *what, json_t *map, fill_fn *fill, json_t **out) {
    rlf_status status = RLF_OK;
    const char *name;
    json_t *value;
    *out = json_object();
    if (map && !json_is_object(map)) return RLF_RAISE(INVALID, "%s: a map of texts was expected", what);
    json_object_foreach(map, name, value) {
        rlf_str filled = {0};
        status = json_is_string(value) ? fill(s, what, json_string_value(value), &filled)
            : RLF_RAISE(INVALID, "%s: \"%.64s\": a text was expected", what, name);
        json_object_set_new(*out, name, json_stringn(filled.ptr ? filled.ptr : "", filled.len));
        rlf_str_clean_up(&filled);
        if (status != RLF_OK) break;
    }
    return status;
}

static rlf_status fill_list(toolsvc_mcp_server *s, const char *what, const json_t *list, fill_fn *fill, json_t *out) {
    rlf_status status = RLF_OK;
    if (list && !json_is_array(list)) return RLF_RAISE(INVALID, "%s: a list of texts was expected", what);
    for (size_t i = 0; status == RLF_OK && i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        rlf_str filled = {0};
        status = text ? fill(s, what, text, &filled) : RLF_RAISE(INVALID, "%s: a list of texts was expected", what);
        json_array_append_new(out, json_stringn(filled.ptr ? filled.ptr : "", filled.len));
        rlf_str_clean_up(&filled);
    }
    return status;
}

/* headers: filled in. */
static rlf_status add_headers(toolsvc_mcp_server *s, const char *what, json_t *headers) {
    const char *name;
    json_t *value;
    json_object_foreach(headers, name, value) {
        rlf_str line = {0};
        if (!*name || strpbrk(name, ":\r\n") || strpbrk(json_string_value(value), "\r\n"))
            return RLF_RAISE(INVALID, "%s: \"%.64s\": a text of one line was expected", what, name);
        rlf_str_printf(&line, "%s: %s", name, json_string_value(value));
        s->headers = rlf_grow(s->headers, s->n_headers, &s->cap_headers, sizeof *s->headers);
        s->headers[s->n_headers++] = line.ptr;
    }
    return RLF_OK;
}

static rlf_status set_url(toolsvc_mcp_server *s, const char *what, const json_t *url, fill_fn *fill) {
    const char *text = json_string_value(url);
    rlf_str filled = {0};
    if (!text) return RLF_RAISE(INVALID, "%s: a text was expected", what);
    rlf_status status = fill(s, what, text, &filled);
    s->url = filled.ptr ? filled.ptr : rlf_strdup("");
    if (status == RLF_OK && strncmp(s->url, "http://", 7) != 0 && strncmp(s->url, "https://", 8) != 0)
        status = RLF_RAISE(INVALID, "%s: a text that begins with http:// or https:// was expected", what);
    else if (status == RLF_OK && toolsvc_http_url_error(s->url))
        status = RLF_RAISE(INVALID, "%s: no such URL can be: %s", what, toolsvc_http_url_error(s->url));
    return status;
}

/* ---- the job file ------------------------------------------------------------------------------------------------------------------ */

static rlf_status read_keys(toolsvc_mcp_server *s, const rlf_tool_config *config) {
    rlf_status status = RLF_OK;
    json_t *url = rlf_config_json(config->url), *headers = rlf_config_json(config->headers), *filled = NULL;
    if (config->command && *config->command) RLF_TRY(toolsvc_command_init(&s->command, config));
    else RLF_TRY(toolsvc_secrets_init(&s->command.secrets, config->secrets));
    RLF_TRY(fill_map(s, "key \"headers\"", headers, fill_key, &filled));
    RLF_TRY(add_headers(s, "key \"headers\"", filled));
    if (url) RLF_TRY(set_url(s, "key \"url\"", url, fill_key));
out:
    json_decref(url);
    json_decref(headers);
    json_decref(filled);
    return status;
}

/* ---- a file of servers ------------------------------------------------------------------------------------------------------------- */

static void warn_of_unknown(json_t *entry, const char *file, const char *server) {
    static const char *const known[] = {"command", "args", "env", "cwd", "url", "serverUrl", "httpUrl", "headers", "type",
                                        "transport", "disabled", "description"};
    const char *name;
    json_t *value;
    rlf_str others = {0};
    json_object_foreach(entry, name, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i], name) != 0) i++;
        if (i == sizeof known / sizeof *known) rlf_str_printf(&others, "%s%.32s", others.len ? ", " : "", name);
    }
    if (others.len) RLF_WARN("%s: server \"%s\": these have no meaning here: %.300s", file, server, others.ptr);
    rlf_str_clean_up(&others);
}

static bool sounds_secret(const char *name) {
    static const char *const parts[] = {"KEY", "TOKEN", "SECRET", "PASS", "AUTH", "COOKIE", "CREDENTIAL"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcasestr(name, parts[i])) return true;
    return false;
}

/* The values of a map that are to be blotted out: "Authorization: Bearer x" holds x alone too. */
static void note_secrets(toolsvc_mcp_server *s, json_t *map) {
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const char *text = json_string_value(value), *word = strrchr(text, ' ');
        if (!sounds_secret(name)) continue;
        toolsvc_secrets_add(&s->command.secrets, text);
        if (word) toolsvc_secrets_add(&s->command.secrets, word + 1);
    }
}

static void choose_transport(toolsvc_mcp_server *s, const json_t *entry) {
    const json_t *type = json_object_get(entry, "type");
    const char *text = json_string_value(type ? type : json_object_get(entry, "transport"));
    s->only_sse |= text && strcasecmp(text, "sse") == 0;
    s->only_http |= text && strcasestr(text, "http") != NULL; /* "http", "streamable-http", "streamableHttp" */
}

static rlf_status read_program(toolsvc_mcp_server *s, const json_t *entry, json_t *env) {
    rlf_status status = RLF_OK;
    rlf_str folder = {0};
    const char *cwd = json_string_value(json_object_get(entry, "cwd"));
    json_t *argv = json_array(), *program = json_pack("[O?]", json_object_get(entry, "command"));
    if (!json_is_string(json_object_get(entry, "command"))) RLF_FAIL(INVALID, "\"command\": a text was expected, or else a \"url\"");
    RLF_TRY(fill_list(s, "\"command\"", program, fill_entry, argv));
    RLF_TRY(fill_list(s, "\"args\"", json_object_get(entry, "args"), fill_entry, argv));
    RLF_TRY(fill_entry(s, "\"cwd\"", cwd ? cwd : "", &folder));
    s->folder = rlf_strdup(folder.ptr ? folder.ptr : "");
    RLF_TRY(toolsvc_command_set(&s->command, argv, env, s->folder));
out:
    json_decref(argv);
    json_decref(program);
    rlf_str_clean_up(&folder);
    return status;
}

static rlf_status read_entry(toolsvc_mcp_server *s, const json_t *entry) {
    rlf_status status = RLF_OK;
    json_t *url = json_object_get(entry, "url"), *env = NULL, *headers = NULL;
    if (!url) url = json_object_get(entry, "serverUrl");
    if (!url) url = json_object_get(entry, "httpUrl");
    choose_transport(s, entry);
    RLF_TRY(fill_map(s, "\"env\"", json_object_get(entry, "env"), fill_entry, &env));
    RLF_TRY(fill_map(s, "\"headers\"", json_object_get(entry, "headers"), fill_entry, &headers));
    note_secrets(s, env);
    note_secrets(s, headers);
    RLF_TRY(add_headers(s, "\"headers\"", headers));
    if (url) RLF_TRY(set_url(s, "\"url\"", url, fill_entry));
    else RLF_TRY(read_program(s, entry, env));
out:
    json_decref(env);
    json_decref(headers);
    return status;
}

static rlf_status read_file(toolsvc_mcp_server *s, const rlf_tool_config *config) {
    json_t *servers, *entry;
    rlf_status status = rlf_servers_read(config->file, &servers);
    if (status != RLF_OK) return status;
    entry = json_object_get(servers, config->server);
    if (!entry) {
        status = RLF_RAISE(NOT_FOUND, "%s: it has no server \"%.64s\"", config->file, config->server);
    } else {
        warn_of_unknown(entry, config->file, config->server);
        status = read_entry(s, entry);
        if (status != RLF_OK) rlf_error_context("%s: server \"%.64s\"", config->file, config->server);
    }
    json_decref(servers);
    return status;
}

/* ---- life -------------------------------------------------------------------------------------------------------------------------- */

rlf_status toolsvc_mcp_server_new(toolsvc_mcp_server **out, const rlf_tool_config *config, uv_loop_t *loop) {
    toolsvc_mcp_server *s = rlf_calloc(1, sizeof *s);
    const char *transport = config->transport ? config->transport : "auto";
    *s = (toolsvc_mcp_server){.name = config->name, .loop = loop, .max_bytes = config->max_bytes,
                              .start_ms = config->start_ms, .timeout_ms = config->timeout_ms, .allow_private = config->allow_private,
                              .ca = config->ca, .command.memory_bytes = config->memory_mb << 20,
                              .only_http = strcmp(transport, "http") == 0, .only_sse = strcmp(transport, "sse") == 0};
    rlf_status status = config->file && *config->file ? read_file(s, config) : read_keys(s, config);
    if (status == RLF_OK && s->url) status = toolsvc_http_new(&s->http, loop);
    if (status != RLF_OK) {
        free_server(s);
        return status;
    }
    uv_timer_init(loop, &s->end);
    s->end.data = s;
    *out = s;
    return RLF_OK;
}

static void on_end_closed(uv_handle_t *handle) { free_server(handle->data); }

static void end(toolsvc_mcp_server *s) {
    toolsvc_http_close(s->http);
    uv_close((uv_handle_t *)&s->end, on_end_closed);
}

static void on_end(uv_timer_t *timer) { end(timer->data); }

void toolsvc_mcp_server_close(toolsvc_mcp_server *s) {
    if (!s) return;
    s->closed = true;
    if (s->farewells == 0) end(s);
}

static void on_farewell(void *user, const toolsvc_http_answer *answer) {
    toolsvc_mcp_server *s = user;
    (void)answer; /* a server need not know how to end a session */
    if (--s->farewells == 0 && s->closed) uv_timer_start(&s->end, on_end, 0, 0);
}

void toolsvc_mcp_server_farewell(toolsvc_mcp_server *s, const char *const *headers, size_t n_headers) {
    toolsvc_http_request request = {.method = "DELETE", .url = s->url, .headers = headers, .n_headers = n_headers,
                                    .timeout_ms = FAREWELL_MS,
                                    .max_bytes = FAREWELL_BYTES, .allow_private = s->allow_private, .ca = s->ca};
    s->farewells++;
    toolsvc_http_send(s->http, &request, on_farewell, s);
}
