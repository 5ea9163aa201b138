#!/bin/sh
# Pins the dependencies of development, CI and `make run` with hashes: the newest versions that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."
compile="uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-package userservice --constraint requirements/constraints.txt"
$compile --custom-compile-command "make lock" pyproject.toml --extra server --output-file requirements/server.txt
$compile --custom-compile-command "make lock" pyproject.toml --extra server --extra cli --extra otel --extra parquet --group dev --output-file requirements/dev.txt
$compile --custom-compile-command "make lock" pyproject.toml --extra server --extra cli --extra otel --extra parquet --group dev --group bench --output-file requirements/bench.txt
$compile --custom-compile-command "make lock" pyproject.toml --group servers --output-file requirements/servers.txt
$compile --custom-compile-command "make lock" --group deploy --output-file requirements/deploy.txt
$compile --custom-compile-command "make lock" --group codegen --output-file requirements/codegen.txt
