#!/bin/bash
# From a fresh Debian 12 machine to a trained model: installs what is missing, builds, prepares a text, trains.
# Safe to run again: what is there is used, and a finished run is kept.
#
# usage: bash launcher/quickstart.sh [--steps N]
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "gleaner: error: $1" >&2
    exit "${2:-1}"
}

steps=()
while [ $# -gt 0 ]; do
    case $1 in
    --steps)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || fail "--steps needs a number from 1 on, found \"${2:-}\"" 2
        steps=(--set "train.steps=$2" --set "train.decay_steps=$2")
        shift 2
        ;;
    -h | --help)
        echo "usage: bash launcher/quickstart.sh [--steps N]"
        exit 0
        ;;
    *) fail "unknown option $1; usage: bash launcher/quickstart.sh [--steps N]" 2 ;;
    esac
done

bash launcher/install.sh build run text
PATH=$PATH:/usr/games # where Debian puts the bible command

echo "building (build/)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
build() {
    cmake --preset default -DGLN_TESTS=OFF >"$log" 2>&1 && cmake --build --preset default >"$log" 2>&1
}
build || {
    tail -n 40 "$log" >&2
    fail "the build failed (see above)"
}

bash launcher/text.sh data/quickstart

# A run that is finished is kept; this one gets a number.
dir=runs/quickstart
number=1
while [ -e "$dir/report.txt" ]; do
    number=$((number + 1))
    dir=runs/quickstart-$number
done
[ "$number" -eq 1 ] || echo "runs/quickstart is finished; this run goes to $dir"

. launcher/mpi_env.sh
exec mpirun -n 2 build/gleaner train examples/quickstart.yaml --set "run.dir=$dir" ${steps[@]+"${steps[@]}"}
