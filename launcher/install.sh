#!/bin/bash
# Installs the Debian packages that gleaner needs and that are missing. Called by launcher/quickstart.sh and
# tests/run.sh with the words build, run, text, virtual, slurm, test: which groups of packages are wanted.
#
# Does nothing, and needs no root and no network, when all is there. Otherwise it uses apt-get, through sudo if this is
# not root, and where it cannot install it names the packages and leaves with status 1.
set -u

group() {
    case $1 in
    build) echo build-essential cmake ninja-build pkg-config libopenmpi-dev libhwloc-dev libdnnl-dev ocl-icd-opencl-dev \
        libyaml-dev libjansson-dev libxxhash-dev zlib1g-dev ;;
    run) echo openmpi-bin ;;
    text) echo bible-kjv bible-kjv-text ;;
    virtual) echo iproute2 openmpi-bin ;;
    slurm) echo slurm-wlm munge iproute2 ;;
    test) echo libcriterion-dev doxygen groff-base ;;
    *)
        echo "install.sh: unknown group $1; known: build, run, text, virtual, slurm, test" >&2
        exit 2
        ;;
    esac
}

fail() {
    echo "gleaner: error: cannot install: $1" >&2
    echo "gleaner: error: these packages (names of Debian 12) are missing; install them and start again:" >&2
    echo "    ${missing[*]}" >&2
    exit 1
}

is_installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

missing=()
for word in "$@"; do
    packages=$(group "$word") || exit
    for package in $packages; do
        is_installed "$package" || missing+=("$package")
    done
done
[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null || fail "this machine has no apt-get"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "this is not root, and sudo is not here"
    as_root=(sudo)
fi
echo "installing: ${missing[*]}"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >"$log" 2>&1 && return
    tail -n 20 "$log" >&2
    return 1
}
apt update || fail "apt-get update failed (see above)"
apt install --yes --no-install-recommends "${missing[@]}" || fail "apt-get install failed (see above)"
for package in "${missing[@]}"; do
    is_installed "$package" || fail "apt-get said nothing, but $package is not installed"
done
