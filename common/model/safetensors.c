/* Reading and writing safetensors (safetensors.h).
 *
 * A file object holds the map, the parsed tensors ordered by offset, and an index of them ordered by name. The check that ordered tensors
 * follow each other from byte 0 to the end of the file excludes overlaps, holes and offsets outside at once. */
#include "common/model/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/mem.h"
#include "common/base/outfile.h"

enum { HEADER_MAX = 100000000, TENSORS_MAX = 1 << 20, DIMS_MAX = 8, NAME_MAX_BYTES = 512 };

struct rlf_safetensors {
    rlf_st_tensor *tensors;  /* ordered by data, then name */
    rlf_st_tensor **by_name; /* into tensors */
    size_t n;
    rlf_arena arena; /* names */
    const char *label;
    int fd;          /* -1: bytes in memory, which belong to the caller */
    void *map;
    size_t map_bytes;
};

typedef struct dtype_info {
    const char *name;
    size_t bytes; /* of an element */
    rlf_dtype dtype;
} dtype_info;

static const dtype_info DTYPES[] = {
    {"F32", 4, RLF_DTYPE_F32},   {"BF16", 2, RLF_DTYPE_BF16}, {"F16", 2, RLF_DTYPE_F16},     {"F64", 8, RLF_DTYPE_OTHER},
    {"I64", 8, RLF_DTYPE_OTHER}, {"I32", 4, RLF_DTYPE_OTHER}, {"I16", 2, RLF_DTYPE_OTHER},   {"I8", 1, RLF_DTYPE_OTHER},
    {"U64", 8, RLF_DTYPE_OTHER}, {"U32", 4, RLF_DTYPE_OTHER}, {"U16", 2, RLF_DTYPE_OTHER},   {"U8", 1, RLF_DTYPE_OTHER},
    {"BOOL", 1, RLF_DTYPE_OTHER}, {"F8_E4M3", 1, RLF_DTYPE_OTHER}, {"F8_E5M2", 1, RLF_DTYPE_OTHER},
};

static const dtype_info *dtype_named(const char *name) {
    for (size_t i = 0; name && i < sizeof DTYPES / sizeof DTYPES[0]; i++)
        if (strcmp(DTYPES[i].name, name) == 0) return &DTYPES[i];
    return NULL;
}

static const dtype_info *dtype_of(rlf_dtype dtype) {
    for (size_t i = 0; i < sizeof DTYPES / sizeof DTYPES[0]; i++)
        if (DTYPES[i].dtype == dtype) return &DTYPES[i];
    return NULL;
}

size_t rlf_dtype_size(rlf_dtype dtype) {
    assert(dtype != RLF_DTYPE_OTHER);
    return dtype_of(dtype)->bytes;
}

const char *rlf_dtype_torch_name(rlf_dtype dtype) {
    static const char *const names[] = {[RLF_DTYPE_F32] = "float32", [RLF_DTYPE_BF16] = "bfloat16", [RLF_DTYPE_F16] = "float16"};
    assert(dtype != RLF_DTYPE_OTHER);
    return names[dtype];
}

bool rlf_dtype_parse(const char *name, rlf_dtype *out) {
    static const rlf_dtype stored[] = {RLF_DTYPE_F32, RLF_DTYPE_BF16};
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        if (strcmp(name, rlf_dtype_torch_name(stored[i])) != 0) continue;
        *out = stored[i];
        return true;
    }
    return false;
}

/* ---- the header ------------------------------------------------------------------------------------------------------------------- */

/* Bytes in memory on their way into a file object. */
typedef struct source {
    const char *label;
    const unsigned char *data; /* behind the header */
    uint64_t data_bytes;
} source;

static rlf_status bad(const source *in, const char *name, const char *what) {
    return RLF_RAISE(INVALID, "%s: tensor '%.200s': %s", in->label, name, what);
}

static rlf_status parse_shape(const source *in, rlf_st_tensor *out, const char *name, const json_t *shape, uint64_t *elements) {
    size_t dims = json_array_size(shape);
    if (!json_is_array(shape) || dims > DIMS_MAX) return bad(in, name, "expected 'shape', a list of at most 8 sizes");
    *elements = 1;
    for (size_t i = 0; i < dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0) return bad(in, name, "expected whole numbers of at least 0 in 'shape'");
        out->shape[i] = json_integer_value(size);
        if (__builtin_mul_overflow(*elements, (uint64_t)out->shape[i], elements)) return bad(in, name, "'shape' is larger than any file");
    }
    out->dims = (int)dims;
    return RLF_OK;
}

static rlf_status parse_offsets(const source *in, rlf_st_tensor *out, const char *name, const json_t *offsets) {
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return bad(in, name, "expected 'data_offsets', a list of two whole numbers");
    int64_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b) return bad(in, name, "expected 'data_offsets' that begin at 0 or later and end no earlier than they begin");
    if ((uint64_t)e > in->data_bytes)
        return RLF_RAISE(INVALID, "%s: tensor '%.200s': its data end at byte %" PRId64 " of the data, but the file has only "
                         "%" PRIu64 " (truncated?)", in->label, name, e, in->data_bytes);
    out->data = in->data + b;
    out->bytes = (size_t)(e - b);
    return RLF_OK;
}

static rlf_status parse_tensor(const source *in, rlf_st_tensor *out, const char *name, const json_t *entry) {
    rlf_status status = RLF_OK;
    uint64_t elements = 0, bytes;
    if (!json_is_object(entry)) return bad(in, name, "expected a map with dtype, shape and data_offsets");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const dtype_info *dtype = dtype_named(type);
    if (!type) return bad(in, name, "expected 'dtype', a text such as F32");
    if (!dtype) return RLF_RAISE(UNSUPPORTED, "%s: tensor '%.200s': dtype '%.40s' is not known", in->label, name, type);
    out->dtype = dtype->dtype;
    RLF_TRY(parse_shape(in, out, name, json_object_get(entry, "shape"), &elements));
    RLF_TRY(parse_offsets(in, out, name, json_object_get(entry, "data_offsets")));
    if (__builtin_mul_overflow(elements, (uint64_t)dtype->bytes, &bytes) || bytes != out->bytes)
        RLF_FAIL(INVALID, "%s: tensor '%.200s': shape and dtype make %" PRIu64 " elements of %zu bytes, but data_offsets hold "
                 "%zu bytes", in->label, name, elements, dtype->bytes, out->bytes);
out:
    return status;
}

static rlf_status parse_metadata(const source *in, const json_t *map) {
    void *at;
    if (!json_is_object(map)) return RLF_RAISE(INVALID, "%s: '__metadata__': expected a map of texts", in->label);
    for (at = json_object_iter((json_t *)map); at; at = json_object_iter_next((json_t *)map, at))
        if (!json_is_string(json_object_iter_value(at)))
            return RLF_RAISE(INVALID, "%s: '__metadata__': '%.100s' is not a text", in->label, json_object_iter_key(at));
    return RLF_OK;
}

static rlf_status parse_entries(rlf_safetensors *file, const source *in, json_t *header) {
    rlf_status status = RLF_OK;
    size_t n = json_object_size(header);
    if (n > TENSORS_MAX) return RLF_RAISE(LIMIT, "%s: the header names %zu tensors; at most %d are read", in->label, n, TENSORS_MAX);
    file->tensors = rlf_calloc(n, sizeof *file->tensors);
    for (void *at = json_object_iter(header); at; at = json_object_iter_next(header, at)) {
        const char *name = json_object_iter_key(at);
        if (strcmp(name, "__metadata__") == 0) {
            RLF_TRY(parse_metadata(in, json_object_iter_value(at)));
            continue;
        }
        if (strlen(name) > NAME_MAX_BYTES) RLF_FAIL(LIMIT, "%s: a tensor name of more than %d bytes", in->label, NAME_MAX_BYTES);
        rlf_st_tensor *tensor = &file->tensors[file->n];
        RLF_TRY(parse_tensor(in, tensor, name, json_object_iter_value(at)));
        tensor->name = rlf_arena_dup(&file->arena, name, strlen(name));
        file->n++;
    }
out:
    return status;
}

/* ---- the order of the data -------------------------------------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b) {
    const rlf_st_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b) {
    const rlf_st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static rlf_status check_order(const rlf_safetensors *file, const source *in) {
    uint64_t end = 0;
    for (size_t i = 0; i < file->n; i++) {
        const rlf_st_tensor *t = &file->tensors[i];
        uint64_t begin = (uint64_t)((const unsigned char *)t->data - in->data);
        if (begin < end)
            return RLF_RAISE(INVALID, "%s: tensor '%.200s': its data overlap those of '%.200s'", in->label, t->name,
                             file->tensors[i - 1].name);
        if (begin > end)
            return RLF_RAISE(INVALID, "%s: tensor '%.200s': a hole of %" PRIu64 " bytes before its data, at byte %" PRIu64,
                             in->label, t->name, begin - end, end);
        end = begin + t->bytes;
    }
    if (end != in->data_bytes)
        return RLF_RAISE(INVALID, "%s: %" PRIu64 " bytes behind the last tensor belong to none", in->label, in->data_bytes - end);
    return RLF_OK;
}

static void index_names(rlf_safetensors *file) {
    file->by_name = rlf_calloc(file->n, sizeof *file->by_name);
    for (size_t i = 0; i < file->n; i++) file->by_name[i] = &file->tensors[i];
    qsort(file->by_name, file->n, sizeof *file->by_name, by_name);
}

/* ---- the file object -------------------------------------------------------------------------------------------------------------- */

static rlf_status header_bytes(const unsigned char *bytes, size_t n, const char *label, uint64_t *length) {
    if (n < 8) return RLF_RAISE(INVALID, "%s: %zu bytes are too few for a safetensors file (truncated?)", label, n);
    *length = 0;
    for (int i = 7; i >= 0; i--) *length = *length << 8 | bytes[i];
    if (*length > HEADER_MAX)
        return RLF_RAISE(INVALID, "%s: byte 0: a header of %" PRIu64 " bytes; at most %d are allowed (not a safetensors file?)",
                         label, *length, HEADER_MAX);
    if (*length > n - 8)
        return RLF_RAISE(INVALID, "%s: a header of %" PRIu64 " bytes, but only %zu follow (truncated?)", label, *length, n - 8);
    return RLF_OK;
}

static rlf_status parse_into(rlf_safetensors *file, const unsigned char *bytes, size_t n, const char *label) {
    rlf_status status = RLF_OK;
    uint64_t length = 0;
    json_error_t error;
    json_t *header = NULL;
    RLF_TRY(header_bytes(bytes, n, label, &length));
    header = json_loadb((const char *)bytes + 8, length, JSON_REJECT_DUPLICATES, &error);
    if (!header) RLF_FAIL(INVALID, "%s: byte %d: the header is not JSON: %s", label, 8 + error.position, error.text);
    if (!json_is_object(header)) RLF_FAIL(INVALID, "%s: byte 8: expected a JSON map of tensors", label);
    source in = {label, bytes + 8 + length, n - 8 - length};
    RLF_TRY(parse_entries(file, &in, header));
    qsort(file->tensors, file->n, sizeof *file->tensors, by_offset);
    RLF_TRY(check_order(file, &in));
    index_names(file);
out:
    json_decref(header);
    return status;
}

rlf_status rlf_safetensors_parse(rlf_safetensors **out, const void *bytes, size_t n, const char *label) {
    rlf_safetensors *file = rlf_calloc(1, sizeof *file);
    *out = NULL;
    file->fd = -1;
    file->label = rlf_arena_dup(&file->arena, label, strlen(label));
    rlf_status status = parse_into(file, bytes, n, label);
    if (status == RLF_OK) *out = file;
    else rlf_safetensors_destroy(file);
    return status;
}

static rlf_status map_file(const char *path, int *file, void **map, size_t *bytes) {
    rlf_status status = RLF_OK;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused below, not waited for */
    if (fd < 0) RLF_FAIL(IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) RLF_FAIL(IO, "%s: cannot read its size: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) RLF_FAIL(INVALID, "%s: not a regular file", path);
    if (info.st_size < 8)
        RLF_FAIL(INVALID, "%s: %lld bytes are too few for a safetensors file (truncated?)", path, (long long)info.st_size);
    *bytes = (size_t)info.st_size;
    *map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (*map == MAP_FAILED) RLF_FAIL(IO, "%s: cannot map: %s", path, strerror(errno));
    *file = fd;
    fd = -1;
out:
    if (fd >= 0) close(fd);
    return status;
}

rlf_status rlf_safetensors_open(rlf_safetensors **out, const char *path) {
    rlf_status status = RLF_OK;
    void *map = NULL;
    size_t bytes = 0;
    int fd = -1;
    *out = NULL;
    RLF_TRY(map_file(path, &fd, &map, &bytes));
    status = rlf_safetensors_parse(out, map, bytes, path);
    if (status != RLF_OK) {
        munmap(map, bytes);
        close(fd);
        goto out;
    }
    (*out)->fd = fd;
    (*out)->map = map;
    (*out)->map_bytes = bytes;
out:
    return status;
}

void rlf_safetensors_destroy(rlf_safetensors *file) {
    if (!file) return;
    if (file->map) munmap(file->map, file->map_bytes);
    if (file->fd >= 0) close(file->fd);
    free(file->tensors);
    free(file->by_name);
    rlf_arena_clean_up(&file->arena);
    free(file);
}

const char *rlf_safetensors_label(const rlf_safetensors *file) { return file->label; }

rlf_status rlf_safetensors_read(const rlf_safetensors *file, const rlf_st_tensor *tensor, size_t begin, size_t n, void *out) {
    const char *from = (const char *)tensor->data + begin;
    assert(begin + n <= tensor->bytes);
    if (file->fd < 0) {
        memcpy(out, from, n);
        return RLF_OK;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(file->fd, (char *)out + done, n - done, (off_t)((size_t)(from - (const char *)file->map) + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0)
            return RLF_RAISE(IO, "%s: tensor '%s': cannot read: %s", file->label, tensor->name,
                             got ? strerror(errno) : "the file became shorter");
        done += (size_t)got;
    }
    return RLF_OK;
}

size_t rlf_safetensors_count(const rlf_safetensors *file) { return file->n; }
const rlf_st_tensor *rlf_safetensors_at(const rlf_safetensors *file, size_t i) { return &file->tensors[i]; }

const rlf_st_tensor *rlf_safetensors_find(const rlf_safetensors *file, const char *name) {
    rlf_st_tensor key = {.name = name}, *key_at = &key;
    if (file->n == 0) return NULL;
    rlf_st_tensor **found = bsearch(&key_at, file->by_name, file->n, sizeof *file->by_name, by_name);
    return found ? *found : NULL;
}

/* ---- writing ---------------------------------------------------------------------------------------------------------------------- */

static json_t *tensor_entry(const rlf_st_tensor *t, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < t->dims; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_of(t->dtype)->name, "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)(begin + t->bytes));
}

/* The header's text, padded with spaces so that the data begin at a multiple of 8. */
static rlf_status header_text(const rlf_st_tensor *tensors, size_t n, const char *path, rlf_str *out) {
    uint64_t begin = 0;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    for (size_t i = 0; i < n; i++) {
        assert(tensors[i].dtype != RLF_DTYPE_OTHER);
        json_object_set_new(header, tensors[i].name, tensor_entry(&tensors[i], begin));
        begin += tensors[i].bytes;
    }
    char *text = json_object_size(header) == n + 1 ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    if (!text) return RLF_RAISE(INVALID, "%s: tensor names must be distinct UTF-8", path);
    rlf_str_puts(out, text);
    while (out->len % 8) rlf_str_putc(out, ' ');
    free(text);
    return RLF_OK;
}

static rlf_status write_data(rlf_outfile *file, const rlf_st_tensor *tensor, size_t i, rlf_st_source_fn *give, void *ctx) {
    rlf_status status = RLF_OK;
    size_t bytes = tensor->bytes;
    const void *data = tensor->data;
    for (size_t at = 0; at < tensor->bytes; at += bytes) {
        bytes = tensor->bytes - at;
        if (!tensor->data) RLF_TRY(give(ctx, i, at, &bytes, &data));
        RLF_TRY(rlf_outfile_write(file, data, bytes));
    }
out:
    return status;
}

rlf_status rlf_safetensors_write(const char *path, const rlf_st_tensor *tensors, size_t n, rlf_st_source_fn *give, void *ctx) {
    rlf_status status = RLF_OK;
    rlf_outfile file = {.fd = -1};
    rlf_str header = {0};
    unsigned char length[8];
    RLF_TRY(header_text(tensors, n, path, &header));
    for (int i = 0; i < 8; i++) length[i] = (unsigned char)((uint64_t)header.len >> (8 * i));
    RLF_TRY(rlf_outfile_open(&file, path));
    RLF_TRY(rlf_outfile_write(&file, length, sizeof length));
    RLF_TRY(rlf_outfile_write(&file, header.ptr, header.len));
    for (size_t i = 0; i < n; i++) RLF_TRY(write_data(&file, &tensors[i], i, give, ctx));
    RLF_TRY(rlf_outfile_commit(&file));
out:
    rlf_str_clean_up(&header);
    rlf_outfile_clean_up(&file);
    return status;
}
