/* An MCP server over standard input and output, for tests: small, and as bad as it is told to be. Environment:
 *   PEER_PREFACE   a line it says before anything else, that is no message
 *   PEER_CRASH     N: it ends with status 3 at the call after N
 * Functions: note keeps a text and tells all that this process was given (state); echo; sleep says nothing for `ms`; crash ends it; env tells
 * a variable; fail is an error of the tool's; search tells every query it got, numbered (state too). */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char notes[65536];
static long calls, searches;

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static void say(json_t *message) {
    char *text = json_dumps(message, JSON_COMPACT);
    printf("%s\n", text);
    fflush(stdout);
    free(text);
    json_decref(message);
}

static void answer(const json_t *id, json_t *result) { say(json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, "result", result)); }

static json_t *function_of(const char *name, const char *description, const char *argument) {
    return json_pack("{s:s, s:s, s:{s:s, s:{s:{s:s}}, s:[s]}}", "name", name, "description", description, "inputSchema", "type", "object",
                     "properties", argument, "type", strcmp(argument, "ms") == 0 ? "integer" : "string", "required", argument);
}

static json_t *list(void) {
    return json_pack("{s:[o,o,o,o,o,o,o]}", "tools", function_of("note", "Keeps the text and tells all that were kept.", "text"),
                     function_of("echo", "Says the text.", "text"), function_of("sleep", "Waits.", "ms"), function_of("crash", "Ends the server.", "text"),
                     function_of("env", "Tells a variable of the environment.", "text"), function_of("fail", "Fails.", "text"),
                     function_of("search", "Tells every query.", "query"));
}

static void sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static const char *run(const char *name, const json_t *arguments) {
    const char *text = text_of(arguments, "text"), *value;
    if (strcmp(name, "crash") == 0) {
        fprintf(stderr, "crashing: %s\n", text);
        exit(3);
    }
    if (strcmp(name, "sleep") == 0) sleep_ms((long)json_integer_value(json_object_get(arguments, "ms")));
    if (strcmp(name, "env") == 0) return (value = getenv(text)) ? value : "(not set)";
    size_t n = strlen(notes);
    if (strcmp(name, "search") == 0) {
        snprintf(notes + n, sizeof notes - n, "%s%ld. %s", n ? "; " : "", ++searches, text_of(arguments, "query"));
        return notes;
    }
    if (strcmp(name, "note") != 0) return text;
    snprintf(notes + n, sizeof notes - n, "%s%s", n ? "," : "", text);
    return notes;
}

static void call(const json_t *id, const json_t *params) {
    const char *name = text_of(params, "name"), *limit = getenv("PEER_CRASH");
    const json_t *token = json_object_get(json_object_get(params, "_meta"), "progressToken");
    if (limit && calls++ >= atol(limit)) exit(3);
    if (token) say(json_pack("{s:s, s:s, s:{s:O, s:i}}", "jsonrpc", "2.0", "method", "notifications/progress", "params", "progressToken", token, "progress", 1));
    const char *text = run(name, json_object_get(params, "arguments"));
    answer(id, json_pack("{s:[{s:s, s:s}], s:b}", "content", "type", "text", "text", text, "isError", strcmp(name, "fail") == 0));
}

static void take(const json_t *message) {
    const json_t *id = json_object_get(message, "id"), *params = json_object_get(message, "params");
    const char *method = text_of(message, "method");
    if (!id) return;
    if (strcmp(method, "initialize") == 0) {
        answer(id, json_pack("{s:s, s:{s:{}}, s:{s:s, s:s}}", "protocolVersion", text_of(params, "protocolVersion"), "capabilities", "tools",
                             "serverInfo", "name", "peer", "version", "1"));
        say(json_pack("{s:s, s:s, s:s}", "jsonrpc", "2.0", "id", "ping-1", "method", "ping"));
    } else if (strcmp(method, "tools/list") == 0) answer(id, list());
    else if (strcmp(method, "tools/call") == 0) call(id, params);
}

int main(void) {
    char *line = NULL;
    size_t size = 0;
    if (getenv("PEER_PREFACE")) printf("%s\n", getenv("PEER_PREFACE"));
    while (getline(&line, &size, stdin) > 0) {
        json_t *message = json_loads(line, JSON_ALLOW_NUL, NULL);
        take(message);
        json_decref(message);
    }
    free(line);
    return 0;
}
