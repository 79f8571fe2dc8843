/* JSON schema, as far as the arguments of tools use it: is this value what the schema asks for, and if not, what is wrong with it, in
 * words for the model.
 *
 * Keywords: type (one or a list), properties, required, additionalProperties (not beside patternProperties), items, enum, const, minimum,
 * maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength (in code points), minItems, maxItems, anyOf, oneOf (as anyOf), allOf,
 * and $ref into the schema itself ("#/$defs/…"). Others allow anything, as the standard says of unknown ones.
 * A check is bounded in depth and steps, whatever the schema: what lies beyond is allowed. */
#ifndef RLF_TOOLSVC_SCHEMA_H
#define RLF_TOOLSVC_SCHEMA_H

#include <jansson.h>
#include <stdbool.h>

#include "common/base/mem.h"

enum { TOOLSVC_SCHEMA_MAX_DEPTH = 64 };

/* False: one phrase with the first thing wrong is appended to `error`, valid UTF-8: 'the argument "a.b[2]" of calc must be a string, not
 * a number'. function: the name for such phrases. */
bool toolsvc_schema_check(const json_t *schema, const json_t *arguments, const char *function, rlf_str *error);

/* RLF_INVALID unless it is the schema of an object: with "type": "object" or "properties", whose parts are of the right types. */
rlf_status toolsvc_schema_valid(const json_t *schema) RLF_MUST_USE;

#endif
