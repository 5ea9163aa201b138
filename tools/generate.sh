#!/bin/sh
# Generates files from the protos: the Python stubs with their types, the exception classes of both clients, and the table
# of errors in README. Generates the blocking managers from the asyncio managers, the reference in docs/api from the
# docstrings and protos, docs/metrics.md from the definitions of the metrics, the Grafana dashboard, and a copy of the alert
# rules for the Prometheus operator. Writes all of them to the repository, or to the same paths below the folder in the first
# argument.
set -eu
cd "$(dirname "$0")/.."
root=${1:-.}
out=$root/client/python
python=${PYTHON:-.venv-codegen/bin/python}
bin=$(dirname "$python")
plugins="--plugin=protoc-gen-mypy=$bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc"
mkdir -p "$out/userservice/v1"
rm -f "$out"/userservice/v1/*_pb2*.py*
"$python" -m grpc_tools.protoc $plugins -Iprotos --python_out="$out" --mypy_out=quiet:"$out" protos/userservice/v1/*.proto
"$python" -m grpc_tools.protoc $plugins -Iprotos --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/userservice/v1/*_service.proto
"$python" tools/generate_errors.py "$root"
"$python" tools/generate_sync.py "$root"
"$python" tools/generate_python_reference.py "$root"
"$python" tools/generate_proto_reference.py "$root"
"$python" tools/generate_metrics.py "$root"
"$python" tools/generate_dashboard.py "$root"
