#!/bin/sh
# Sets the version of the Python distribution, of the TypeScript package and of the image, which are released together.
set -eu
cd "$(dirname "$0")/.."
version=$1
if ! expr "$version" : '[0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*$' >/dev/null; then
    echo "version: must be MAJOR.MINOR.PATCH, as in make version VERSION=1.2.3" >&2
    exit 2
fi
sed -i "s/^version = \".*\"/version = \"$version\"/" pyproject.toml
sed -i "s/userservice:[0-9][0-9]*\.[0-9][0-9]*\.[0-9][0-9]*/userservice:$version/" deploy/Dockerfile deploy/compose.yaml
sed -i "s/newTag: .*/newTag: $version/" deploy/kubernetes/components/pod/kustomization.yaml
cd client/typescript
npm version --no-git-tag-version --allow-same-version "$version" >/dev/null
