#!/bin/sh
# Fails if src/gen differs from the code that the protos generate.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/generate.sh "$fresh/gen"
diff -r "$fresh/gen" src/gen || {
  echo "src/gen is outdated; run: npm run generate" >&2
  exit 1
}
