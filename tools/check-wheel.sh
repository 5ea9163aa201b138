#!/bin/sh
# Checks that the wheel contains exactly our two packages, and that the client works without the extra `server`.
set -eu
cd "$(dirname "$0")/.."
wheel=$1
fail() {
    echo "check-wheel: $*" >&2
    exit 1
}

holds=$(.venv/bin/python -m zipfile --list "$wheel" | awk 'NR > 1 { split($1, path, "/"); print path[1] }' | sort -u | tr '\n' ' ')
case $holds in
    "userservice userservice-"*.dist-info" userservice_server ") ;;
    *) fail "the wheel holds $holds" ;;
esac

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
"$(.venv/bin/python -c 'import sys; print(sys._base_executable)')" -m venv "$room/venv"
"$room/venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint requirements/constraints.txt "$wheel"
cd "$room"
venv/bin/python -c 'from userservice import UserManager, SyncUserManager, SessionManager, SyncSessionManager, User, Session' ||
    fail "the client cannot be imported without the extra"
if venv/bin/userservice serve >out 2>&1; then fail "the server started without the extra"; fi
grep -q "pip install 'userservice\[server\]'" out || fail "serve without the extra prints: $(cat out)"
[ "$(wc -l <out)" = 1 ] || fail "serve without the extra prints more than one line: $(cat out)"
if venv/bin/userservice users list >out 2>&1; then fail "a command of the extra cli started without it"; fi
grep -q "pip install 'userservice\[cli\]'" out || fail "users list without the extra prints: $(cat out)"
code=0
venv/bin/userservice health --address 127.0.0.1:1 >out 2>&1 || code=$?
[ "$code" = 5 ] || fail "health without the extra ends with $code: $(cat out)"
echo "check-wheel: $(basename "$wheel") contains $holds"
