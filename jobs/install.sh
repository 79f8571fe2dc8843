#!/usr/bin/env bash
# Installs what the build and the tests need, on Debian or Ubuntu: says which packages are missing and asks for root only for those.
# Elsewhere it installs nothing: there a system's own packages, or modules, have to be in place.
# Usage: jobs/install.sh [build|test]      test adds what only the tests and the fuzzing need.
set -euo pipefail

# The name this release knows a package by: the first that exists.
known() {
    for name in "$@"; do
        if apt-cache show "$name" >/dev/null 2>&1; then echo "$name"; return; fi
    done
    echo "$1"
}

# A package that only some releases have.
present() { if apt-cache show "$1" >/dev/null 2>&1; then echo "$1"; fi; }

have() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

wanted() {
    echo gcc libc6-dev cmake ninja-build pkg-config libopenmpi-dev openmpi-bin libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libsqlite3-dev libuv1-dev libcurl4-openssl-dev libseccomp-dev
    if have libmsgpack-dev; then echo libmsgpack-dev; else known libmsgpack-dev libmsgpack-c-dev; fi
    if [ "${1:-build}" = test ]; then
        echo libcmocka-dev clang procps openssl
        present libclang-rt-dev # libFuzzer; part of clang itself on older releases
    fi
}

# Ubuntu's libmsgpack-dev is a transitional name on newer releases; either is fine once it is there.
missing() { for package in $(wanted "$1"); do have "$package" || echo "$package"; done; }

kind=${1:-build}
if ! command -v dpkg-query >/dev/null; then
    echo "This is neither Debian nor Ubuntu: nothing is installed. CMake says what it does not find of:" $(wanted "$kind" 2>/dev/null)
    exit 0
fi
need=$(missing "$kind")
[ -n "$need" ] || exit 0
if [ "$(id -u)" -eq 0 ]; then root=""; else root="sudo"; fi
echo "Installing packages:" $need ${root:+"(with sudo)"}
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -qq
need=$(missing "$kind") # names again, now that the lists are there
$root apt-get install -y -qq --no-install-recommends $need >/dev/null
