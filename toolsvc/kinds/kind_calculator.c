/* The tool kind "calculator": one arithmetic expression (calculator.h). */
#include "toolsvc/kinds/calculator.h"
#include "toolsvc/kind.h"

static rlf_call_status run_calculator(const toolsvc_call *call, rlf_str *out) {
    const json_t *expression = json_object_get(call->arguments, "expression");
    char text[TOOLSVC_CALCULATOR_ERROR];
    double value;
    bool good = toolsvc_calculate(json_string_value(expression), json_string_length(expression), &value, text);
    if (good) toolsvc_number_print(value, text);
    rlf_str_puts(out, text);
    return good ? RLF_CALL_OK : RLF_CALL_TOOL_ERROR;
}

const toolsvc_kind toolsvc_kind_calculator = {
    .name = "calculator",
    .description = "Compute an arithmetic expression: + - * / % ^, parentheses, sqrt, abs, min, max, round, floor, ceil, pi, e.",
    .parameters = "{\"type\": \"object\", \"properties\": {\"expression\": {\"type\": \"string\", \"description\": \"the expression, such as "
                  "(3 + 4) * 2\"}}, \"required\": [\"expression\"]}",
    .run = run_calculator};
