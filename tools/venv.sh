#!/bin/sh
# Creates the virtual environment $1 if it does not exist, and installs the pinned requirements of the following files.
set -eu
cd "$(dirname "$0")/.."
venv=$1
shift
if [ ! -x "$venv/bin/python" ]; then
    python=$(tools/find-python.sh)
    "$python" -m venv --clear "$venv"
fi
for requirements; do
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --requirement "$requirements"
done
