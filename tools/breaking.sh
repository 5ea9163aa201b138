#!/bin/sh
# Checks that the protos are compatible with every earlier version in the history of this branch, so that no breaking
# change is hidden by a later commit. Starts at the commit that added `go_package`, because nothing was released before.
set -eu
cd "$(dirname "$0")/.."
buf=${BUF:-.venv/bin/buf}
if [ -z "$(git rev-parse --quiet --verify HEAD 2>/dev/null)" ]; then
    echo "breaking: no earlier version of the protos to compare with"
    exit 0
fi
older=$(mktemp -d)
trap 'rm -rf "$older"' EXIT
compared=0
for commit in $(git log --first-parent --format=%H -- protos); do
    git rev-parse --quiet --verify "$commit:protos" >/dev/null || continue
    git grep --quiet '^option go_package' "$commit" -- protos || break
    rm -rf "$older/protos"
    git archive "$commit" protos | tar -x -C "$older"
    if ! "$buf" breaking protos --against "$older/protos"; then
        echo "breaking: the protos are incompatible with $(git log -1 --format='%h (%s)' "$commit")" >&2
        exit 1
    fi
    compared=$((compared + 1))
done
echo "breaking: the protos are compatible with $compared earlier versions"
