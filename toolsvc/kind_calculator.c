/* The tool kind "calculator": one arithmetic expression (calculator.h). */
#include "toolsvc/calculator.h"
#include "toolsvc/tools.h"

static rlf_call_status run_calculator(const rlf_tool_config *config, void *state, const char *argument, size_t n,
                                      const atomic_bool *cancel, rlf_str *out) {
    (void)config, (void)state, (void)cancel;
    char text[TOOLSVC_CALCULATOR_ERROR];
    double value;
    bool good = toolsvc_calculate(argument, n, &value, text);
    if (good) toolsvc_number_print(value, text);
    rlf_str_puts(out, text);
    return good ? RLF_CALL_OK : RLF_CALL_TOOL_ERROR;
}

const toolsvc_kind toolsvc_kind_calculator = {
    .name = "calculator",
    .description = "Compute an arithmetic expression: + - * / % ^, parentheses, sqrt, abs, min, max, round, floor, ceil, pi, e.",
    .parameter = {"expression", "the expression, such as (3 + 4) * 2"},
    .run = run_calculator};
