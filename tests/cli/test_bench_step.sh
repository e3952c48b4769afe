#!/bin/bash
# gleaner bench step: parts that add up to the whole, operations by formula, documented keys, ranks.
. "$(dirname "$0")/common.sh"
small="--set model.hidden=16 --set model.layers=2 --set model.heads=2 --set model.kv_heads=1
    --set model.experts=4 --set model.expert_hidden=24 --set model.sequence=32
    --set model.vocabulary=40 --set train.batch=4 --set parallel.domains=2 --repeat 2 --gemm 32"

must_run 0 bench step $small
grep -q 'one training step in f32: 2 blocks, H 16, F 24, E 4, K 2, S 32, V 40, D 2; 128 tokens' out ||
    fail "bench step does not say what it ran"
for part in embedding norms "attention projections" "attention core" rope "gate and router" "expert products" \
    activation head loss "gradients zeroed" "gradient norm" adamw unaccounted "whole step"; do
    grep -qE "^$part +[0-9]" out || fail "bench step: no line for $part"
done

# Parts and the rest are the whole; operations are those of the formula, forward and backward.
cat >check.py <<'PYTHON'
import json, sys
r = json.loads(open("out").read().splitlines()[-1])
whole, parts = r["mean_seconds"], r["parts"]
s = sum(p["seconds"] for p in parts.values())
assert abs(s - whole) < 1e-6 * whole, ("sum", s, whole)
assert parts["unaccounted"]["share"] < 0.5, "a part has no lap"
t, h, f, rows = 128, 16, 24, r["rows"]
wanted = {
    "attention_projections": 2 * t * (2 * h * (2 + 2) * 8 + 2 * 16 * h),
    "attention_core": 2 * t * 2 * 2 * 8 * 33,
    "gate_and_router": 2 * 2 * t * h * 4,
    "expert_products": 6 * rows * h * f,
    "head": 2 * t * h * 40,
}
for name, p in parts.items():
    assert p["flops"] == 3 * wanted.get(name, 0), (name, p["flops"], 3 * wanted.get(name, 0))
assert r["flops"] == 3 * sum(wanted.values()), r["flops"]
assert r["tokens"] == t and r["repeat"] == 2
rate = r["flops"] / r["median_seconds"]
assert abs(r["ratio"] - rate / (1e9 * r["plain_gflops_per_second"])) < 1e-9
PYTHON
for dtype in f32 bf16; do
    must_run 0 bench step $small --set parallel.dtype=$dtype --json
    python3 check.py || fail "bench step --json in $dtype does not add up"
    grep -q "\"dtype\":\"$dtype\"" out || fail "bench step --json does not say $dtype"
done
for key in $(grep -oE '"[a-z0-9_]+":' out | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done
must_run 2 bench step $small --json
python3 check.py || fail "bench step --json on two ranks does not add up"

# a dense layer and a shared expert have products of their own; a run file is taken as it is
must_run 0 bench step $small --set model.moe_every=2 --set model.shared_hidden=8
grep -qE '^dense products +[0-9]' out || fail "bench step: no line for dense products"
run 0 bench step $small --set train.batch=3
[ "$status" -eq 2 ] || fail "a batch that the domains do not divide was taken"
grep -q 'train.batch' err || fail "the message does not name train.batch"
finish
