#!/bin/sh
# Prints which optional programs of the tests are missing. Always succeeds: each test decides whether it is skipped.
has() {
    command -v "$1" >/dev/null || [ -x "$(go env GOPATH 2>/dev/null)/bin/$1" ]
}
has redis-server || echo "test: redis-server is missing; the tests on Redis are skipped (Debian: apt-get install redis-server)"
has grpcurl || echo "test: grpcurl is missing; its tests are skipped (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4)"
has h2load || echo "test: h2load is missing; the tests under load are skipped (Debian: apt-get install nghttp2-client)"
has openssl || echo "test: openssl is missing; the tests of TLS in the TypeScript client are skipped (Debian: apt-get install openssl)"
has gcc || has cc || echo "test: a C compiler is missing; the tests of power cuts and of clocks are skipped (Debian: apt-get install gcc libc6-dev)"
has promtool || echo "test: promtool is missing; the long tests of the alert rules are skipped (Debian: apt-get install prometheus)"
has systemd-analyze || echo "test: systemd-analyze is missing; the long tests of the systemd unit are skipped (Debian: apt-get install systemd)"
has kustomize || echo "test: kustomize is missing; the long tests of deploy/kubernetes are skipped (go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1)"
exit 0
