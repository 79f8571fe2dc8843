#!/usr/bin/env bash
# What tool calls cost, against a service on this machine (tool_server). One JSON object a line, after a line that says what it is of.
#
#   tests/bench/tools.sh BUILD [PYTHON]
#
# BUILD: rlf's build folder. PYTHON: one that has the official MCP client (pip install mcp); without it that comparison is left out.
# From the environment: WHICH ("in_flight sustained observation mcp"), which of the four; CALLS (20000), of the last two; ROUNDS (3), of the
# last, in which both take turns. Beside other work take the processor time (cpu_s), not the rates.
set -euo pipefail
export LC_ALL=C OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ $# -ge 1 ] || { echo "tools.sh: expected BUILD [PYTHON]" >&2; exit 2; }
build=$1 python=${2:-} here=$(cd "$(dirname "$0")" && pwd)
which=${WHICH:-in_flight sustained observation mcp} calls=${CALLS:-20000} rounds=${ROUNDS:-3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The service ends with the descriptor of its input.
serve() { # LATENCY_MS: the port in $port, a job in $work/job.yaml
    coproc server { exec "$build/tests/tool_server" "$1"; }
    read -r port <&"${server[0]}"
    cat > "$work/job.yaml" <<END
mode: eval
output: $work/run
model: {path: none}
data: {eval: none}
tools:
  - {name: clock, kind: http, url: "http://127.0.0.1:$port/clock", method: GET, answer: /answered_ns, schema: {type: object},
     concurrency: 16384, timeout_ms: 30000}
  - {name: remote, kind: mcp, url: "http://127.0.0.1:$port/mcp", concurrency: 16384, timeout_ms: 30000}
END
}
stop() { local input=${server[1]}; exec {input}>&-; wait "$server_PID"; }
asks() { [[ " $which " == *" $1 "* ]]; }
number() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p"; }

if asks in_flight; then
    serve 1000
    echo "10,000 calls in flight, each answered after 1 s"
    "$build/trainer/rlf" tools "$work/job.yaml" bench clock '{}' 10000 10000
    stop
fi
if asks sustained; then
    serve 1000
    echo "5,000 in flight, each answered after 1 s: 5,000 calls a second at best"
    "$build/trainer/rlf" tools "$work/job.yaml" bench clock '{}' 50000 5000
    stop
fi
if asks observation; then
    serve 100
    echo "from the answer to the OBSERVATION on another rank, 1,000 calls a second"
    mpirun -q --bind-to none --oversubscribe -np 2 "$build/tests/bench_observation" "$work/job.yaml" "$calls" 1000
    stop
fi
if asks mcp && [ -n "$python" ]; then
    serve 10
    for _ in $(seq "$rounds"); do
        echo "MCP, 256 in flight, each answered after 10 ms: rlf, then the official Python client"
        "$build/trainer/rlf" tools "$work/job.yaml" bench echo '{"text": "call {{i}}"}' "$calls" 256 | tee -a "$work/ours"
        "$python" "$here/mcp_client.py" "http://127.0.0.1:$port/mcp" "$((calls / 10))" 256 | tee -a "$work/theirs"
    done
    stop
    median() { number "$2" < "$work/$1" | sort -g | sed -n "$((rounds / 2 + 1))p"; }
    awk -v a="$(median ours calls_per_s)" -v b="$(median theirs calls_per_s)" -v c="$(median ours cpu_s)" -v d="$(median theirs cpu_s)" \
        'BEGIN { printf "rlf against the Python client: %.1f times the calls a second, ", a / b
                 printf "1/%.1f of the processor time of a call\n", d * 10 / c }'
fi
