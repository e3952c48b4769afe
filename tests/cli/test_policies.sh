#!/bin/bash
# Every policy by one line of the run file: the same losses, ledgers, checkpoint and recorded routing at any number
# of ranks; schedules, balance over all domains and the selection bias likewise, through a resume on other ranks.
. "$(dirname "$0")/common.sh"
make_input
sed -i '/fill: true/d; /rectify: true/d; /  k: 1/d; s/^router:/router: {policy: POLICY, rectify_from: 2}/' run.yaml

# compare NAME P POLICY [--set ...]: train and hold it against the first run of that name.
compare() {
    local name=$1 ranks=$2 policy=$3 dir=$1-$2
    shift 3
    sed "s/POLICY/$policy/" run.yaml >"$name.yaml"
    must_run "$ranks" train "$name.yaml" --set train.steps=6 --set "run.dir=$dir" --record-routing 1,5 "$@"
    [ -d "$dir" ] || return
    same_lines "$dir/metrics.jsonl" >"$dir.lines"
    must_run 0 ckpt digest "$dir"
    mv out "$dir.digest"
    if [ ! -e "$name.first" ]; then
        echo "$dir" >"$name.first"
        return
    fi
    local first
    first=$(cat "$name.first")
    cmp -s "$first.lines" "$dir.lines" || fail "$dir: other losses or ledgers than $first"
    cmp -s "$first.digest" "$dir.digest" || fail "$dir: other checkpoint than $first"
    cmp -s "$first/routing.safetensors" "$dir/routing.safetensors" || fail "$dir: other recording than $first"
}

for policy in topk switch gshard mixtral expert_choice sinkhorn deepseek_v3 expanded_drop random; do
    set -- --set train.accumulation=2
    [ $policy = deepseek_v3 ] && set -- --set router.k=2 --set router.bias_rate=0.02 --set train.accumulation=2
    for ranks in 1 4; do
        compare $policy $ranks $policy "$@"
    done
done
for ranks in 1 2 4; do
    compare global $ranks topk --set router.balance=global --set parallel.expert_replicas=2
    compare schedule $ranks switch --set router.capacity_schedule=0:0.5,3:1.5 --set router.fill=true \
        --set router.fill_from=3 --set router.rectify=true --set eval.routing=train --set eval.every=2
done
[ "$(cat ./*-1.digest | sort -u | wc -l)" -eq 11 ] || fail "two different runs have the same checkpoint"
[ -e topk-1/routing.safetensors ] || fail "no recording"
must_run 0 ckpt info deepseek_v3-1
grep -q 'layers.1.moe.bias' out || fail "the checkpoint does not list the bias"

# half on one rank, the other half on four: the bias goes on from the checkpoint
set -- --set router.k=2 --set router.bias_rate=0.02 --set train.accumulation=2 --set run.dir=parts --record-routing
must_run 1 train deepseek_v3.yaml --set train.steps=3 "$@" 1
must_run 4 train deepseek_v3.yaml --set train.steps=6 "$@" 1,5
must_run 0 ckpt digest parts
cmp -s out deepseek_v3-1.digest || fail "3 + 3 steps end in another checkpoint than 6"
cmp -s parts/routing.safetensors deepseek_v3-1/routing.safetensors || fail "3 + 3 steps record otherwise than 6"
must_run 0 generate parts --count 5
finish
