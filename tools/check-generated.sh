#!/bin/sh
# Fails unless the committed stubs are what the protos generate.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate.sh "$fresh"
if ! diff --recursive --brief --exclude=__pycache__ "$fresh/userservice/v1" client/python/userservice/v1; then
    echo "check-generated: the stubs are not what the protos generate; run make generate" >&2
    exit 1
fi
echo "check-generated: the stubs are fresh"
