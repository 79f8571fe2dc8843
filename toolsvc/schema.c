/* A walk down schema and value side by side. The path of the value being looked at is kept for the message; alternatives (anyOf)
 * are tried without one. */
#include "toolsvc/schema.h"

#include <math.h>
#include <string.h>

#include "common/text/json_text.h"
#include "toolsvc/text.h"

enum { PATH_MAX_BYTES = 200, NAME_SHOWN = 64, MOST_STEPS = 100000 };

typedef struct checker {
    const json_t *root;
    const char *function;
    rlf_str *error; /* NULL: only the verdict is asked for */
    rlf_str path;   /* of the value: "", "a", "a.b[2]" */
    int depth, steps; /* nested now; taken so far */
} checker;

static bool check(checker *c, const json_t *schema, const json_t *value);

/* ---- words ------------------------------------------------------------------------------------------------------------------------- */

static const char *type_words(const char *type) {
    static const char *const words[][2] = {{"string", "a string"}, {"number", "a number"}, {"integer", "a whole number"},
                                           {"boolean", "a boolean"}, {"object", "an object"}, {"array", "an array"}, {"null", "null"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(words[i][0], type) == 0) return words[i][1];
    return "a value";
}

static const char *value_words(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

static void put_types(const json_t *type, rlf_str *out) {
    if (json_is_string(type)) rlf_str_puts(out, type_words(json_string_value(type)));
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        rlf_str_printf(out, "%s%s", i ? " or " : "", name ? type_words(name) : "a value");
    }
}

static void put_json(const json_t *value, rlf_str *out) {
    enum { SHOWN = 200 };
    rlf_str text = {0};
    rlf_json_write(value, RLF_JSON_TIGHT, &text);
    toolsvc_append_utf8(out, text.ptr, text.len > SHOWN ? SHOWN : text.len);
    if (text.len > SHOWN) rlf_str_puts(out, "…");
    rlf_str_clean_up(&text);
}

/* "the argument "a.b" of calc must be"; the arguments as a whole where the path is empty. */
static void put_subject(const checker *c, const char *verb) {
    if (!c->path.len) rlf_str_printf(c->error, "the arguments of %s %s", c->function, verb);
    else rlf_str_printf(c->error, "the argument \"%s\" of %s %s", c->path.ptr, c->function, verb);
}

/* ---- keywords ---------------------------------------------------------------------------------------------------------------------- */

static bool is_type(const char *type, const json_t *value) {
    if (strcmp(type, "string") == 0) return json_is_string(value);
    if (strcmp(type, "number") == 0) return json_is_number(value);
    if (strcmp(type, "integer") == 0) return json_is_integer(value) ||
        (json_is_real(value) && json_real_value(value) == floor(json_real_value(value)));
    if (strcmp(type, "boolean") == 0) return json_is_boolean(value);
    if (strcmp(type, "object") == 0) return json_is_object(value);
    if (strcmp(type, "array") == 0) return json_is_array(value);
    if (strcmp(type, "null") == 0) return json_is_null(value);
    return true;
}

static bool check_type(checker *c, const json_t *type, const json_t *value) {
    if (!type || (json_is_string(type) && is_type(json_string_value(type), value))) return true;
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (name && is_type(name, value)) return true;
    }
    if (c->error) {
        put_subject(c, "must be ");
        put_types(type, c->error);
        rlf_str_printf(c->error, ", not %s", value_words(value));
    }
    return false;
}

/* As JSON schema has it: 1 and 1.0 are one number. */
static bool is_same(const json_t *a, const json_t *b) {
    const char *name;
    json_t *member;
    if (json_is_number(a) && json_is_number(b) && json_typeof(a) != json_typeof(b))
        return json_number_value(a) == json_number_value(b);
    if (json_typeof(a) != json_typeof(b) || json_array_size(a) != json_array_size(b) ||
        json_object_size(a) != json_object_size(b))
        return false;
    if (!json_is_array(a) && !json_is_object(a)) return json_equal(a, b);
    for (size_t i = 0; i < json_array_size(a); i++)
        if (!is_same(json_array_get(a, i), json_array_get(b, i))) return false;
    json_object_foreach((json_t *)(uintptr_t)a, name, member) {
        const json_t *other = json_object_get(b, name);
        if (!other || !is_same(member, other)) return false;
    }
    return true;
}

static bool check_choice(checker *c, const json_t *schema, const json_t *value) {
    const json_t *choices = json_object_get(schema, "enum"), *only = json_object_get(schema, "const");
    bool chosen = !json_is_array(choices);
    for (size_t i = 0; !chosen && i < json_array_size(choices); i++) chosen = is_same(json_array_get(choices, i), value);
    if (chosen && (!only || is_same(only, value))) return true;
    if (c->error) {
        put_subject(c, chosen ? "must be " : "must be one of ");
        put_json(chosen ? only : choices, c->error);
        rlf_str_puts(c->error, ", not ");
        put_json(value, c->error);
    }
    return false;
}

/* One bound: fails where measure < bound (below) or measure > bound. */
static bool check_bound(checker *c, const json_t *schema, const char *keyword, double measure, bool below, bool exclusive,
                        const char *what) {
    const json_t *limit = json_object_get(schema, keyword);
    if (!json_is_number(limit)) return true;
    double bound = json_number_value(limit);
    if (below ? (exclusive ? measure > bound : measure >= bound) : (exclusive ? measure < bound : measure <= bound)) return true;
    if (c->error) {
        put_subject(c, "must ");
        rlf_str_printf(c->error, "%s %s ", *what ? "have" : "be",
                       below       ? (exclusive ? "more than" : "at least")
                       : exclusive ? "less than"
                                   : "at most");
        rlf_json_write(limit, RLF_JSON_TIGHT, c->error);
        if (*what) rlf_str_printf(c->error, " %s", what);
    }
    return false;
}

static size_t code_points(const json_t *string) {
    const char *text = json_string_value(string);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(string); i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

static bool check_bounds(checker *c, const json_t *schema, const json_t *value) {
    if (json_is_number(value)) {
        double x = json_number_value(value);
        return check_bound(c, schema, "minimum", x, true, false, "") && check_bound(c, schema, "maximum", x, false, false, "") &&
               check_bound(c, schema, "exclusiveMinimum", x, true, true, "") &&
                   check_bound(c, schema, "exclusiveMaximum", x, false, true, "");
    }
    if (json_is_string(value)) {
        double n = (double)code_points(value);
        return check_bound(c, schema, "minLength", n, true, false, "characters") &&
            check_bound(c, schema, "maxLength", n, false, false, "characters");
    }
    if (!json_is_array(value)) return true;
    double n = (double)json_array_size(value);
    return check_bound(c, schema, "minItems", n, true, false, "items") && check_bound(c, schema, "maxItems", n, false, false, "items");
}

static bool check_required(checker *c, const json_t *schema, const json_t *value) {
    const json_t *required = json_object_get(schema, "required");
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *name = json_string_value(json_array_get(required, i));
        if (!name || json_object_get(value, name)) continue;
        if (!c->error) return false;
        if (c->path.len) rlf_str_printf(c->error, "the argument \"%s\" of %s needs the member \"%s\"", c->path.ptr, c->function, name);
        else rlf_str_printf(c->error, "%s needs the argument \"%s\"", c->function, name);
        const json_t *type = json_object_get(json_object_get(json_object_get(schema, "properties"), name), "type");
        if (type) rlf_str_puts(c->error, " ("), put_types(type, c->error), rlf_str_putc(c->error, ')');
        return false;
    }
    return true;
}

static bool check_member(checker *c, const json_t *schema, const char *name, const json_t *member) {
    const json_t *known = json_object_get(json_object_get(schema, "properties"), name);
    const json_t *others = json_object_get(schema, "patternProperties") ? NULL : json_object_get(schema, "additionalProperties");
    size_t before = c->path.len;
    if (!known && json_is_false(others)) {
        if (!c->error) return false;
        if (c->path.len) rlf_str_printf(c->error, "the argument \"%s\" of %s has no member \"", c->path.ptr, c->function);
        else rlf_str_printf(c->error, "%s has no argument \"", c->function);
        toolsvc_append_utf8(c->error, name, strnlen(name, NAME_SHOWN));
        rlf_str_putc(c->error, '"');
        return false;
    }
    if (before) rlf_str_putc(&c->path, '.');
    toolsvc_append_utf8(&c->path, name, before > PATH_MAX_BYTES ? 0 : strnlen(name, NAME_SHOWN));
    bool good = check(c, known ? known : others, member);
    if (good) c->path.len = before, c->path.ptr[before] = '\0';
    return good;
}

static bool check_object(checker *c, const json_t *schema, json_t *value) {
    if (!check_required(c, schema, value)) return false;
    const char *name;
    json_t *member;
    json_object_foreach(value, name, member) if (!check_member(c, schema, name, member)) return false;
    return true;
}

static bool check_items(checker *c, const json_t *items, const json_t *value) {
    size_t before = c->path.len;
    for (size_t i = 0; items && i < json_array_size(value); i++) {
        rlf_str_printf(&c->path, "[%zu]", i);
        if (!check(c, items, json_array_get(value, i))) return false;
        c->path.len = before;
        c->path.ptr[before] = '\0';
    }
    return true;
}

static bool check_any(checker *c, const json_t *list, const json_t *value) {
    if (!json_is_array(list) || json_array_size(list) == 0) return true;
    rlf_str *error = c->error;
    size_t before = c->path.len;
    bool good = false;
    c->error = NULL;
    for (size_t i = 0; !good && i < json_array_size(list); i++) {
        good = check(c, json_array_get(list, i), value);
        c->path.len = before;
        if (c->path.ptr) c->path.ptr[before] = '\0';
    }
    c->error = error;
    if (!good && error) put_subject(c, "must be one of the forms "), put_json(list, error);
    return good;
}

static bool check_all(checker *c, const json_t *list, const json_t *value) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!check(c, json_array_get(list, i), value)) return false;
    return true;
}

/* "#/$defs/name": the part of the root; NULL if there is none. */
static const json_t *resolve(const json_t *root, const char *reference) {
    if (reference[0] != '#') return NULL;
    const char *at = reference + 1;
    while (root && *at == '/') {
        size_t n = strcspn(++at, "/");
        char name[128];
        if (n >= sizeof name) return NULL;
        memcpy(name, at, n);
        name[n] = '\0';
        root = json_object_get(root, name);
        at += n;
    }
    return *at ? NULL : root;
}

static bool check_keywords(checker *c, const json_t *schema, const json_t *value) {
    const json_t *reference = json_object_get(schema, "$ref");
    const json_t *target = json_is_string(reference) ? resolve(c->root, json_string_value(reference)) : NULL;
    if (target && !check(c, target, value)) return false;
    if (!check_type(c, json_object_get(schema, "type"), value) || !check_choice(c, schema, value) ||
        !check_bounds(c, schema, value)) return false;
    if (json_is_object(value) && !check_object(c, schema, (json_t *)(uintptr_t)value)) return false;
    if (json_is_array(value) && !check_items(c, json_object_get(schema, "items"), value)) return false;
    return check_any(c, json_object_get(schema, "anyOf"), value) && check_any(c, json_object_get(schema, "oneOf"), value) &&
           check_all(c, json_object_get(schema, "allOf"), value);
}

/* A schema that is not an object (true, or missing) allows anything; so does one that refers to itself without end, or takes too many
 * steps: references may double them at each level. */
static bool check(checker *c, const json_t *schema, const json_t *value) {
    if (c->steps == MOST_STEPS) return true;
    c->steps++;
    if (json_is_false(schema)) {
        if (c->error) put_subject(c, "must not be given");
        return false;
    }
    if (!json_is_object(schema) || c->depth >= TOOLSVC_SCHEMA_MAX_DEPTH) return true;
    c->depth++;
    bool good = check_keywords(c, schema, value);
    c->depth--;
    return good;
}

bool toolsvc_schema_check(const json_t *schema, const json_t *arguments, const char *function, rlf_str *error) {
    checker c = {.root = schema, .function = function, .error = error};
    if (!json_is_object(arguments)) {
        rlf_str_printf(error, "the arguments of %s must be a JSON object, not %s", function, value_words(arguments));
        return false;
    }
    bool good = check(&c, schema, arguments);
    rlf_str_clean_up(&c.path);
    return good;
}

rlf_status toolsvc_schema_valid(const json_t *schema) {
    const json_t *type = json_object_get(schema, "type"), *properties = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    if (!json_is_object(schema)) return RLF_RAISE(INVALID, "a JSON schema was expected, not %s", schema ? value_words(schema) : "nothing");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "object") != 0))
        return RLF_RAISE(INVALID, "\"type\": \"object\" was expected: arguments are an object");
    if (!type && !properties) return RLF_RAISE(INVALID, "\"type\": \"object\" or \"properties\" was expected");
    if (properties && !json_is_object(properties)) return RLF_RAISE(INVALID, "\"properties\": an object was expected");
    if (required && !json_is_array(required)) return RLF_RAISE(INVALID, "\"required\": a list of names was expected");
    return RLF_OK;
}
