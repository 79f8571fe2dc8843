/* Reading a job file (config.h): YAML document -> table of keys -> struct; then the overrides, each a small document of its own; then the
 * files of servers that tools name; then the rules between keys.
 *
 * libyaml's document interface is used, not an event stream: nodes keep their line, and an alias is the node itself, so nothing is ever
 * expanded. A path that leaves the table is an error at once, which bounds the walk also where a document refers to itself. */
#include "common/config/config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/config/keys.h"
#include "common/config/servers.h"

enum { FILE_MAX = 1 << 20, TOOLS_MAX = 256, PATH_MAX_BYTES = 128, WHERE_MAX = 300 };

/* One document on its way into the struct. */
typedef struct loader {
    rlf_config *config;
    const char *label; /* of the file, or "command line" */
    bool command_line;
    yaml_document_t *doc;
    int *lines;      /* per key of the table, see rlf_config_origin */
    int *tool_lines; /* (TOOLS_MAX) */
} loader;

/* What a path is relative to: the whole config or one tool. */
typedef struct scope {
    const rlf_key *keys;
    size_t count;
    void *base;
    const char *prefix; /* "" or "tools.0." */
    int *lines;         /* per key: where this document set it */
} scope;

static rlf_status apply(loader *in, const scope *at, const char *path, yaml_node_t *node) RLF_MUST_USE;

/* ---- messages --------------------------------------------------------------------------------------------------------------------- */

static int line_of(const yaml_node_t *node) { return (int)node->start_mark.line + 1; }

static rlf_status fail(const loader *in, const yaml_node_t *node, const char *fmt, ...) RLF_PRINTF(3, 4) RLF_MUST_USE;
static rlf_status fail(const loader *in, const yaml_node_t *node, const char *fmt, ...) {
    char text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (in->command_line) return RLF_RAISE(INVALID, "command line: %s", text);
    return RLF_RAISE(INVALID, "%s:%d: %s", in->label, line_of(node), text);
}

static int min3(int a, int b, int c) { return a < b ? (a < c ? a : c) : (b < c ? b : c); }

/* Edits (insert, delete, replace) from one name to the other. */
static int distance(const char *a, const char *b) {
    int row[PATH_MAX_BYTES + 1];
    size_t n = strlen(b);
    if (n > PATH_MAX_BYTES || strlen(a) > PATH_MAX_BYTES) return PATH_MAX_BYTES;
    for (size_t j = 0; j <= n; j++) row[j] = (int)j;
    for (size_t i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 0; j < n; j++) {
            int above = row[j + 1];
            row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[n];
}

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* The known name nearest to `path`, or one that has the same last part in another group, or NULL. */
static const char *suggestion(const scope *at, const char *path) {
    int best = (int)strlen(path) / 3 + 1;
    const char *found = NULL;
    for (size_t i = 0; i < at->count; i++) {
        int d = distance(path, at->keys[i].name);
        if (d <= best && (!found || d < best)) {
            best = d;
            found = at->keys[i].name;
        }
    }
    for (size_t i = 0; i < at->count && !found; i++)
        if (strcmp(last_part(path), last_part(at->keys[i].name)) == 0) found = at->keys[i].name;
    return found;
}

/* The group nearest to a misspelt one: "trian" -> "train". Written to `out`. */
static bool group_suggestion(const scope *at, const char *path, char *out, size_t size) {
    int best = 3;
    for (size_t i = 0; i < at->count; i++) {
        size_t n = strcspn(at->keys[i].name, ".");
        char group[PATH_MAX_BYTES];
        snprintf(group, sizeof group, "%.*s", (int)n, at->keys[i].name);
        int d = distance(path, group);
        if (at->keys[i].name[n] && d < best) {
            best = d;
            snprintf(out, size, "%s", group);
        }
    }
    return best < 3;
}

/* "tool.0.name" -> "tools.0.name". */
static bool list_suggestion(const char *path, char *out, size_t size) {
    size_t n = strcspn(path, ".");
    char list[PATH_MAX_BYTES];
    snprintf(list, sizeof list, "%.*s", (int)n, path);
    snprintf(out, size, "tools%s", path + n);
    return distance(list, "tools") == 1;
}

static rlf_status unknown_key(const loader *in, const scope *at, const char *path, const yaml_node_t *node) {
    const char *name = suggestion(at, path);
    char group[PATH_MAX_BYTES], list[PATH_MAX_BYTES + 8];
    if (!strchr(path, '.') && node->type == YAML_MAPPING_NODE && group_suggestion(at, path, group, sizeof group)) name = group;
    if (!*at->prefix && list_suggestion(path, list, sizeof list)) name = list;
    if (name) return fail(in, node, "unknown key '%s%.100s', did you mean '%s%s'?", at->prefix, path, at->prefix, name);
    return fail(in, node, "unknown key '%s%.100s'; `rlf config` lists the keys", at->prefix, path);
}

/* ---- walking ---------------------------------------------------------------------------------------------------------------------- */

static bool is_group(const scope *at, const char *path) {
    size_t n = strlen(path);
    for (size_t i = 0; i < at->count; i++)
        if (n == 0 || (strncmp(at->keys[i].name, path, n) == 0 && at->keys[i].name[n] == '.')) return true;
    return false;
}

static const char *node_text(const yaml_node_t *node) {
    if (node->type == YAML_SEQUENCE_NODE) return "a list";
    if (node->type == YAML_MAPPING_NODE) return "a map";
    return (const char *)node->data.scalar.value;
}

static rlf_status set_leaf(loader *in, const scope *at, const rlf_key *key, const yaml_node_t *node) {
    size_t index = (size_t)(key - at->keys);
    if (!in->command_line && at->lines[index])
        return fail(in, node, "key '%s%s' is set twice, first in line %d", at->prefix, key->name, at->lines[index]);
    bool scalar = node->type == YAML_SCALAR_NODE;
    bool quoted = scalar && node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    bool set = key->type == RLF_KEY_JSON ? rlf_key_set_node(key, at->base, in->doc, node)
                                         : scalar && rlf_key_set(key, at->base, node_text(node), node->data.scalar.length, quoted);
    if (set) {
        at->lines[index] = in->command_line ? -1 : line_of(node);
        return RLF_OK;
    }
    rlf_str expected = {0};
    rlf_key_expected(key, &expected);
    const char *quote = quoted ? "\"" : scalar ? "'" : "";
    rlf_status status = fail(in, node, "key '%s%s': expected %s, found %s%.80s%s", at->prefix, key->name, expected.ptr, quote,
                             node_text(node), quote);
    rlf_str_clean_up(&expected);
    return status;
}

static bool is_null(const yaml_node_t *node) {
    return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (node->data.scalar.length == 0 || strcmp(node_text(node), "~") == 0 || strcmp(node_text(node), "null") == 0);
}

static bool same_key(const yaml_node_t *a, const yaml_node_t *b) {
    return a->type == YAML_SCALAR_NODE && a->data.scalar.length == b->data.scalar.length &&
           memcmp(a->data.scalar.value, b->data.scalar.value, a->data.scalar.length) == 0;
}

/* The pairs of one map; `path` is the name of the group. Every earlier key of the map was a known one, so the search back is short. */
static rlf_status apply_map(loader *in, const scope *at, const char *path, yaml_node_t *node) {
    rlf_status status = RLF_OK;
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        yaml_node_t *name = yaml_document_get_node(in->doc, pair->key), *value = yaml_document_get_node(in->doc, pair->value);
        if (name->type != YAML_SCALAR_NODE) return fail(in, name, "expected a key, found %s", node_text(name));
        for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < pair; p++) {
            yaml_node_t *earlier = yaml_document_get_node(in->doc, p->key);
            if (same_key(earlier, name))
                return fail(in, name, "key '%s%s%s%.100s' is set twice, first in line %d", at->prefix, path, *path ? "." : "",
                            node_text(name), line_of(earlier));
        }
        char child[PATH_MAX_BYTES];
        int n = snprintf(child, sizeof child, "%s%s%s", path, *path ? "." : "", node_text(name));
        if (n < 0 || (size_t)n >= sizeof child) return fail(in, name, "unknown key '%.100s...'", child);
        RLF_TRY(apply(in, at, child, value));
    }
out:
    return status;
}

static void tool_clean_up(rlf_tool_config *tool) {
    for (size_t i = 0; i < rlf_tool_key_count; i++)
        if (rlf_tool_keys[i].type == RLF_KEY_TEXT || rlf_tool_keys[i].type == RLF_KEY_JSON) free(*(char **)((char *)tool + rlf_tool_keys[i].offset));
}

static void tools_clean_up(rlf_config *config) {
    for (size_t i = 0; i < config->n_tools; i++) tool_clean_up(&config->tools[i]);
    free(config->tools);
    config->tools = NULL;
    config->n_tools = 0;
}

static void set_defaults(const rlf_key *keys, size_t count, void *base) {
    for (size_t i = 0; i < count; i++) {
        bool ok = rlf_key_set(&keys[i], base, keys[i].fallback, strlen(keys[i].fallback), false);
        if (!ok) abort(); /* the table contradicts itself; a test reads every default */
    }
}

/* One tool, from the path below it ("" for the whole map). */
static rlf_status apply_tool(loader *in, size_t index, const char *path, yaml_node_t *node) {
    char prefix[32];
    snprintf(prefix, sizeof prefix, "tools.%zu.", index);
    if (!*path && node->type != YAML_MAPPING_NODE)
        return fail(in, node, "key 'tools.%zu': expected a map with at least name and kind, found '%.80s'", index, node_text(node));
    int *lines = rlf_calloc(rlf_tool_key_count, sizeof *lines);
    scope at = {rlf_tool_keys, rlf_tool_key_count, &in->config->tools[index], prefix, lines};
    in->tool_lines[index] = in->command_line ? -1 : line_of(node);
    rlf_status status = apply(in, &at, path, node);
    free(lines);
    return status;
}

/* The whole list, which replaces one that was there. */
static rlf_status apply_tools(loader *in, yaml_node_t *node) {
    rlf_status status = RLF_OK;
    tools_clean_up(in->config);
    if (is_null(node)) return RLF_OK;
    if (node->type != YAML_SEQUENCE_NODE) return fail(in, node, "key 'tools': expected a list of maps, found '%.80s'", node_text(node));
    size_t n = (size_t)(node->data.sequence.items.top - node->data.sequence.items.start);
    if (n > TOOLS_MAX) return fail(in, node, "key 'tools': at most %d tools, found %zu", TOOLS_MAX, n);
    in->config->tools = rlf_calloc(n, sizeof *in->config->tools);
    in->config->n_tools = n;
    for (size_t i = 0; i < n; i++) set_defaults(rlf_tool_keys, rlf_tool_key_count, &in->config->tools[i]);
    for (size_t i = 0; i < n; i++)
        RLF_TRY(apply_tool(in, i, "", yaml_document_get_node(in->doc, node->data.sequence.items.start[i])));
out:
    return status;
}

/* "tools.0.latency.median_ms": the number names an item that exists. */
static rlf_status apply_tool_path(loader *in, const char *path, yaml_node_t *node) {
    const char *number = path + strlen("tools.");
    size_t digits = strspn(number, "0123456789");
    if (digits == 0 || digits > 3 || number[digits] != '.')
        return fail(in, node, "unknown key '%.100s'; a tool's key reads tools.0.timeout_ms", path);
    size_t index = (size_t)strtoul(number, NULL, 10);
    if (index >= in->config->n_tools)
        return fail(in, node, "key '%.100s': the list has %zu tool%s, counted from 0", path, in->config->n_tools,
                    in->config->n_tools == 1 ? "" : "s");
    return apply_tool(in, index, number + digits + 1, node);
}

static rlf_status apply(loader *in, const scope *at, const char *path, yaml_node_t *node) {
    bool root = !*at->prefix;
    if (root && strcmp(path, "tools") == 0) return apply_tools(in, node);
    if (root && strncmp(path, "tools.", 6) == 0) return apply_tool_path(in, path, node);
    const rlf_key *key = rlf_key_find(at->keys, at->count, path);
    if (key) return set_leaf(in, at, key, node);
    if (!is_group(at, path)) return unknown_key(in, at, path, node);
    if (is_null(node)) return RLF_OK;
    if (node->type != YAML_MAPPING_NODE)
        return fail(in, node, "'%s%s': expected a map of keys, found '%.80s'", at->prefix, *path ? path : "the file", node_text(node));
    return apply_map(in, at, path, node);
}

/* ---- documents -------------------------------------------------------------------------------------------------------------------- */

static rlf_status syntax_error(const loader *in, const yaml_parser_t *parser) {
    const char *problem = parser->problem ? parser->problem : "not YAML";
    const char *colon = parser->context ? ", " : "", *context = parser->context ? parser->context : "";
    if (in->command_line) return RLF_RAISE(INVALID, "command line: %s%s%s", problem, colon, context);
    if (parser->error == YAML_READER_ERROR) return RLF_RAISE(INVALID, "%s: byte %zu: %s", in->label, parser->problem_offset, problem);
    return RLF_RAISE(INVALID, "%s:%zu: %s%s%s", in->label, parser->problem_mark.line + 1, problem, colon, context);
}

/* Parses `text` as one document and applies it at `path`. */
static rlf_status apply_text(loader *in, const char *path, const char *text, size_t n) {
    rlf_status status = RLF_OK;
    yaml_parser_t parser;
    yaml_document_t doc = {0}, second = {0};
    if (!yaml_parser_initialize(&parser)) return RLF_RAISE(NO_MEMORY, "%s: no memory for a YAML parser", in->label);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    if (!yaml_parser_load(&parser, &doc)) RLF_TRY(syntax_error(in, &parser));
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    if (!root && in->command_line)
        RLF_FAIL(INVALID, "command line: expected a value, found a comment; a text that begins with # needs quotes");
    if (!root) RLF_FAIL(INVALID, "%s: the file is empty; expected a map of keys", in->label);
    if (!yaml_parser_load(&parser, &second)) RLF_TRY(syntax_error(in, &parser));
    yaml_node_t *extra = yaml_document_get_root_node(&second);
    if (extra) RLF_TRY(fail(in, extra, "expected one YAML document, found a second one"));
    in->doc = &doc;
    scope at = {rlf_config_keys, rlf_config_key_count, in->config, "", in->lines};
    RLF_TRY(apply(in, &at, path, root));
out:
    in->doc = NULL;
    yaml_document_delete(&second);
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    return status;
}

static rlf_status apply_override(loader *in, const char *text) {
    const char *equals = strchr(text, '=');
    char path[PATH_MAX_BYTES];
    if (!equals || equals == text) return RLF_RAISE(INVALID, "command line: expected key=value, found '%.100s'", text);
    if ((size_t)(equals - text) >= sizeof path) return RLF_RAISE(INVALID, "command line: unknown key '%.100s...'", text);
    snprintf(path, sizeof path, "%.*s", (int)(equals - text), text);
    const char *value = equals + 1;
    if (value[strspn(value, " ")] == '\0') value = "''"; /* an empty value is the empty text */
    rlf_status status = apply_text(in, path, value, strlen(value));
    if (status != RLF_OK && !strstr(rlf_error_message(), path)) rlf_error_context("'%s'", text);
    return status;
}

/* ---- files of servers -------------------------------------------------------------------------------------------------------------- */

static bool is_file_of_servers(const rlf_tool_config *t) { return strcmp(t->kind, "mcp") == 0 && *t->file && !*t->server; }

static void copy_tool(rlf_tool_config *to, const rlf_tool_config *from) {
    *to = *from;
    for (size_t i = 0; i < rlf_tool_key_count; i++) {
        char **text = (char **)((char *)to + rlf_tool_keys[i].offset);
        if (rlf_tool_keys[i].type == RLF_KEY_TEXT || rlf_tool_keys[i].type == RLF_KEY_JSON) *text = rlf_strdup(*text);
    }
}

static void set_text(char **at, const char *text) {
    free(*at);
    *at = rlf_strdup(text);
}

/* Room for n tools from `index` on, in place of the one there, whose copies they are. */
static void repeat_tool(rlf_config *c, int *tool_lines, size_t index, size_t n) {
    rlf_tool_config first = c->tools[index];
    c->tools = rlf_realloc(c->tools, c->n_tools + n, sizeof *c->tools);
    memmove(c->tools + index + n, c->tools + index + 1, (c->n_tools - index - 1) * sizeof *c->tools);
    memmove(tool_lines + index + n, tool_lines + index + 1, (c->n_tools - index - 1) * sizeof *tool_lines);
    for (size_t i = 0; i < n; i++) {
        copy_tool(&c->tools[index + i], &first);
        tool_lines[index + i] = tool_lines[index];
    }
    c->n_tools += n - 1;
    tool_clean_up(&first);
}

/* A tool that names a file but none of its servers becomes one tool for each of them: with key server, and the server's name where it has
 * none. What a server is stays in the file, which may hold secrets. */
static rlf_status expand_servers(rlf_config *c, int *tool_lines, size_t index) {
    json_t *servers, *entry;
    const char *name;
    rlf_status status = rlf_servers_read(c->tools[index].file, &servers);
    size_t n = json_object_size(servers);
    if (status == RLF_OK && n == 0) status = RLF_RAISE(INVALID, "%s: it lists no servers", c->tools[index].file);
    if (status == RLF_OK && (c->n_tools + n > TOOLS_MAX + 1 || (n > 1 && *c->tools[index].name)))
        status = RLF_RAISE(INVALID, "%s lists %zu servers; expected at most %d tools, and no key name: each has its server's",
                           c->tools[index].file, n, TOOLS_MAX);
    if (status != RLF_OK) {
        rlf_error_context("key 'tools.%zu.file'", index);
        json_decref(servers);
        return status;
    }
    repeat_tool(c, tool_lines, index, n);
    json_object_foreach(servers, name, entry) {
        rlf_tool_config *tool = &c->tools[index++];
        char known_by[65];
        rlf_server_tool_name(name, known_by, sizeof known_by);
        set_text(&tool->server, name);
        if (!*tool->name) set_text(&tool->name, known_by);
    }
    json_decref(servers);
    return RLF_OK;
}

static rlf_status expand_all_servers(rlf_config *c, int *tool_lines) {
    rlf_status status = RLF_OK;
    for (size_t i = 0; status == RLF_OK && i < c->n_tools; i++)
        if (is_file_of_servers(&c->tools[i])) status = expand_servers(c, tool_lines, i);
    return status;
}

/* ---- the interface ------------------------------------------------------------------------------------------------------------------ */

rlf_status rlf_config_parse(rlf_config *config, const char *text, size_t n, const char *label, char **overrides, size_t n_overrides) {
    rlf_status status = RLF_OK;
    *config = (rlf_config){0};
    set_defaults(rlf_config_keys, rlf_config_key_count, config);
    int *lines = rlf_calloc(rlf_config_key_count, sizeof *lines), *tool_lines = rlf_calloc(TOOLS_MAX, sizeof *tool_lines);
    loader in = {.config = config, .label = label, .lines = lines, .tool_lines = tool_lines};
    if (n > FILE_MAX) RLF_FAIL(LIMIT, "%s: larger than %d bytes", label, FILE_MAX);
    RLF_TRY(apply_text(&in, "", text, n));
    in.command_line = true;
    in.label = "command line";
    for (size_t i = 0; i < n_overrides; i++) RLF_TRY(apply_override(&in, overrides[i]));
    RLF_TRY(expand_all_servers(config, tool_lines));
    RLF_TRY(rlf_config_check(config, &(rlf_config_origin){label, lines, tool_lines}));
out:
    free(lines);
    free(tool_lines);
    if (status != RLF_OK) rlf_config_clean_up(config);
    return status;
}

rlf_status rlf_config_load(rlf_config *config, const char *path, char **overrides, size_t n_overrides) {
    rlf_str text = {0};
    *config = (rlf_config){0};
    rlf_status status = rlf_str_read_file(&text, path, FILE_MAX);
    if (status == RLF_OK) status = rlf_config_parse(config, text.ptr, text.len, path, overrides, n_overrides);
    rlf_str_clean_up(&text);
    return status;
}

int64_t rlf_config_beat_ms(const rlf_config *config) {
    enum { LONGEST_MS = 1000, BEATS = 4 };
    int64_t ms = config->deadline.message_s * 1000 / BEATS;
    return ms < LONGEST_MS ? ms : LONGEST_MS;
}

void rlf_config_clean_up(rlf_config *config) {
    tools_clean_up(config);
    for (size_t i = 0; i < rlf_config_key_count; i++)
        if (rlf_config_keys[i].type == RLF_KEY_TEXT || rlf_config_keys[i].type == RLF_KEY_JSON) free(*(char **)((char *)config + rlf_config_keys[i].offset));
    *config = (rlf_config){0};
}
