#!/bin/sh
# Prints a supported Python (one with pinned wheels): $PYTHON if set, else the first one found.
set -eu
oldest=11 newest=14
for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$python" -c "import sys, ensurepip, venv; sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
        command -v "$python"
        exit 0
    fi
done
found=$("${PYTHON:-python3}" --version 2>/dev/null) || found="missing"
echo "userservice needs Python 3.$oldest to 3.$newest with its venv module (Debian: python3-venv), but ${PYTHON:-python3} is $found; select another one with make PYTHON=/path/to/python3" >&2
exit 1
