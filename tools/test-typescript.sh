#!/bin/sh
# Runs the tests of the TypeScript client where Node is there, and says so where it is not.
set -eu
cd "$(dirname "$0")/../client/typescript"
if ! command -v npm >/dev/null; then
    echo "test: no Node.js, so the TypeScript client is left out (Node 20 or newer)"
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --loglevel=error
exec npm "$@"
