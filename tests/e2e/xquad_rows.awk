# Worked examples from real questions: the question, a search for the title of its paragraph, the paragraph, the answer.
#   awk -f xquad_rows.awk xquad_passages.jsonl xquad_train.jsonl > rows.jsonl
# Both files have one object a line. Strings are taken over in their escaped form and never decoded.
function text_after(key,    at, rest) { # the JSON string behind "key": , without its quotes
    at = index($0, "\"" key "\": ")
    if (!at) return ""
    rest = substr($0, at + length(key) + 4)
    sub(/^[^"]*"/, "", rest)
    match(rest, /^([^"\\]|\\.)*/)
    return substr(rest, 1, RLENGTH)
}
function message(role, content) { return "{\"role\":\"" role "\",\"content\":\"" content "\"}" }
FNR == NR {
    contents = text_after("contents")
    at = index(contents, "\\\"\\n")
    title[text_after("id")] = substr(contents, 3, at - 3)
    body[text_after("id")] = substr(contents, at + 4)
    next
}
{
    id = text_after("passage")
    if (!(id in title) || title[id] ~ /\\/) next
    call = "<tool_call>\\n{\\\"name\\\": \\\"search\\\", \\\"arguments\\\": {\\\"query\\\": \\\"" title[id] "\\\"}}\\n</tool_call>"
    print "{\"messages\":[" message("user", text_after("content")) "," message("assistant", call) "," \
        message("tool", "Doc 1(Title: " title[id] ") " body[id] "\\n") "," message("assistant", "<answer> " text_after("target") " </answer>") "]}"
}
