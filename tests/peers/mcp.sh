#!/usr/bin/env bash
# Kind mcp against servers that are not ours: the official MCP Python SDK over all transports (sdk_server.py), and reference servers from PyPI. By hand,
# not by CI, with each generation of the SDK:
#     python3 -m venv V && V/bin/pip install mcp==2.3.0 mcp-server-time==2026.10.19 mcp-server-fetch==2026.10.24
#     python3 -m venv W && W/bin/pip install mcp==1.30.0 mcp-server-sqlite==2025.4.25
#     RLF_BUILD=build tests/peers/mcp.sh V/bin/python && RLF_BUILD=build tests/peers/mcp.sh W/bin/python
# Passed whole with both. Prints one line a check; the first that fails ends it. Servers that are not installed are left out.
set -uo pipefail
python=${1:?the Python of a virtual environment with those packages} rlf=${RLF_BUILD:?}/trainer/rlf
here=$(cd "$(dirname "$0")" && pwd) work=$(mktemp -d) servers=()
trap 'kill "${servers[@]}" 2>/dev/null; rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }
good() { echo "  ok: $*"; }

has() { "$python" -c "import $1" 2>/dev/null; }

# A job with one tool; it names what no check here touches.
job() { printf 'mode: rl\noutput: o\nmodel: {path: m}\ndata: {train: t}\ntools:\n  - {name: peer, kind: mcp, %s}\n' "$1" >"$work/job.yaml"; }
tools() { "$rlf" tools "$work/job.yaml" "$@" 2>"$work/log"; }
call() { # name, arguments, expected answer (a pattern)
    tools call "$1" "$2" >"$work/answer"
    grep -Eq -- "$3" "$work/answer" || { cat "$work/log" >&2; fail "$1 $2: expected $3, found $(cat "$work/answer")"; }
    good "$1 $2: $(head -n 1 "$work/answer" | cut -c 1-100)"
}
number() { grep -o "\"$1\": [0-9]*" "$work/bench" | sed 's/.*: //'; }
bench() { tools tools.0.retries="${retries:-0}" bench "$@" >"$work/bench"; }

serve() { # kind, port: in the background; $server is its process
    PEER_LOG=$work/$1.peer "$python" "$here/sdk_server.py" "$1" "$2" >>"$work/$1.log" 2>&1 &
    server=$!
    servers+=("$server")
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null && return
        sleep 0.1
    done
    fail "the $1 server does not listen"
}

# What every transport has to do. $1: the server's PEER_LOG.
checks() {
    tools >"$work/list" || fail "rlf tools: $(cat "$work/log")"
    [ "$(grep -c ' (mcp): ' "$work/list")" -eq 7 ] || fail "expected 7 functions: $(cat "$work/list")"
    good "list: $(grep -o '^[a-z]* (mcp)' "$work/list" | tr '\n' ' ')"
    call add '{"a": 2, "b": 3}' '^5$'
    call leave '{"times": 3}' '^left 3 times$'
    call fail '{"why": "no way"}' '^error: Error executing tool fail'
    tools call add '{"a": "x"}' >"$work/answer" && fail "wrong arguments were accepted"
    good "wrong arguments: $(cut -c 1-80 "$work/answer")"
    bench slow '{"steps": 5, "seconds": 0.2}' 4 4 || fail "slow: $(cat "$work/bench" "$work/log")"
    [ "$(number ok)" -eq 4 ] && good "4 slow calls side by side, $(number progress) notes of progress"
    tools tools.0.timeout_ms=700 call wait '{"seconds": 20}' >"$work/answer"
    grep -q 'did not answer within 700 ms' "$work/answer" || fail "wait: $(cat "$work/answer")"
    for _ in $(seq 50); do grep -qs "wait was cancelled" "$1" && break; sleep 0.1; done
    grep -qs "wait was cancelled" "$1" || fail "the server was not told that the call is cancelled"
    good "a call past its deadline is cancelled in the server"
    bench add '{"a": {{i}}, "b": 1}' 1000 16 || fail "bench: $(cat "$work/bench")"
    good "1000 calls, 16 in flight: $(number calls_per_s) a second (the server is the limit)"
}

echo "versions: $("$python" -m pip list 2>/dev/null | grep -iE '^mcp' | tr -s ' ' | tr '\n' ' ')"

echo "SDK server, stdio"
job "command: ['$python', '$here/sdk_server.py', stdio], env: {PEER_LOG: '$work/stdio.peer'}"
checks "$work/stdio.peer"
bench crash '{}' 3 1 && fail "a crash is no success"
[ "$(number mcp_servers_lost)" -eq 3 ] && [ "$(number restarts)" -eq 2 ] || fail "crash: $(cat "$work/bench")"
good "3 crashes: $(cat "$work/bench")"
tools tools.0.state=episode bench note '{"text": "x"}' 4 2 >"$work/bench" || fail "sessions: $(cat "$work/bench" "$work/log")"
good "sessions of episodes"

for form in http http-json sse; do
    port=$((20000 + RANDOM % 20000)) path=mcp
    [ $form = sse ] && path=sse
    echo "SDK server, $form"
    serve $form $port
    job "url: 'http://127.0.0.1:$port/$path'"
    checks "$work/$form.peer"
    # Killed and started again while calls are made: they are tried again in a new session.
    lines=$(wc -l <"$work/$form.log")
    retries=20 bench add '{"a": {{i}}, "b": 1}' 1000 4 &
    bench=$!
    for _ in $(seq 600); do [ "$(wc -l <"$work/$form.log")" -gt $((lines + 100)) ] && break; sleep 0.1; done
    kill -KILL "$server"
    wait "$server" 2>/dev/null
    serve $form $port
    wait $bench
    [ "$(number ok)" -eq 1000 ] && [ "$(number infra_errors)" -gt 0 ] || fail "restart: $(cat "$work/bench" "$work/log")"
    good "the server killed under calls: $(cat "$work/bench")"
    kill "$server"
done

if has mcp_server_time; then
    echo "mcp-server-time, stdio"
    job "command: ['$python', -m, mcp_server_time, --local-timezone, UTC]"
    call convert_time '{"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}' '21:00:00\+09:00'
    call convert_time '{"source_timezone": "Nowhere", "time": "12:00", "target_timezone": "Asia/Tokyo"}' '^error: '
fi
if has mcp_server_fetch; then
    echo "mcp-server-fetch, stdio"
    echo "<html><body><h1>A page</h1><p>with text</p></body></html>" >"$work/page.html"
    port=$((20000 + RANDOM % 20000))
    (cd "$work" && exec "$python" -m http.server "$port" --bind 127.0.0.1 >/dev/null 2>&1) &
    servers+=($!)
    sleep 1
    job "command: ['$python', -m, mcp_server_fetch, --ignore-robots-txt, --allow-private-ips]"
    call fetch "{\"url\": \"http://127.0.0.1:$port/page.html\", \"raw\": true}" "A page"
    call fetch "{\"url\": \"http://127.0.0.1:$port/nothing\"}" '^error: .*404'
fi
if has mcp_server_sqlite; then
    echo "mcp-server-sqlite, stdio"
    job "command: ['$(dirname "$python")/mcp-server-sqlite', --db-path, '$work/test.db']"
    call create_table '{"query": "CREATE TABLE t (a INTEGER)"}' 'created'
    call write_query '{"query": "INSERT INTO t VALUES (42)"}' 'affected_rows'
    call read_query '{"query": "SELECT * FROM t"}' '42'
    call read_query '{"query": "SELECT * FROM missing"}' 'no such table'
fi
echo "all passed"
