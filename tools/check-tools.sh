#!/bin/sh
# Says which programs the tests can use and do not find. Only a hint: the tests decide what their absence means.
has() {
    command -v "$1" >/dev/null || [ -x "$(go env GOPATH 2>/dev/null)/bin/$1" ]
}
has redis-server || echo "test: no redis-server, so nothing is tested on Redis (Debian: apt-get install redis-server)"
has grpcurl || echo "test: no grpcurl, so its tests are skipped (go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4)"
has h2load || echo "test: no h2load, so nothing is tested under its load (Debian: apt-get install nghttp2-client)"
has openssl || echo "test: no openssl, so nothing is tested over TLS (Debian: apt-get install openssl)"
exit 0
