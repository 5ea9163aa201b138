#!/bin/sh
# Runs the tests of the TypeScript client, or prints that Node is missing.
set -eu
cd "$(dirname "$0")/../client/typescript"
if ! command -v npm >/dev/null; then
    echo "test: Node.js 20 or newer is missing; the tests of the TypeScript client are skipped"
    [ -z "${CI:-}" ] || exit 1
    exit 0
fi
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --loglevel=error
exec npm "$@"
