# Sourced by the tests of the command: bash test_x.sh GLEANER SOURCE_DIR. Works in a folder of its own; a test ends
# with `finish`. Every run has a time limit, so that a hang is a failure.
gleaner=$(realpath "$1")
source_dir=$(realpath "$2")
. "$source_dir/launcher/mpi_env.sh"
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_hwloc_base_binding_policy=none
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

finish() {
    [ "$failures" -eq 0 ] || {
        echo "$failures checks failed"
        exit 1
    }
    echo ok
    exit 0
}

# run P ARGUMENTS...: gleaner on P ranks (0: without mpirun) into ./out and ./err; sets $status.
run() {
    local ranks=$1
    shift
    local start=()
    [ "$ranks" -eq 0 ] || start=(mpirun -n "$ranks")
    timeout -k 10 "${limit_s:-120}" "${start[@]}" "$gleaner" "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
}

# must_run P ARGUMENTS...: likewise, and it must do well.
must_run() {
    run "$@"
    [ "$status" -eq 0 ] || {
        fail "gleaner ${*:2} on $1 ranks: exit status $status"
        tail -n 20 "$work/err"
    }
}

# A tiny model on a text made here. Keys can be overridden with --set.
make_text() { # LINES FILE
    seq 1 "$1" | sed 's/$/ green bottles hanging on the wall, and if one should accidentally fall/' >"$2"
}
make_run() { # FILE
    cat >"$1" <<'YAML'
model:
  hidden: 16
  layers: 2
  heads: 2
  kv_heads: 1
  experts: 8
  expert_hidden: 24
  sequence: 16
router:
  k: 1
  fill: true
  rectify: true
parallel:
  domains: 4
  threads: 1
train:
  steps: 4
  batch: 8
  lr: 1e-2
  warmup_steps: 2
  decay_steps: 20
  log_every: 1
data:
  train: train.txt
  valid: valid.txt
run:
  dir: run
YAML
}
make_input() {
    make_text 200 train.txt
    make_text 12 valid.txt
    make_run run.yaml
}

# Lines of metrics without what may differ from run to run: times and traffic.
same_lines() { # FILE
    sed -E 's/"[a-z_]*(seconds|per_second)":[^,}]*,?//g; s/"traffic":\{[^}]*\},?//g' "$1"
}
