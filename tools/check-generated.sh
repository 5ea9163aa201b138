#!/bin/sh
# Checks that the committed generated files match their sources.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate.sh "$fresh"
for path in client/python/userservice/v1 client/python/userservice/_sync client/python/userservice/_error_classes.py \
    client/typescript/src/error_classes.ts README.md docs/api/python.md docs/api/grpc.md docs/metrics.md \
    deploy/grafana/dashboards/userservice.json deploy/kubernetes/components/monitoring/prometheus-rule.yaml; do
    if ! diff --recursive --brief --exclude=__pycache__ "$fresh/$path" "$path"; then
        echo "check-generated: $path is out of date; run make generate" >&2
        exit 1
    fi
done
echo "check-generated: the generated files are up to date"
