/* Server files: relaxed text to JSON, and the maps of servers in it (servers.h). */
#include "common/config/servers.h"

#include <ctype.h>
#include <string.h>

#include "common/base/json.h"

/* ---- what is not JSON, made JSON --------------------------------------------------------------------------------------------------- */

typedef struct relaxer {
    const char *at, *end;
    rlf_str *out;
} relaxer;

static bool begins(const relaxer *r, const char *text) {
    size_t n = strlen(text);
    return (size_t)(r->end - r->at) >= n && memcmp(r->at, text, n) == 0;
}

/* A text in either quotes. */
static void relax_text(relaxer *r) {
    char quote = *r->at++;
    rlf_str_putc(r->out, '"');
    while (r->at < r->end && *r->at != quote) {
        bool escape = *r->at == '\\' && r->at + 1 < r->end;
        if (escape && r->at[1] == '\'') r->at++; /* \' needs no escape in JSON */
        else if (escape) rlf_str_putc(r->out, *r->at++);
        else if (*r->at == '"') rlf_str_putc(r->out, '\\');
        rlf_str_putc(r->out, *r->at++);
    }
    rlf_str_putc(r->out, '"');
    if (r->at < r->end) r->at++;
}

/* A comment, but for its line feeds: errors name the line. False: there is none here. */
static bool skip_comment(relaxer *r) {
    bool block = begins(r, "/*");
    if (!block && !begins(r, "//") && !begins(r, "#")) return false;
    for (; r->at < r->end && (block ? !begins(r, "*/") : *r->at != '\n'); r->at++)
        if (*r->at == '\n') rlf_str_putc(r->out, '\n');
    if (block && r->at < r->end) r->at += 2;
    return true;
}

static bool relax_word(relaxer *r) {
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!begins(r, words[i][0])) continue;
        rlf_str_puts(r->out, words[i][1]);
        r->at += strlen(words[i][0]);
        return true;
    }
    return false;
}

/* A comma that only space and comments separate from a closing bracket goes: comments are gone from `out` by then. */
static void drop_last_comma(rlf_str *out) {
    size_t n = out->len;
    while (n > 0 && isspace((unsigned char)out->ptr[n - 1])) n--;
    if (n > 0 && out->ptr[n - 1] == ',') out->ptr[n - 1] = ' ';
}

static void relax(const char *text, size_t n, rlf_str *out) {
    relaxer r = {text, text + n, out};
    while (r.at < r.end) {
        if (*r.at == '"' || *r.at == '\'') relax_text(&r);
        else if (!skip_comment(&r) && !relax_word(&r)) {
            if (*r.at == ']' || *r.at == '}') drop_last_comma(out);
            rlf_str_putc(out, *r.at++);
        }
    }
}

/* ---- servers ----------------------------------------------------------------------------------------------------------------------- */

static rlf_status add_servers(json_t *out, const char *label, json_t *servers) {
    const char *name;
    json_t *entry;
    json_object_foreach(servers, name, entry) {
        if (!json_is_object(entry) || !*name)
            return RLF_RAISE(INVALID, "%s: server \"%.64s\": a map with a command or a url was expected", label, name);
        if (json_object_get(out, name)) return RLF_RAISE(INVALID, "%s: server \"%.64s\" is there twice", label, name);
        if (!json_is_true(json_object_get(entry, "disabled"))) json_object_set(out, name, entry);
    }
    return RLF_OK;
}

static json_t *servers_of(const json_t *root) {
    json_t *servers = json_object_get(root, "mcpServers");
    if (!servers) servers = json_object_get(root, "servers");
    return servers ? servers : json_object_get(json_object_get(root, "mcp"), "servers");
}

static rlf_status collect(json_t *root, const char *label, json_t *out) {
    rlf_status status = RLF_OK;
    size_t n = json_is_array(root) ? json_array_size(root) : 1;
    bool any = false;
    for (size_t i = 0; status == RLF_OK && i < n; i++) {
        json_t *servers = servers_of(json_is_array(root) ? json_array_get(root, i) : root);
        any |= json_is_object(servers);
        if (json_is_object(servers)) status = add_servers(out, label, servers);
    }
    if (status == RLF_OK && !any) status = RLF_RAISE(INVALID, "%s: a map \"mcpServers\" or \"servers\" was expected", label);
    return status;
}

rlf_status rlf_servers_parse(const char *text, size_t n, const char *label, json_t **out) {
    json_error_t error;
    rlf_str relaxed = {0};
    size_t mark = rlf_json_mark(text, n);
    text += mark, n -= mark;
    json_t *root = json_loadb(text, n, 0, &error);
    *out = json_object();
    if (!root) {
        relax(text, n, &relaxed);
        root = json_loadb(relaxed.ptr ? relaxed.ptr : "", relaxed.len, 0, &error);
    }
    rlf_status status = root ? collect(root, label, *out) : RLF_RAISE(INVALID, "%s:%d: not JSON: %s", label, error.line, error.text);
    json_decref(root);
    rlf_str_clean_up(&relaxed);
    if (status != RLF_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

rlf_status rlf_servers_read(const char *path, json_t **out) {
    rlf_str text = {0};
    *out = NULL;
    rlf_status status = rlf_str_read_file(&text, path, RLF_SERVERS_MAX_BYTES);
    if (status == RLF_OK) status = rlf_servers_parse(text.ptr ? text.ptr : "", text.len, path, out);
    rlf_str_clean_up(&text);
    return status;
}

void rlf_server_tool_name(const char *name, char *out, size_t size) {
    size_t n = 0;
    for (; name[n] && n < 64 && n + 1 < size; n++) out[n] = isalnum((unsigned char)name[n]) || name[n] == '-' ? name[n] : '_';
    out[n] = '\0';
}
