#!/bin/sh
# Compares the protos with every earlier version of them in this branch's history, so that a break cannot slip in over two
# commits. The first version that counts is the one that added `go_package`: nothing was released before it.
set -eu
cd "$(dirname "$0")/.."
buf=${BUF:-.venv/bin/buf}
if [ -z "$(git rev-parse --quiet --verify HEAD 2>/dev/null)" ]; then
    echo "breaking: no history to compare with"
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
        echo "breaking: callers of $(git log -1 --format='%h (%s)' "$commit") would break" >&2
        exit 1
    fi
    compared=$((compared + 1))
done
echo "breaking: no caller of the $compared earlier versions of the protos would break"
