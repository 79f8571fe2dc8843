/* The codec behind messages.h: one table of fields per record, walked both ways. msgpack-c packs and unpacks; scan() first proves that
 * no count in the bytes exceeds what the bytes can hold, because the unpacker allocates by those counts. */
#include "common/msg/messages.h"

#include <msgpack.h>
#include <stdbool.h>
#include <string.h>

enum { MAX_DEPTH = 8 };

typedef enum field_kind { FIELD_I64, FIELD_F64, FIELD_STR, FIELD_I32S, FIELD_F32S, FIELD_LIST } field_kind;

typedef struct record_info record_info;
typedef struct field_info {
    const char *key;
    field_kind kind;
    size_t offset;
    const record_info *of; /* FIELD_LIST */
} field_info;
struct record_info {
    const char *name;
    size_t size;
    const field_info *fields;
    size_t n_fields;
};

/* All number arrays and lists have one shape in memory. */
typedef struct any_array { void *v; size_t n; } any_array;

#define T_I64_(R, m, key) {key, FIELD_I64, offsetof(rlf_##R, m), NULL},
#define T_F64_(R, m, key) {key, FIELD_F64, offsetof(rlf_##R, m), NULL},
#define T_STR_(R, m, key) {key, FIELD_STR, offsetof(rlf_##R, m), NULL},
#define T_I32S_(R, m, key) {key, FIELD_I32S, offsetof(rlf_##R, m), NULL},
#define T_F32S_(R, m, key) {key, FIELD_F32S, offsetof(rlf_##R, m), NULL},
#define T_LIST_(R, type, m, key) {key, FIELD_LIST, offsetof(rlf_##R, m), &info_##type},
#define TABLE_(r)                                                                                                            \
    static const field_info fields_##r[] = {RLF_FIELDS_##r(r, T_I64_, T_F64_, T_STR_, T_I32S_, T_F32S_, T_LIST_)};              \
    static const record_info info_##r = {#r, sizeof(rlf_##r), fields_##r, sizeof fields_##r / sizeof *fields_##r};
#define TABLE_MESSAGE_(NAME, r) TABLE_(r)
RLF_PART_TABLE(TABLE_)
RLF_MESSAGE_TABLE(TABLE_MESSAGE_)

#define INFO_(NAME, r) &info_##r,
static const record_info *const g_messages[] = {RLF_MESSAGE_TABLE(INFO_)};

const char *rlf_message_name(int type) {
#define NAME_(NAME, r) #NAME,
    static const char *const names[] = {RLF_MESSAGE_TABLE(NAME_)};
#undef NAME_
    return type >= 0 && type < RLF_MSG_COUNT ? names[type] : "?";
}

#define TEXT_(name, text) text,
const char *rlf_call_status_text(int64_t status) {
    static const char *const texts[] = {RLF_CALL_STATUS_TABLE(TEXT_)};
    return status >= 0 && status < RLF_CALL_STATUS_COUNT ? texts[status] : "?";
}

const char *rlf_finish_text(int64_t finish) {
    static const char *const texts[] = {RLF_FINISH_TABLE(TEXT_)};
    return finish >= 0 && finish < RLF_FINISH_COUNT ? texts[finish] : "?";
}
#undef TEXT_

/* ---- encode ----------------------------------------------------------------------------------------------------------------------- */

static int write_str(void *ctx, const char *bytes, size_t n) {
    rlf_str_append(ctx, bytes, n);
    return 0;
}

static void pack_text(msgpack_packer *pk, const char *bytes, size_t n) {
    msgpack_pack_str(pk, n);
    msgpack_pack_str_body(pk, bytes, n);
}

static void pack_record(msgpack_packer *pk, const record_info *info, const char *record) {
    msgpack_pack_map(pk, info->n_fields);
    for (const field_info *f = info->fields; f < info->fields + info->n_fields; f++) {
        const void *p = record + f->offset;
        const any_array *array = p;
        pack_text(pk, f->key, strlen(f->key));
        switch (f->kind) {
        case FIELD_I64: msgpack_pack_int64(pk, *(const int64_t *)p); break;
        case FIELD_F64: msgpack_pack_double(pk, *(const double *)p); break;
        case FIELD_STR: pack_text(pk, ((const rlf_slice *)p)->ptr, ((const rlf_slice *)p)->len); break;
        case FIELD_I32S:
        case FIELD_F32S:
            msgpack_pack_bin(pk, array->n * 4);
            msgpack_pack_bin_body(pk, array->v, array->n * 4);
            break;
        case FIELD_LIST:
            msgpack_pack_array(pk, array->n);
            for (size_t i = 0; i < array->n; i++) pack_record(pk, f->of, (const char *)array->v + i * f->of->size);
            break;
        }
    }
}

void rlf_message_encode(rlf_message_type type, const void *record, rlf_str *out) {
    msgpack_packer pk;
    msgpack_packer_init(&pk, out, write_str);
    pack_record(&pk, g_messages[type], record);
}

/* ---- scan: are the counts honest? ------------------------------------------------------------------------------------------------- */

typedef struct cursor { const unsigned char *p, *end; } cursor;

static bool take(cursor *c, uint64_t n) {
    if (n > (uint64_t)(c->end - c->p)) return false;
    c->p += n;
    return true;
}

/* A big-endian unsigned of `bytes` bytes. */
static bool take_uint(cursor *c, int bytes, uint64_t *value) {
    const unsigned char *p = c->p;
    if (!take(c, (uint64_t)bytes)) return false;
    *value = 0;
    for (int i = 0; i < bytes; i++) *value = *value << 8 | p[i];
    return true;
}

/* How many bytes of payload and how many child values follow a tag byte; false if the tag is cut or reserved. */
static bool scan_tag(cursor *c, uint64_t *payload, uint64_t *children) {
    unsigned char tag = *c->p++;
    uint64_t n = 0;
    *payload = *children = 0;
    if (tag <= 0x7f || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3) return true; /* fixint, nil, bool */
    if (tag <= 0x8f) return *children = 2u * (tag & 15u), true;
    if (tag <= 0x9f) return *children = tag & 15u, true;
    if (tag <= 0xbf) return *payload = tag & 31u, true;
    switch (tag) {
    case 0xc4: case 0xc5: case 0xc6: return take_uint(c, 1 << (tag - 0xc4), payload);             /* bin */
    case 0xc7: case 0xc8: case 0xc9: return take_uint(c, 1 << (tag - 0xc7), &n) && (*payload = n + 1, true); /* ext */
    case 0xca: return *payload = 4, true;
    case 0xcb: return *payload = 8, true;
    case 0xcc: case 0xcd: case 0xce: case 0xcf: return *payload = 1u << (tag - 0xcc), true;       /* uint */
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return *payload = 1u << (tag - 0xd0), true;       /* int */
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return *payload = 1 + (1u << (tag - 0xd4)), true; /* fixext */
    case 0xd9: case 0xda: case 0xdb: return take_uint(c, 1 << (tag - 0xd9), payload);             /* str */
    case 0xdc: case 0xdd: return take_uint(c, tag == 0xdc ? 2 : 4, children);                       /* array */
    case 0xde: case 0xdf: return take_uint(c, tag == 0xde ? 2 : 4, &n) && (*children = 2 * n, true);  /* map */
    default: return false;
    }
}

static bool scan_value(cursor *c, int depth) {
    uint64_t payload, children;
    if (depth > MAX_DEPTH || c->p >= c->end || !scan_tag(c, &payload, &children) || !take(c, payload)) return false;
    if (children > (uint64_t)(c->end - c->p)) return false; /* each child takes at least one byte */
    for (uint64_t i = 0; i < children; i++)
        if (!scan_value(c, depth + 1)) return false;
    return true;
}

/* ---- decode ----------------------------------------------------------------------------------------------------------------------- */

typedef struct decoder {
    const char *message;
    int from;
    rlf_arena *arena;
} decoder;

static rlf_status bad_field(const decoder *d, const record_info *info, const field_info *f, const char *expected) {
    return RLF_RAISE(PROTOCOL, "message %s from rank %d: key '%s' of %s: expected %s", d->message, d->from, f->key, info->name, expected);
}

static const msgpack_object *find_key(const msgpack_object *map, const char *key) {
    size_t n = strlen(key);
    for (uint32_t i = 0; i < map->via.map.size; i++) {
        const msgpack_object *k = &map->via.map.ptr[i].key;
        if (k->type == MSGPACK_OBJECT_STR && k->via.str.size == n && memcmp(k->via.str.ptr, key, n) == 0) return &map->via.map.ptr[i].val;
    }
    return NULL;
}

static rlf_status decode_int(const decoder *d, const record_info *info, const field_info *f, const msgpack_object *o, int64_t *out) {
    if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) *out = o->via.i64;
    else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER && o->via.u64 <= INT64_MAX) *out = (int64_t)o->via.u64;
    else return bad_field(d, info, f, "a 64-bit integer");
    return RLF_OK;
}

static rlf_status decode_text(const decoder *d, const record_info *info, const field_info *f, const msgpack_object *o, rlf_slice *out) {
    if (o->type != MSGPACK_OBJECT_STR || o->via.str.size > RLF_MSG_MAX_TEXT) return bad_field(d, info, f, "a string of at most 16 MiB");
    *out = (rlf_slice){rlf_arena_dup(d->arena, o->via.str.ptr, o->via.str.size), o->via.str.size};
    return RLF_OK;
}

static rlf_status decode_words(const decoder *d, const record_info *info, const field_info *f, const msgpack_object *o, any_array *out) {
    if (o->type != MSGPACK_OBJECT_BIN || o->via.bin.size % 4 || o->via.bin.size / 4 > RLF_MSG_MAX_ITEMS)
        return bad_field(d, info, f, "bin of 32-bit numbers");
    out->n = o->via.bin.size / 4;
    out->v = rlf_arena_alloc(d->arena, out->n, 4);
    if (out->n) memcpy(out->v, o->via.bin.ptr, o->via.bin.size);
    return RLF_OK;
}

static rlf_status decode_record(const decoder *d, const record_info *info, const msgpack_object *o, char *record);

static rlf_status decode_list(const decoder *d, const record_info *info, const field_info *f, const msgpack_object *o, any_array *out) {
    if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size > RLF_MSG_MAX_ITEMS) return bad_field(d, info, f, "an array");
    out->n = o->via.array.size;
    out->v = rlf_arena_alloc(d->arena, out->n, f->of->size);
    for (size_t i = 0; i < out->n; i++) {
        rlf_status status = decode_record(d, f->of, &o->via.array.ptr[i], (char *)out->v + i * f->of->size);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

static rlf_status decode_field(const decoder *d, const record_info *info, const field_info *f, const msgpack_object *o, void *p) {
    switch (f->kind) {
    case FIELD_I64: return decode_int(d, info, f, o, p);
    case FIELD_F64:
        if (o->type != MSGPACK_OBJECT_FLOAT64 && o->type != MSGPACK_OBJECT_FLOAT32) return bad_field(d, info, f, "a floating-point number");
        *(double *)p = o->via.f64;
        return RLF_OK;
    case FIELD_STR: return decode_text(d, info, f, o, p);
    case FIELD_I32S:
    case FIELD_F32S: return decode_words(d, info, f, o, p);
    case FIELD_LIST: return decode_list(d, info, f, o, p);
    }
    return RLF_RAISE(INTERNAL, "field kind %d", (int)f->kind);
}

static rlf_status decode_record(const decoder *d, const record_info *info, const msgpack_object *o, char *record) {
    if (o->type != MSGPACK_OBJECT_MAP)
        return RLF_RAISE(PROTOCOL, "message %s from rank %d: %s: expected a map", d->message, d->from, info->name);
    for (const field_info *f = info->fields; f < info->fields + info->n_fields; f++) {
        const msgpack_object *value = find_key(o, f->key);
        if (!value)
            return RLF_RAISE(PROTOCOL, "message %s from rank %d: key '%s' of %s is missing", d->message, d->from, f->key, info->name);
        rlf_status status = decode_field(d, info, f, value, record + f->offset);
        if (status != RLF_OK) return status;
    }
    return RLF_OK;
}

rlf_status rlf_message_decode(rlf_message_type type, const void *bytes, size_t n, int from, rlf_arena *arena, void *record) {
    if ((unsigned)type >= RLF_MSG_COUNT) return RLF_RAISE(PROTOCOL, "message from rank %d: type %d is not known", from, (int)type);
    const decoder d = {rlf_message_name((int)type), from, arena};
    if (n > RLF_MSG_MAX_BYTES)
        return RLF_RAISE(PROTOCOL, "message %s from rank %d: %zu bytes, at most %d allowed", d.message, from, n, RLF_MSG_MAX_BYTES);
    cursor c = {bytes, (const unsigned char *)bytes + n};
    if (!scan_value(&c, 0) || c.p != c.end)
        return RLF_RAISE(PROTOCOL, "message %s from rank %d: not one well-formed msgpack value (byte %zu of %zu)", d.message, from,
                         (size_t)(c.p - (const unsigned char *)bytes), n);

    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t offset = 0;
    rlf_status status = RLF_OK;
    if (msgpack_unpack_next(&unpacked, bytes, n, &offset) != MSGPACK_UNPACK_SUCCESS)
        status = RLF_RAISE(PROTOCOL, "message %s from rank %d: msgpack-c refused it", d.message, from);
    else status = decode_record(&d, g_messages[type], &unpacked.data, record);
    msgpack_unpacked_destroy(&unpacked);
    return status;
}
