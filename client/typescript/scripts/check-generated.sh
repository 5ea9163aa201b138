#!/bin/sh
# Fails if src/gen is not what the protos generate.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/generate.sh "$fresh/gen"
diff -r "$fresh/gen" src/gen || {
  echo "src/gen is not what the protos generate; run: npm run generate" >&2
  exit 1
}
