#!/bin/sh
# Prints the newest supported Python (one with pinned wheels) on PATH or in pyenv.
set -eu
for minor in 14 13 12 11; do
    for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python3; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$python"
            exit 0
        fi
    done
done
echo "newest-python: found no Python 3.11 to 3.14 with its venv module" >&2
exit 1
