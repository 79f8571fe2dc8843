#!/usr/bin/env bash
# Services behind TLS: one is believed if its certificate is good, by the authority that the job names, and not otherwise; the line says why.
source "$(dirname "$0")/lib.sh"
fresh_work tls
command -v openssl >/dev/null || skip "there is no openssl to make certificates with"
cd "$work" || fail "cd $work"
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -keyout ca.key -out ca.pem -days 2 -subj /CN=authority 2>log || fail "no authority: $(cat log)"
openssl req -x509 "${key[@]}" -keyout other.key -out other.pem -days 2 -subj /CN=other 2>log || fail "no other authority: $(cat log)"
openssl req -x509 "${key[@]}" -keyout self.key -out self.pem -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>log || fail "no certificate: $(cat log)"
signed() { # name, host, validity...
    openssl req "${key[@]}" -keyout "$1.key" -out "$1.csr" -subj "/CN=$2" 2>log &&
        openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -out "$1.pem" -extfile <(echo "subjectAltName=DNS:$2") "${@:3}" 2>log
}
signed good localhost -days 2 || fail "no certificate: $(cat log)"
signed elsewhere example.org -days 2 || fail "no certificate: $(cat log)"
# A validity in the past is written differently by releases.
signed expired localhost -days -1 || signed expired localhost -not_before 20200101000000Z -not_after 20200102000000Z || fail "no expired certificate: $(cat log)"
echo '{"text": "believed"}' >answer.json

servers=()
trap 'kill "${servers[@]}" 2>/dev/null' EXIT
declare -A port
for name in good self elsewhere expired; do
    openssl s_server -accept 127.0.0.1:0 -WWW -cert $name.pem -key $name.key <&- >$name.out 2>&1 &
    servers+=($!)
    for _ in $(seq 200); do
        port[$name]=$(sed -n 's/^ACCEPT .*:\([0-9][0-9]*\)$/\1/p' $name.out)
        [ -z "${port[$name]}" ] || break
        sleep 0.05
    done
    [ -n "${port[$name]}" ] || fail "openssl s_server does not start: $(cat $name.out)"
done
ask() { # certificate, overrides... : what the call came to, one line
    sed -E "s|\{name: search, .*\}|{name: web, kind: http, url: \"https://localhost:${port[$1]}/answer.json\", method: GET, answer: /text, schema: {type: object}, retries: 0}|" \
        "$RLF_SOURCE/tests/e2e/rl.yaml" >job.yaml
    "$rlf" tools job.yaml "${@:2}" call web '{}' 2>&1 | tail -n 1
}
expect() { # pattern, certificate, overrides...
    local said
    said=$(ask "${@:2}")
    echo "  $2 ${*:3}: $said"
    grep -Eq "$1" <<<"$said" || fail "expected '$1'"
}
expect '^believed$' good tools.0.ca=ca.pem
expect '^believed$' self tools.0.ca=self.pem
expect 'gave no answer: .*certificate' good
expect 'gave no answer: .*certificate' good tools.0.ca=other.pem
expect 'gave no answer: .*self[- ]signed' self
expect 'gave no answer: .*self[- ]signed' self tools.0.ca=ca.pem
expect 'gave no answer: .*expired' expired tools.0.ca=ca.pem
expect 'gave no answer: .*(host name|alternative)' elsewhere tools.0.ca=ca.pem
expect 'key "ca": nowhere.pem' good tools.0.ca=nowhere.pem
expect 'gave no answer' good tools.0.ca=answer.json
echo "good certificates are believed, others refused"
