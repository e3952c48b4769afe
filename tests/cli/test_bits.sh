#!/bin/bash
# Same bits at any number of ranks and threads: losses, ledgers and checkpoint after 20 steps, FR and IR on.
. "$(dirname "$0")/common.sh"
make_input

# compare NAME P T [--set ...]: train and hold it against the first run of that name.
compare() {
    local name=$1 ranks=$2 threads=$3
    shift 3
    local dir=$name-$ranks-$threads
    must_run "$ranks" train run.yaml --set train.steps=20 --set "run.dir=$dir" \
        --set "parallel.threads=$threads" "$@"
    [ -d "$dir" ] || return
    same_lines "$dir/metrics.jsonl" >"$dir.lines"
    must_run 0 ckpt digest "$dir"
    mv out "$dir.digest"
    [ "$(wc -l <"$dir.lines")" -eq 20 ] || fail "$dir: expected 20 lines of metrics"
    grep -q '"valid":{"loss"' "$dir.lines" || fail "$dir: no validation in the last line"
    if [ ! -e "$name.lines" ]; then
        cp "$dir.lines" "$name.lines"
        cp "$dir.digest" "$name.digest"
        return
    fi
    cmp -s "$name.lines" "$dir.lines" || {
        fail "$dir: other losses or ledgers than the first run"
        diff "$name.lines" "$dir.lines" | head -n 4 | cut -c1-300
    }
    cmp -s "$name.digest" "$dir.digest" || fail "$dir: other checkpoint than the first run"
}

for threads in 1 2; do
    for ranks in 1 2 4; do
        compare top1 $ranks $threads
    done
done
for ranks in 1 2 4; do
    compare replicas $ranks 1 --set parallel.expert_replicas=2 # two replica groups
    compare top2 $ranks 1 --set router.k=2 --set router.capacity_factor=0.75 --set train.accumulation=2
    compare bf16wire $ranks 1 --set parallel.wire=bf16 --set router.k=2
    compare bf16 $ranks $((ranks % 2 + 1)) --set parallel.dtype=bf16 --set router.k=2
    compare noslots $ranks 1 --set router.capacity_factor=0 # every token is rectified, none is sent
done
grep -q '"rectified":[1-9]' top1.lines || fail "the runs never rectified: they prove too little"
grep -q '"filled":[1-9]' top1.lines || fail "the runs never filled: they prove too little"
cmp -s bf16.digest bf16wire.digest && fail "bf16 rows and bf16 compute gave the same checkpoint"
cmp -s top1.digest top2.digest && fail "different models have the same digest"
finish
