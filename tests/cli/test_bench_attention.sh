#!/bin/bash
# gleaner bench attention: both passes in both types, --json with documented keys, bad sizes.
. "$(dirname "$0")/common.sh"

must_run 0 bench attention --shapes 2:70:4:2:16,1:5:3:1:8 --repeat 1 --gemm 64
for pass in forward backward; do
    [ "$(grep -cE " $pass +[0-9]" out)" -eq 4 ] || fail "$pass: expected two sizes in two types"
done

must_run 0 bench attention --shapes 2:70:4:2:16 --repeat 1 --gemm 64 --threads 1 --json
[ "$(wc -l <out)" -eq 4 ] || fail "--json: expected two passes in two types"
# 2 B S^2 heads dh = 2 * 2 * 4900 * 64, backward 2.5 times as many
grep '"pass":"forward"' out | grep -q '"flops":1254400' || fail "--json: flops of forward"
grep '"pass":"backward"' out | grep -q '"flops":3136000' || fail "--json: flops of backward"
for key in $(grep -oE '"[a-z_]+":' out | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done

for shapes in 2:70:4:2 2:70:4:2:16:1 2:70:4:3:16 0:70:4:2:16 x 2:70:4:2:16, 2:-1:4:2:16; do
    run 0 bench attention --shapes "$shapes"
    [ "$status" -ne 0 ] || fail "--shapes $shapes was taken"
    grep -qF -- "--shapes" err || fail "--shapes $shapes: the message does not name it"
done
finish
