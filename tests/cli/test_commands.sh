#!/bin/bash
# Every command as a user calls it: help, text, --json; what train leaves behind.
. "$(dirname "$0")/common.sh"
make_input

says() { # WHAT PATTERN FILE
    grep -qE -- "$2" "$3" || {
        fail "$1: \"$2\" is not in the output"
        head -n 5 "$3"
    }
}
has_keys() { # WHAT FILE KEY...: every line is an object that has the keys
    local what=$1 file=$2 key
    shift 2
    [ -s "$file" ] || fail "$what: no output"
    if command -v python3 >/dev/null; then
        python3 - "$file" "$@" <<'PY' || fail "$what: lines are not objects with the keys $*"
import json, sys
for line in open(sys.argv[1]):
    item = json.loads(line)
    missing = [key for key in sys.argv[2:] if key not in item]
    if missing:
        sys.exit("missing: " + " ".join(missing))
PY
    else
        grep -qvE '^\{.*\}$' "$file" && fail "$what: a line is no object"
        for key in "$@"; do
            grep -qvF "\"$key\":" "$file" && fail "$what: a line lacks $key"
        done
    fi
}
# Keys must be documented.
documented() { # FILE
    local key
    for key in $(grep -oE '"[a-z_]+":' "$1" | tr -d '":' | sort -u); do
        grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
    done
}

# help and version
must_run 0 --version
says version '^gleaner [0-9]+\.[0-9]+\.[0-9]+$' out
must_run 0 help
for command in train launch eval generate waste bench route ckpt topo doctor info help; do
    says help "^  $command" out
done
for command in train launch doctor eval generate waste "bench layer" "bench step" "bench growth" "bench gemm" "bench optimizer" "bench attention" "bench router" "bench exchange" "bench links" route "ckpt info" "ckpt digest" topo info; do
    must_run 0 $command --help
    says "$command --help" "^usage: gleaner $command" out
    cp out first
    must_run 0 help $command
    cmp -s out first || fail "help $command and $command --help differ"
done
must_run 0 train --help
says "train --help" '^model\.hidden: an integer' out
says "train --help" '^run\.dir: ' out
must_run 2 --version
[ "$(wc -l <out)" -eq 1 ] || fail "--version under mpirun: expected one line"
run 0
[ "$status" -eq 2 ] || fail "no command: exit status $status"

# info
must_run 2 info
says info '2 ranks on 1 node' out
must_run 2 info --json
has_keys "info --json" out version build machine ranks nodes rank
documented out

# train
must_run 2 train run.yaml --set eval.every=2 --set model.hidden=32
for word in 'ranks +2 on 1 node' '4 domains' 'exchange +shared inside a node: ranks share a node' 'binding' 'backend' 'parameters' 'memory' \
    'step 4/4 .*loss .*valid bits/byte .*tokens/s .*left .*routed .*padded' 'gzip -9 needs' \
    'generated text' 'run directory: run' 'try next'; do
    says train "$word" out
done
for file in config.yaml metrics.jsonl report.txt checkpoints/step-00000004/manifest.json; do
    [ -s "run/$file" ] || fail "train: no run/$file"
done
[ -z "$(find run -name '*.partial' -o -name '.probe*')" ] || fail "train: left something unfinished behind"
says "run/report.txt" 'gzip -9 needs' run/report.txt
grep -q 'hidden: 32' run/config.yaml || fail "config.yaml lacks the override"
has_keys metrics.jsonl run/metrics.jsonl step loss balance_loss z_loss grad_norm lr tokens seconds \
    tokens_per_second gemm_seconds exchange_seconds router_seconds flight_seconds hidden_seconds ledger traffic
[ "$(grep -c '"valid":{' run/metrics.jsonl)" -eq 2 ] || fail "metrics.jsonl: expected 2 validations"
documented run/metrics.jsonl
must_run 1 train run/config.yaml --set run.dir=again
must_run 0 ckpt digest run
cp out first
must_run 0 ckpt digest again
cmp -s first out || fail "the resolved config.yaml trains another model"
must_run 2 train run.yaml --json --set run.dir=json
has_keys "train --json" out event
for event in start step end; do
    says "train --json" "\"event\":\"$event\"" out
done
documented out
# gzip's figure is gzip's
bytes=$(gzip -9 -c <valid.txt | wc -c)
says "gzip" "\"gzip_bytes\":$bytes," out

# eval
must_run 2 eval run
says eval 'bits per byte' out
must_run 0 eval run/checkpoints/step-00000004 --json
has_keys "eval --json" out loss bits_per_byte tokens seconds ledger checkpoint data gzip_bits_per_byte
documented out
loss=$(grep -o '"loss":[^,]*' out)
tail -n 1 run/metrics.jsonl | grep -qF "\"valid\":{$loss," || fail "eval and train differ in the loss"
must_run 0 eval run --data train.txt --json
grep -qF "$loss," out && fail "eval --data: the same loss on another text"

# generate
must_run 0 generate run --count 20 --seed 3
cp out first
must_run 2 generate run --count 20 --seed 3
cmp -s out first || fail "generate: the same seed gives another text"
must_run 0 generate run --count 20 --prompt 'green ' --temperature 0 --json
has_keys "generate --json" out text tokens seconds seed temperature
documented out
must_run 0 generate run --count 5 --prompt "$(printf 'a\033[31mb')"
grep -q "$(printf '\033')" out && fail "generate: a control character reached the terminal"
says generate 'a\\x1b\[31mb' out

# ckpt
must_run 0 ckpt info run
says "ckpt info" 'hidden +32' out
says "ckpt info" 'experts-00003.safetensors .*verified' out
must_run 0 ckpt info run --json
has_keys "ckpt info --json" out group key value
documented out
must_run 0 ckpt digest run/checkpoints/step-00000004 --json
has_keys "ckpt digest --json" out path digest
documented out

# bench
small="--set model.hidden=32 --set model.expert_hidden=64 --tokens 64 --repeat 3 --gemm 64"
must_run 0 bench layer $small
says "bench layer" 'tokens/s .*ratio to the plain product' out
says "bench layer" 'products [0-9.]+, router' out
must_run 2 bench layer $small --json
has_keys "bench --json" out bench median_seconds min_seconds tokens_per_second gemm_share flight_seconds hidden_share ratio ledger
documented out
grep -q '"dtype":"f32"' out || fail "bench layer: does not say that it is in f32"
must_run 2 bench layer $small --set parallel.dtype=bf16
says "bench layer" 'one MoE layer in bf16' out
must_run 2 bench layer run.yaml --tokens 32 --repeat 2 --gemm 32
says "bench layer RUN.yaml" 'H 16, F 24, E 8, K 1, D 4' out
recorded="--logits $source_dir/tests/data/routing.safetensors --tensor step-100.layer-2.logits"
replay="bench layer $recorded --set model.hidden=16 --set model.expert_hidden=16 --set parallel.domains=4"
must_run 0 $replay --repeat 1 --gemm 32 --json
grep -o '"ledger".*' out >ledger-1
must_run 4 $replay --repeat 1 --gemm 32 --json
grep -o '"ledger".*' out >ledger-4
cmp -s ledger-1 ledger-4 || fail "bench layer: 4 ranks replay a recording otherwise than 1"
grep -q '"tokens":4096' ledger-1 || fail "bench layer does not replay the tokens of the recording"
must_run 2 bench links
for word in '2 ranks on 1 node' '8 x 1.0 KiB .*s +-$' 'bandwidth of a rank' 'copy within a rank'; do
    says "bench links" "$word" out
done
must_run 2 bench links --json
has_keys "bench links --json" out bench ranks nodes seconds copy_bytes_per_second inside between
says "bench links --json" '"inside":\{"latency_seconds":[0-9.e-]+,"gap_seconds":.*"points":\[\{"messages":1,"bytes":1024,"seconds":' out
says "bench links --json" '"between":null' out
documented out
must_run 0 bench links --json
says "bench links --json" '"inside":null,"between":null' out
must_run 2 bench exchange --bytes 20000 --repeat 2
says "bench exchange" 'uniform routing, path inside a node: shared' out
says "bench exchange" '^ +20000 ' out
must_run 2 bench exchange --bytes 1024 --repeat 1 --dtype bf16 --json
says "bench exchange --dtype bf16" '"hidden":512,"row_bytes":1024' out
says "bench exchange --dtype bf16" '"dtype":"bf16"' out
run 0 bench exchange --dtype f16
[ "$status" -ne 0 ] || fail "bench exchange --dtype f16: exit status 0"
says "bench exchange --dtype" 'expected f32 or bf16, found "f16"' err
must_run 2 bench exchange --bytes 4096 --repeat 2 --hidden 16 --json
has_keys "bench exchange --json" out bench path dispatch_bytes_per_second dispatch_to_gather dispatch_to_alltoallv
says "bench exchange --json" '"row_bytes_sent":8192.0,"row_bytes_left":4096.0' out
has_keys "bench exchange --json" out shared_bytes_per_second pull_bytes_per_second handoff_seconds floor_bytes_per_second dispatch_to_floor
documented out
must_run 2 bench exchange --bytes 1024 --repeat 1 --path messages
says "bench exchange --path messages" 'path inside a node: messages' out
must_run 2 bench exchange --bytes 1024 --repeat 1 --path shared --json
says "bench exchange --path shared" '"path":"shared"' out
must_run 0 bench exchange --bytes 1024 --repeat 1
says "bench exchange" 'path inside a node: messages' out
finish
