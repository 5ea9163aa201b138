#!/bin/sh
# Generates the code in src/gen, or in the folder that is given as argument, from protos/ and from google.rpc's protos in
# the Python package googleapis-common-protos.
set -eu
cd "$(dirname "$0")/.."
out=${1:-src/gen}
python=${USERSERVICE_PYTHON:-../../.venv/bin/python}
protos=$(mktemp -d)
trap 'rm -rf "$protos"' EXIT
rpc=$("$python" -c 'from google.rpc import status_pb2; print(status_pb2.__file__.rpartition("/")[0])')
mkdir -p "$protos/google/rpc"
cp "$rpc/error_details.proto" "$protos/google/rpc"
rm -rf "$out"
for input in ../../protos "$protos"; do
    node_modules/.bin/buf generate "$input" --template buf.gen.yaml --output "$out"
done
