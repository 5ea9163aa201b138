#!/bin/sh
# Prints the newest Python here, on PATH or of pyenv, that the pinned wheels are for.
set -eu
for minor in 14 13 12 11; do
    for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python3; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            command -v "$python"
            exit 0
        fi
    done
done
echo "newest-python: no Python 3.11 to 3.14 with its venv module" >&2
exit 1
