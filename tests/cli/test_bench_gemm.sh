#!/bin/bash
# gleaner bench gemm: every product in both types, --json with documented keys, bad shapes.
. "$(dirname "$0")/common.sh"

must_run 0 bench gemm --shapes 24:16:24:3:2,2:16:16:8:1 --repeat 1 --gemm 64
for product in up down "down dx" "up dx" "down dw" "up dw"; do
    [ "$(grep -c "^$product  *[0-9]" out)" -eq 4 ] || fail "$product: expected two layers in two types"
done
grep -q '48 rows, .* an expert; f32' out || fail "48 rows in f32: not in the output"
grep -q '2 rows, 0 to 1 an expert; bf16' out || fail "experts without rows in bf16: not in the output"

must_run 0 bench gemm --shapes 24:16:24:3:2 --repeat 1 --gemm 64 --threads 1 --json
[ "$(wc -l <out)" -eq 12 ] || fail "--json: expected six products in two types"
[ "$(grep -c '"dtype":"bf16"' out)" -eq 6 ] || fail "--json: expected six products in bf16"
# 2 T K H 2F = 2 * 48 * 16 * 48
grep '"product":"up dw"' out | grep -q '"flops":73728' || fail "--json: flops of up dw"
for key in $(grep -oE '"[a-z_]+":' out | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done

for shapes in 24:16:24:3 24:16:24:3:2:1 24:16:0:3:2 x 24:16:24:3:2, 24:16:24:3:-1; do
    run 0 bench gemm --shapes "$shapes"
    [ "$status" -ne 0 ] || fail "--shapes $shapes was taken"
    grep -qF -- "--shapes" err || fail "--shapes $shapes: the message does not name it"
done
finish
