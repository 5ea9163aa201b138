#!/bin/sh
# Generates the Go code from the protos with plain protoc. PROTOC names the compiler: "protoc", or
# "python -m grpc_tools.protoc" where only grpcio-tools is installed.
set -eu
cd "$(dirname "$0")"
GOBIN=$PWD/bin
export GOBIN
go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0
PATH=$GOBIN:$PATH ${PROTOC:-protoc} -I ../../protos --go_out=. --go-grpc_out=. ../../protos/userservice/v1/*.proto
