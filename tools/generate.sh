#!/bin/sh
# Generates the Python stubs, with types, into the folder given (client/python by default).
set -eu
cd "$(dirname "$0")/.."
out=${1:-client/python}
python=${PYTHON:-.venv-codegen/bin/python}
bin=$(dirname "$python")
plugins="--plugin=protoc-gen-mypy=$bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc"
mkdir -p "$out/userservice/v1"
rm -f "$out"/userservice/v1/*_pb2*.py*
"$python" -m grpc_tools.protoc $plugins -Iprotos --python_out="$out" --mypy_out=quiet:"$out" protos/userservice/v1/*.proto
"$python" -m grpc_tools.protoc $plugins -Iprotos --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/userservice/v1/*_service.proto
