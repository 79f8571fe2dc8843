/* A JSON key: from a YAML node to JSON text (keys.h), and from that to a value. Plain scalars become numbers, booleans and null as in JSON,
 * all else text; but a quoted scalar that is the whole value may be what the dump wrote. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/json.h"
#include "common/config/keys.h"

enum { DEPTH_MAX = 32, NODES_MAX = 1 << 16 }; /* aliases may refer to one node many times, or to a node around them */

typedef struct walk {
    yaml_document_t *document;
    int depth, nodes;
} walk;

static json_t *json_of(walk *w, const yaml_node_t *node);

static json_t *scalar_of(const yaml_node_t *node, bool whole) {
    const char *text = (const char *)node->data.scalar.value;
    size_t n = node->data.scalar.length;
    bool plain = node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (plain ? n == 0 || strcmp(text, "~") == 0 : whole && n == 0) return json_null(); /* the dump writes "" for what is not set */
    if (plain || (whole && n > 1 && strchr("{[\"", text[0]))) {
        json_t *value = rlf_json_parse(text, n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        if (value) return value;
    }
    return json_stringn(text, n);
}

static json_t *list_of(walk *w, const yaml_node_t *node) {
    json_t *list = json_array();
    for (yaml_node_item_t *item = node->data.sequence.items.start; item < node->data.sequence.items.top; item++) {
        json_t *value = json_of(w, yaml_document_get_node(w->document, *item));
        if (!value || json_array_append_new(list, value) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *map_of(walk *w, const yaml_node_t *node) {
    json_t *map = json_object();
    for (yaml_node_pair_t *pair = node->data.mapping.pairs.start; pair < node->data.mapping.pairs.top; pair++) {
        const yaml_node_t *name = yaml_document_get_node(w->document, pair->key);
        const char *key = name->type == YAML_SCALAR_NODE ? (const char *)name->data.scalar.value : NULL;
        bool good = key && strlen(key) == name->data.scalar.length && !json_object_get(map, key);
        json_t *value = good ? json_of(w, yaml_document_get_node(w->document, pair->value)) : NULL;
        if (!value || json_object_set_new(map, key, value) != 0) {
            json_decref(map);
            return NULL;
        }
    }
    return map;
}

static json_t *json_of(walk *w, const yaml_node_t *node) {
    if (w->depth >= DEPTH_MAX || ++w->nodes > NODES_MAX) return NULL;
    w->depth++;
    json_t *value = node->type == YAML_SCALAR_NODE ? scalar_of(node, w->depth == 1) : node->type == YAML_SEQUENCE_NODE ? list_of(w, node)
        : map_of(w, node);
    w->depth--;
    return value;
}

bool rlf_key_set_node(const rlf_key *key, void *base, yaml_document_t *document, const yaml_node_t *node) {
    walk w = {.document = document};
    json_t *value = json_of(&w, node);
    char *text = value && !json_is_null(value) ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    bool good = value && (text || json_is_null(value)) && rlf_key_set(key, base, text ? text : "", text ? strlen(text) : 0, true);
    free(text);
    json_decref(value);
    return good;
}

json_t *rlf_config_json(const char *text) { return text && *text ? rlf_json_parse(text, strlen(text), JSON_DECODE_ANY, NULL) : NULL; }
