#!/bin/bash
# gleaner bench optimizer: every operation in its types, bytes by formula, --json with documented keys, bad sizes.
. "$(dirname "$0")/common.sh"

small="--tokens 64 --hidden 128 --repeat 1"
must_run 0 bench optimizer $small
for operation in add rmsnorm "rmsnorm backward" rope swiglu "swiglu backward" gather combine cross-entropy adamw; do
    for dtype in f32 bf16; do
        [ "$(grep -cE "^$operation +$dtype +[0-9]" out)" -eq 1 ] || fail "$operation in $dtype: expected one line"
    done
done
for operation in memcpy triad "gradient norm"; do
    grep -qE "^$operation +f32" out || fail "$operation: not in the output"
done
grep -qE "^round +bf16" out || fail "round: not in the output"

must_run 0 bench optimizer $small --threads 1 --json
[ "$(wc -l <out)" -eq 24 ] || fail "--json: expected 24 objects, found $(wc -l <out)"
# AdamW reads g, w, m, v and writes w, m, v; in bf16 it writes a copy of w too
grep '"operation":"adamw"' out | grep '"dtype":"f32"' | grep -q '"read_bytes":131072.0,"write_bytes":98304.0' ||
    fail "--json: bytes of adamw in f32"
grep '"operation":"adamw"' out | grep '"dtype":"bf16"' | grep -q '"read_bytes":131072.0,"write_bytes":114688.0' ||
    fail "--json: bytes of adamw in bf16"
for key in $(grep -oE '"[a-z_]+":' out | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done

for sizes in "--tokens 60" "--hidden 100" "--tokens 0" "--hidden x"; do
    run 0 bench optimizer $sizes --repeat 1
    [ "$status" -ne 0 ] || fail "$sizes was taken"
    grep -qF -- "${sizes% *}" err || fail "$sizes: the message does not name it"
done
finish
