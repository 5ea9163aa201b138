#!/bin/bash
# Builds the image of deploy/Dockerfile without Docker and without a registry, and runs it: Debian's debootstrap makes the
# base image, Debian's buildah builds. The service then runs as user 65532 in a chroot with a read-only root, with /data
# as its only writable folder and without capabilities. Needs root, and the packages buildah and debootstrap.
#
#     tools/build-image.sh FOLDER
#
# FOLDER gets 2 GB of files, which the next run uses again. Pip's configuration of this machine (/etc/pip.conf, PIP_CERT)
# also applies to the build.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${1:?usage: tools/build-image.sh FOLDER}"
mkdir -p "$1"
folder=$(realpath "$1")
suite=trixie
port=50951
buildah=(buildah --root "$folder/storage" --runroot "$folder/run" --storage-driver vfs)

mirror() { # the address of this machine's Debian packages, which also has the other suites
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -1
}

step() { printf '=== %s (%s s)\n' "$*" "$SECONDS"; }

if ! "${buildah[@]}" images --quiet localhost/debian-base 2>/dev/null | grep -q .; then
    step "base image: debootstrap $suite"
    rm -rf "$folder/base"
    debootstrap --variant=minbase "$suite" "$folder/base" "$(mirror)" >"$folder/debootstrap.log"
    rm -rf "$folder"/base/var/cache/apt/archives/*.deb "$folder"/base/var/lib/apt/lists/*
    container=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$container" "$folder/base" /
    "${buildah[@]}" commit --quiet --rm "$container" localhost/debian-base
fi

step "image"
volumes=()
if [[ -e /etc/pip.conf ]]; then
    cp /etc/pip.conf "$folder/pip.conf"
    if [[ -n ${PIP_CERT:-} ]]; then
        cp "$PIP_CERT" "$folder/pip-ca.crt"
        volumes+=(--volume "$folder/pip-ca.crt:/etc/pip-ca.crt:ro")
        sed -i 's#^cert *=.*#cert = /etc/pip-ca.crt#' "$folder/pip.conf"
    fi
    volumes+=(--volume "$folder/pip.conf:/etc/pip.conf:ro")
fi
# The format of Docker, because the format of OCI has no health check.
"${buildah[@]}" build --quiet --isolation chroot --pull-never --format docker --build-arg BASE=localhost/debian-base \
    "${volumes[@]}" --file deploy/Dockerfile --tag localhost/userservice . 2>"$folder/build.log"

step "what the image contains"
container=$("${buildah[@]}" from --pull-never localhost/userservice)
root=$("${buildah[@]}" mount "$container")
du -sh "$root" | cut -f1
id=$("${buildah[@]}" inspect --type image --format '{{.Docker.Config.User}}' localhost/userservice)
[[ $id == 65532:65532 ]]
for program in gcc cc g++ ld make pip pip3; do
    if compgen -G "$root/usr/bin/$program" >/dev/null || compgen -G "$root/opt/userservice/bin/$program" >/dev/null; then
        echo "build-image: the image contains $program" >&2
        exit 1
    fi
done

step "run"
rm -rf "$folder/data"
install --directory --owner 65532 --group 65532 --mode 0700 "$folder/data"
# In a mount namespace of its own, so that nothing stays mounted.
enter=(
    unshare --mount bash -euc '
        root=$1 data=$2; shift 2
        mount --bind "$root" "$root"
        mount --bind "$data" "$root/data"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=755 tmpfs "$root/dev"
        for device in null zero random urandom; do
            touch "$root/dev/$device"
            mount --bind "/dev/$device" "$root/dev/$device"
        done
        mkdir --mode 1777 "$root/dev/shm" # as in a container
        mount -o remount,ro,bind "$root"
        exec chroot "$root" setpriv --reuid 65532 --regid 65532 --clear-groups --inh-caps=-all --bounding-set=-all \
            --no-new-privs env -i PATH=/opt/userservice/bin:/usr/bin:/bin TMPDIR=/data PYTHONDONTWRITEBYTECODE=1 \
            USERSERVICE_DATA_DIR=/data/store USERSERVICE_LISTEN=127.0.0.1:'"$port"' "$@"
    ' enter "$root" "$folder/data"
)
"${enter[@]}" sh -c 'id; if touch /opt/userservice/x 2>/dev/null; then echo "build-image: the root is not read-only" >&2; exit 1; fi'
"${enter[@]}" userservice serve --workers 2 2>"$folder/service.log" &
service=$!
trap 'kill "$service" 2>/dev/null || true' EXIT
for _ in $(seq 60); do
    if "${enter[@]}" userservice health >/dev/null 2>&1; then break; fi
    sleep 0.5
done
"${enter[@]}" userservice health
"${enter[@]}" userservice health --service liveness
kill -TERM "$service"
wait "$service"
trap - EXIT
"${buildah[@]}" rm "$container" >/dev/null
step "the service started, was healthy and stopped with exit code 0"
