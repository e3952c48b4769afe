#!/bin/bash
# A run under a placement: the same routes and losses as without, the same bits at any number of ranks, checkpoints
# that go from one placement to another, bad files.
. "$(dirname "$0")/common.sh"
command -v python3 >/dev/null || {
    echo "skipped: python3 is needed to compare numbers"
    exit 77
}
make_input
cat >placed.json <<'JSON'
{"format": "gleaner placement", "version": 1, "experts": 8, "domains": 4,
 "layers": {"0": [3, 1, 0, 2, 0, 3, 2, 1], "1": [1, 0, 3, 3, 2, 1, 0, 2]}}
JSON
sed 's/"domains": 4/"domains": 2/; s/"layers".*/"layers": {"1": [1, 0, 1, 0, 0, 1, 0, 1]}}/' placed.json >two.json

# train DIR P [--set ...]: 12 steps, IR off, into DIR; DIR.lines is what no placement of ranks may change
train() {
    local dir=$1 ranks=$2
    shift 2
    must_run "$ranks" train run.yaml --set train.steps=12 --set "run.dir=$dir" --set router.rectify=false "$@"
    [ -d "$dir" ] || return
    same_lines "$dir/metrics.jsonl" >"$dir.lines"
    must_run 0 ckpt digest "$dir"
    mv out "$dir.digest"
}
# sent_rows counts (token, destination domain) pairs: the one figure of a ledger that a placement may change
without_sent() {
    sed -E 's/,?"sent_rows":[0-9]+//g' "$1"
}
same() { # A B
    cmp -s "$1.lines" "$2.lines" && cmp -s "$1.digest" "$2.digest"
}
near() { # A B: losses and gradient norms within rounding
    python3 - "$1/metrics.jsonl" "$2/metrics.jsonl" <<'PY'
import json, sys
a, b = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert len(a) == len(b) == 12, (len(a), len(b))
for x, y in zip(a, b):
    for key, limit in (("loss", 1e-5), ("grad_norm", 1e-3)):
        assert abs(x[key] - y[key]) <= limit * abs(x[key]), (x["step"], key, x[key], y[key])
PY
}

echo "# the same routes, the same loss"
# With at most two routes a token no sum has another order: everything is the same bit for bit.
for k in 1 2; do
    options="--set router.k=$k --set router.fill=false --set router.capacity_factor=1"
    train plain-$k 2 $options --record-routing 1,12
    train placed-$k 2 $options --record-routing 1,12 --set parallel.placement=placed.json
    cmp -s plain-$k/routing.safetensors placed-$k/routing.safetensors || fail "k = $k: other logits, other routes"
    diff -q <(without_sent plain-$k.lines) <(without_sent placed-$k.lines) >/dev/null || fail "k = $k: other losses or ledgers"
    cmp -s plain-$k.digest placed-$k.digest || fail "k = $k: other weights"
done
grep -o '"sent_rows":[0-9]*' plain-2.lines >plain.sent
grep -o '"sent_rows":[0-9]*' placed-2.lines | cmp -s plain.sent - && fail "the placement moved no expert"
# More routes: sums over the experts of a domain change their order.
options="--set router.k=4 --set router.capacity_factor=1.25"
train plain-4 2 $options --record-routing 1
train placed-4 2 $options --record-routing 1 --set parallel.placement=placed.json
near plain-4 placed-4 || fail "k = 4: losses differ by more than rounding"
python3 - <<'PY' || fail "k = 4: the first step's routes differ"
import json, struct
def tensors(path):
    data = open(path, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    return {k: data[8 + size + v["data_offsets"][0]:8 + size + v["data_offsets"][1]] for k, v in header.items()
            if k.endswith("logits")}
def choices(raw):
    x = struct.unpack("<%df" % (len(raw) // 4), raw)
    return [sorted(range(8), key=lambda e: -x[i + e])[:4] for i in range(0, len(x), 8)]
a, b = tensors("plain-4/routing.safetensors"), tensors("placed-4/routing.safetensors")
assert a["step-1.layer-0.logits"] == b["step-1.layer-0.logits"]
assert a.keys() == b.keys() and all(choices(a[k]) == choices(b[k]) for k in a)
PY
diff <(head -n 1 plain-4.lines | grep -o '"ledger":{[^}]*}' | without_sent /dev/stdin) \
    <(head -n 1 placed-4.lines | grep -o '"ledger":{[^}]*}' | without_sent /dev/stdin) >/dev/null ||
    fail "k = 4: the first step's ledgers differ"

echo "# any number of ranks, IR on too"
for name in on replicas; do
    options="--set router.k=2 --set router.rectify=true --set router.capacity_factor=0.75"
    file=placed.json
    [ $name = on ] || {
        options="$options --set parallel.expert_replicas=2 --set router.ir_scope=2"
        file=two.json
    }
    for ranks in 1 2 4; do
        train $name-$ranks $ranks $options --set parallel.placement=$file
        same $name-1 $name-$ranks || fail "$name: other bits on $ranks ranks than on one"
    done
done
grep -q '"rectified":[1-9]' on-1.lines || fail "the runs never rectified: they prove too little"

echo "# checkpoints"
options="--set router.k=2 --set router.fill=false --set router.capacity_factor=1"
for name in zero-plain zero-placed; do
    [ $name = zero-plain ] && file= || file=placed.json
    must_run 2 train run.yaml --set train.steps=0 --set run.dir=$name --set parallel.placement=$file
    must_run 0 ckpt digest $name
    sed 's/ .*//' out >$name.digest
    [ -s $name.digest ] || fail "$name: no digest"
done
cmp -s zero-plain.digest zero-placed.digest || fail "other initial weights under a placement"
# half without, half with, and back again: what the straight runs give
train_to() { # STEPS DIR FILE
    must_run 2 train run.yaml --set train.steps="$1" --set "run.dir=$2" --set router.rectify=false $options \
        --set parallel.placement="$3" --json
}
train_to 4 mixed ""
train_to 8 mixed placed.json
grep -q '"event":"start".*parallel.placement' out || fail "the change was not reported"
grep -q '"first_step":4' out || fail "the run did not go on from step 4"
train_to 12 mixed ""
must_run 0 ckpt digest mixed
sed "s/mixed/placed-2/" out | cmp -s - placed-2.digest || fail "placements changed on the way: other weights"
must_run 1 eval placed-2 --json
cp out evaluated
must_run 4 eval placed-2 --json --set parallel.placement=
diff <(grep -o '"loss":[0-9.e-]*' evaluated) <(grep -o '"loss":[0-9.e-]*' out) >/dev/null || fail "eval: other loss without the placement"
must_run 0 generate placed-2 --prompt gree --count 4

echo "# place takes the run's placement as the one before"
must_run 0 place placed-2/routing.safetensors --nodes 2 --config placed-2/config.yaml --json --set parallel.placement=
cp out from_default
must_run 0 place placed-2/routing.safetensors --nodes 2 --config placed-2/config.yaml --json
python3 - <<'PY' || fail "place: the run's placement was not looked at"
import json
a, b = ([json.loads(line) for line in open(path)] for path in ("from_default", "out"))
assert len(a) == len(b) == 6, (len(a), len(b))
assert any(x["before"] != y["before"] for x, y in zip(a, b))
PY

echo "# bad files"
refuse() { # WHAT PATTERN
    run 2 train run.yaml --set run.dir=bad --set parallel.placement=bad.json
    [ "$status" -eq 2 ] || fail "$1: exit status $status, expected 2"
    [ "$(grep -c 'gleaner: error:' err)" -eq 1 ] || fail "$1: expected one message"
    grep 'gleaner: error:' err | grep -qF -- "$2" || fail "$1: no \"$2\" in $(cat err)"
    [ ! -e bad ] || fail "$1: a run folder was made"
}
refuse "missing" 'bad.json'
cp two.json bad.json && refuse "other domains" '"domains": 4'
sed 's/\[3, 1/[3, 3/' placed.json >bad.json && refuse "full domain" 'domain 3 hosts more than 2'
sed 's/"1": \[/"2": [/' placed.json >bad.json && refuse "other layers" 'layers from 0 to 1'
finish
