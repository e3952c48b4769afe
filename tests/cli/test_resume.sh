#!/bin/bash
# 20 steps at once, and 10 + resume + 10, also on other ranks and after a signal: same bytes.
. "$(dirname "$0")/common.sh"
make_input

same_checkpoint() { # WHAT A B
    diff -r "$2" "$3" >/dev/null || fail "$1: $2 and $3 differ"
    must_run 0 ckpt digest "$2"
    local first
    first=$(cat out)
    must_run 0 ckpt digest "$3"
    [ "$first" = "$(cat out)" ] || fail "$1: digests differ"
    [ ${#first} -eq 32 ] || fail "$1: no digest of 32 digits: $first"
}

must_run 2 train run.yaml --set train.steps=20 --set run.dir=once
for ranks in 2 4 1; do
    dir=parts-$ranks
    must_run 2 train run.yaml --set train.steps=10 --set run.dir=$dir
    must_run $ranks train run.yaml --set train.steps=20 --set run.dir=$dir
    grep -q 'going on from step 10' out || fail "$dir: does not say that it goes on"
    same_checkpoint "10 + 10 on $ranks ranks" once/checkpoints/step-00000020 $dir/checkpoints/step-00000020
    # the first run's last line carries a validation that the run at once did not make
    same_lines once/metrics.jsonl >once.lines
    same_lines $dir/metrics.jsonl | sed -E '10s/,"valid":.*/}/; 10s/,\}/}/' >parts.lines
    sed -E '10s/,\}/}/' once.lines | cmp -s - parts.lines || fail "$dir: other lines of metrics"
done

# in bf16, which keeps its master weights in f32; f32 goes on from it, and it generates
bf16="--set parallel.dtype=bf16"
must_run 2 train run.yaml --set train.steps=20 --set run.dir=once16 $bf16
must_run 2 train run.yaml --set train.steps=10 --set run.dir=parts16 $bf16
cp -r parts16 parts32
must_run 4 train run.yaml --set train.steps=20 --set run.dir=parts16 $bf16
same_checkpoint "10 + 10 in bf16" once16/checkpoints/step-00000020 parts16/checkpoints/step-00000020
must_run 0 eval parts16
must_run 0 generate parts16 --count 20
must_run 2 train run.yaml --set train.steps=20 --set run.dir=parts32
grep -q 'going on from step 10' out || fail "parts32: f32 does not go on from bf16"
grep -q 'parallel.dtype' out || fail "parts32: does not say that the type changed"

# a run that went on past its checkpoint: the lines past it are cut off
must_run 2 train run.yaml --set train.steps=15 --set run.dir=cut --set train.checkpoint_every=10
rm -r cut/checkpoints/step-00000015
echo '{"step":16,"half a li' >>cut/metrics.jsonl
must_run 2 train run.yaml --set train.steps=20 --set run.dir=cut
[ "$(grep -o '^{"step":[0-9]*' cut/metrics.jsonl | tr -dc '0-9\n' | tr '\n' ' ')" = "$(seq -s ' ' 1 20) " ] ||
    fail "cut: metrics.jsonl does not hold the steps 1 to 20 once each"
same_checkpoint "after a cut" once/checkpoints/step-00000020 cut/checkpoints/step-00000020

# run once more: done already, nothing changes
must_run 2 train run.yaml --set train.steps=20 --set run.dir=cut
same_checkpoint "done already" once/checkpoints/step-00000020 cut/checkpoints/step-00000020

# a signal: the step is finished, a checkpoint saved, the status 75
timeout -k 10 120 "$gleaner" train run.yaml --set parallel.domains=4 --set train.steps=1000000 \
    --set run.dir=signal >out 2>err </dev/null &
job=$!
for _ in $(seq 1 300); do
    [ -s signal/metrics.jsonl ] && break
    sleep 0.1
done
pkill -TERM -P $job -x "$(basename "$gleaner")"
wait $job
status=$?
[ $status -eq 75 ] || fail "after SIGTERM: exit status $status"
grep -q 'stopped by a signal' out || fail "after SIGTERM: does not say so"
last=$(ls signal/checkpoints | tail -n 1)
[ -n "$last" ] || fail "after SIGTERM: no checkpoint"
must_run 0 ckpt digest signal

# a name that a reader must never take for a finished checkpoint
cp -r once partial
cp -r once/checkpoints/step-00000020 partial/checkpoints/step-00000099.partial
must_run 0 ckpt info partial
grep -q 'step-00000020' out || fail "an unfinished checkpoint was taken"
finish
