#!/usr/bin/env bash
# jobs/install.sh on releases that name packages differently, with stand-ins for the package tools: what is asked for, once, and nothing that is there.
source "$(dirname "$0")/lib.sh"
fresh_work install
tools=$work/tools state=$work/state
mkdir -p "$tools" "$state"
export state
stand_in() { { echo '#!/usr/bin/env bash'; cat; } >"$tools/$1" && chmod +x "$tools/$1"; }
stand_in dpkg-query <<'END'
grep -qx -- "${!#}" "$state/installed" && printf installed
END
stand_in apt-cache <<'END'
grep -qx -- "$2" "$state/lists"
END
stand_in apt-get <<'END'
while [[ $1 == -* ]]; do shift; done
echo "$*" >>"$state/log"
if [ "$1" = update ]; then cp "$state/release" "$state/lists"; exit; fi
shift
for word in "$@"; do
    [[ $word == -* ]] && continue
    grep -qx -- "$word" "$state/lists" || { echo "E: Unable to locate package $word" >&2; exit 100; }
    echo "$word" >>"$state/installed"
done
END
stand_in sudo <<'END'
exec "$@"
END
install() { PATH=$tools:$PATH bash "$RLF_SOURCE/jobs/install.sh" "$@"; }

# What every release calls the same is read from the script: a new package needs no change here.
common=$(sed -n 's/^ *echo \(gcc .*\)/\1/p' "$RLF_SOURCE/jobs/install.sh")
[ -n "$common" ] || fail "jobs/install.sh names no packages"
release() { # name, kind, packages of its own that have to be asked for, others that it knows
    local wanted="$common $3"
    printf '%s\n' $common libcmocka-dev clang procps openssl $3 $4 >"$state/release"
    : >"$state/lists"
    : >"$state/installed"
    : >"$state/log"
    install "$2" >"$work/$1.out" 2>"$work/$1.err" || { cat "$work/$1.err" >&2; fail "$1: the packages were not installed"; }
    diff <(printf '%s\n' $wanted | sort) <(sort "$state/installed") >&2 || fail "$1: expected ${wanted}"
    grep -q "^Installing packages: " "$work/$1.out" || fail "$1: it does not say what it installs"
    : >"$state/log"
    [ -z "$(install "$2" 2>&1)" ] && [ ! -s "$state/log" ] || fail "$1: a second run is not quiet: $(cat "$state/log")"
    sed -i /libjansson-dev/d "$state/installed"
    install "$2" >"$work/$1.out" 2>&1 || fail "$1: one missing package was not installed"
    [ "$(tail -n 1 "$state/log" | tr ' ' '\n' | grep -c '^[a-z]')" -eq 2 ] || fail "$1: more than the missing package: $(tail -n 1 "$state/log")"
    echo "  $1, $2: $(wc -w <<<"$wanted") packages"
}
release "debian 12" test "libmsgpack-dev libcmocka-dev clang procps openssl libclang-rt-dev" ""
release "debian 13" test "libmsgpack-c-dev libcmocka-dev clang procps openssl libclang-rt-dev" ""
release "ubuntu 22.04" test "libmsgpack-dev libcmocka-dev clang procps openssl" ""
release "ubuntu 24.04" test "libmsgpack-dev libcmocka-dev clang procps openssl libclang-rt-dev" "libmsgpack-c-dev"
release "debian 12" build "libmsgpack-dev" "libclang-rt-dev"
mkdir "$work/none"
PATH=$work/none "$BASH" "$RLF_SOURCE/jobs/install.sh" >"$work/elsewhere" 2>&1 || fail "not Debian: $(cat "$work/elsewhere")"
grep -q "^This is neither .* libjansson-dev .*libmsgpack-dev$" "$work/elsewhere" && [ "$(wc -l <"$work/elsewhere")" -eq 1 ] || fail "not Debian: $(cat "$work/elsewhere")"
echo "jobs/install.sh asks for what is missing, by the names of each release"
