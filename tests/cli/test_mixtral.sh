#!/bin/bash
# Models that travel: exported and imported again a run evaluates to the same loss and has the same weights, trains on from step 0 on
# any number of ranks; bad input is one message. Where transformers is installed, it loads what was exported and finds the golden logits.
. "$(dirname "$0")/common.sh"
make_input
golden=$source_dir/tests/data/mixtral

must_run 2 train run.yaml --set router.weight=normalized --set train.steps=10 --set run.dir=run
must_run 0 ckpt export-hf run there/model
must_run 0 ckpt export-hf run half --dtype bf16 --json
grep -qF '"dtype":"bf16"' out || fail "export-hf --json: $(cat out)"
must_run 0 ckpt import-hf there/model back --set data.train=train.txt --set data.valid=valid.txt --set model.sequence="$(awk '/sequence:/ {print $2; exit}' run/config.yaml)"
must_run 1 eval run --json
grep -o '"loss":[^,]*' out >loss
must_run 1 eval back --json
grep -o '"loss":[^,]*' out | cmp -s - loss || fail "imported: another loss, $(grep -o '"loss":[^,]*' out), not $(cat loss)"
must_run 0 ckpt export-hf back again
cmp -s there/model/model.safetensors again/model.safetensors || fail "exported twice: other weights"
must_run 0 generate back --prompt green --count 4

cp -r back back2
must_run 1 train back/config.yaml --set train.steps=3 --set train.log_every=1 --set parallel.domains=2
must_run 2 train back/config.yaml --set train.steps=3 --set train.log_every=1 --set parallel.domains=2 --set run.dir=back2
for run in back back2; do
    same_lines $run/metrics.jsonl >$run.lines
    [ "$(grep -c grad_norm $run.lines)" -eq 3 ] || fail "$run: expected 3 steps"
done
cmp -s back.lines back2.lines || fail "an imported model trains to other bits on 2 ranks"

must_run 0 ckpt import-hf "$golden" tiny
must_run 0 ckpt export-hf tiny tiny-out
python3 - "$golden/model.safetensors" tiny-out/model.safetensors <<'EOF' || fail "the golden model came back with other bytes"
import json, struct, sys
def load(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    return {k: (v["dtype"], v["shape"], raw[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in head.items() if k != "__metadata__"}
sys.exit(load(sys.argv[1]) != load(sys.argv[2]))
EOF
if python3 -c 'import torch, transformers; transformers.MixtralForCausalLM' 2>/dev/null; then
    python3 "$golden/check.py" tiny-out || fail "transformers finds other logits"
else
    echo "transformers is not installed: that it loads an exported model is not tested here"
fi

# refuse TEXT ARGUMENTS...: exit status 2, one message with this text, nothing written
refuse() {
    run 0 "${@:2}"
    [ "$status" -eq 2 ] || fail "${*:2}: exit status $status"
    [ "$(grep -c 'gleaner: error' err)" -eq 1 ] || fail "${*:2}: expected one message"
    grep -qF "$1" err || fail "${*:2}: no word of \"$1\": $(grep -m 1 'gleaner' err)"
    [ ! -e bad ] && [ ! -e bad.partial ] || fail "${*:2}: wrote something"
}
refuse 'exists already' ckpt export-hf run there/model
refuse 'f32 or bf16' ckpt export-hf run bad --dtype f64
refuse 'nowhere' ckpt export-hf nowhere bad
refuse 'config.json' ckpt import-hf nowhere bad
refuse 'is there already' ckpt import-hf there/model run
refuse 'train.lr' ckpt import-hf there/model bad --set train.lr=fast
must_run 1 train run.yaml --set router.k=1 --set router.policy=switch --set train.steps=1 --set run.dir=switch
refuse 'router.policy' ckpt export-hf switch bad
rm there/model/model.safetensors
refuse 'model.safetensors' ckpt import-hf there/model bad
finish
