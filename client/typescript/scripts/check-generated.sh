#!/bin/sh
# Fails if src/gen or docs/api/typescript.md differs from what the protos and the comments in src/ generate.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/generate.sh "$fresh/gen"
diff -r "$fresh/gen" src/gen || {
  echo "src/gen is outdated; run: npm run generate" >&2
  exit 1
}
scripts/reference.sh "$fresh/typescript.md"
diff -q "$fresh/typescript.md" ../../docs/api/typescript.md || {
  echo "docs/api/typescript.md is not what the comments generate; run: npm run reference" >&2
  exit 1
}
