#!/bin/bash
# gleaner bench layer --against torch and gleaner bench growth: figures, --json with documented keys, and every way in
# which the other program can fail. A stand-in for Python answers as it is told to; where a Python with torch is found,
# the layer's results and gradients are compared with torch's.
. "$(dirname "$0")/common.sh"
small=(--repeat 2 --gemm 32 --tokens 48 --set model.hidden=16 --set model.expert_hidden=24 --set model.experts=4
    --set parallel.threads=1)

documented() {
    local key
    for key in $(grep -oE '"[a-z_]+":' out | tr -d '":' | sort -u); do
        grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
    done
}
refused() { # WHAT PATTERN
    [ "$status" -ne 0 ] || fail "$1: was taken"
    [ "$(grep -c 'gleaner: error' err)" -eq 1 ] || fail "$1: expected one message, found $(cat err)"
    grep -qE -- "$2" err || fail "$1: the message lacks \"$2\": $(cat err)"
}

# the layer alone: phases and what is in none are the whole
must_run 0 bench layer "${small[@]}" --json
documented
shares=$(tr ',' '\n' <out | grep -E '^"(gemm|router|exchange|activation|move|unaccounted)_share"' | cut -d: -f2)
echo "$shares" | awk '{ sum += $1 } END { exit !(NR == 6 && sum > 0.999 && sum < 1.001) }' || fail "shares: $shares"

# a stand-in: answers are files
cat >python <<'SH'
#!/bin/bash
here=$(dirname "$0")
while read -r verb rest; do
    cp "${rest%%$'\t'*}" "$here/tensors.$verb" 2>/dev/null
    [ "$verb" != run ] || echo "$rest" >>"$here/runs"
    cat "$here/answer.$verb" || exit 3
done
SH
chmod +x python
answers() { # LAYER RUN COMPARE
    rm -f runs answer.*
    [ -z "$1" ] || echo "$1" >answer.layer
    [ -z "$2" ] || echo "$2" >answer.run
    [ -z "$3" ] || echo "$3" >answer.compare
}
against() {
    run "${ranks:-0}" bench layer --against torch --python "$work/python" "${small[@]}" "$@"
}
export TMPDIR=$work
answers "ok 9.9 loop grouped" "ok 0.5" "ok 1e-7 1e-7 1e-7 1e-7 1e-7"
against
[ "$status" -eq 0 ] || fail "stand-in: $(cat err)"
grep -q '^PyTorch 9.9 ' out || fail "stand-in: no version"
grep -qE '^grouped, 1 thread +500.00 +500.00' out || fail "stand-in: its time is not in the output"
grep -qE '^gleaner is [0-9.]+ times as fast as its best \(loop, 1 threads?\)' out || fail "stand-in: no ratio"
# 96 + 96 rows of 16, the gate, 4 experts: 4 bytes each
[ "$(stat -c %s tensors.layer)" -eq $((4 * (2 * 48 * 16 + 16 * 4 + 3 * 4 * 16 * 24))) ] || fail "stand-in: size of the tensors"
[ -z "$(ls gleaner-layer-* 2>/dev/null)" ] || fail "stand-in: files were left behind"
against --json
[ "$status" -eq 0 ] || fail "stand-in, --json: $(cat err)"
documented
grep -q '"best_form":"loop"' out || fail "stand-in, --json: no best form"

answers "ok 9.9 loop" "ok 0.5" "ok 1e-7 2e-1 1e-7 1e-7 1e-7"
against
refused "another result" 'dx .* found 0.2: not the same'
against --set parallel.dtype=bf16
refused "another result in bf16" 'dx .* found 0.2: not the same'
answers "ok 9.9 loop" "ok 0.5" "ok nan 0 0 0 0"
against
refused "no number" 'not the same'
answers "error no torch here" "" ""
against
refused "no torch" 'no torch here'
answers "ok 9.9" "" ""
against
refused "no form" 'no form'
answers "ok 9.9 loop" "" ""
against
refused "an end in between" 'ended before it answered'
answers "ok 9.9 loop" "ok 0.5" "ok 0 0 0 0 0"
against --set router.capacity_factor=0.5
refused "rows left out" 'expected 96 rows'
ranks=2 against
refused "two ranks" 'expected one process, found 2'
run 0 bench layer --against torch --python "$work/no-such" "${small[@]}"
refused "no interpreter" 'cannot run .*no-such'
run 0 bench layer --against jax "${small[@]}"
refused "another peer" '--against: expected torch'
[ -z "$(ls gleaner-layer-* 2>/dev/null)" ] || fail "files were left behind"

# torch itself
found=
for python in python3 /usr/bin/python3 "$GLN_TORCH_PYTHON"; do
    [ -n "$python" ] && "$python" -c 'import torch' 2>/dev/null || continue
    found=$python
    for dtype in f32 bf16; do
        must_run 0 bench layer --against torch --python "$python" "${small[@]}" --set parallel.dtype=$dtype
        grep -qE '^loop, 1 thread ' out || fail "torch in $dtype: no time of the loop"
    done
    must_run 0 bench layer --against torch --python "$python" "${small[@]}" --set router.k=1 --json
    documented
    # weights of p, not normalised, are another layer
    run 0 bench layer --against torch --python "$python" "${small[@]}" --set router.weight=p
    refused "another weight" 'not the same'
done
[ -n "$found" ] || echo "no Python with torch found: results were not compared"

# growth
must_run 0 bench growth --repeat 1 --tokens 64 --set model.hidden=16 --set model.expert_hidden=16 --set parallel.threads=1
for label in 256 32768 '1\.25, rectified'; do
    grep -qE "^$label +[0-9]+ " out || fail "growth: no line of $label"
done
must_run 0 bench growth experts tokens --repeat 1 --tokens 64 --set model.hidden=16 --set model.expert_hidden=16 --json
documented
[ "$(grep -c '"growth":"experts".*"tokens":64,.*"rows":128,' out)" -eq 6 ] || fail "growth: rows of experts"
[ "$(grep -c '"growth":"tokens"' out)" -eq 8 ] || fail "growth: tokens"
must_run 2 bench growth rectify --repeat 1 --tokens 64 --set model.hidden=16 --set model.expert_hidden=16 --json
grep -q '"capacity_factor":1.25,\|"rectified":true' out || fail "growth: no rectified line"
[ "$(grep -c '"rectified":true' out)" -eq 2 ] || fail "growth: lines of rectify"
run 0 bench growth elephants
refused "growth of something else" 'expected experts, tokens or rectify'
finish
