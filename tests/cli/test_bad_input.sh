#!/bin/bash
# Bad input: exit status 2, one clear message from one rank, nothing written, no hang; alone and under mpirun.
. "$(dirname "$0")/common.sh"
limit_s=60
make_input
mkdir input
mv train.txt valid.txt run.yaml input
cd input || exit 1

state() { # everything below the folder: names, sizes, contents
    find . -printf '%y %p\n' | LC_ALL=C sort
    find . -type f -exec cksum {} + | LC_ALL=C sort
}

# refuse RANKS WHAT "PATTERN ..." ARGUMENTS...: each pattern (fixed string, "|" between two) stands in the message.
refuse_on() {
    local ranks=$1 what=$2 patterns=$3 before count pattern
    shift 3
    before=$(state)
    run "$ranks" "$@"
    [ "$status" -eq 2 ] || fail "$what, $ranks ranks: exit status $status, expected 2"
    count=$(grep -c 'gleaner: error:' ../err)
    [ "$count" -eq 1 ] || fail "$what, $ranks ranks: $count messages, expected 1"
    while read -r pattern; do
        grep 'gleaner: error:' ../err | grep -qF -- "$pattern" || {
            fail "$what, $ranks ranks: the message lacks \"$pattern\""
            grep -v '^$' ../err | head -n 3
        }
    done < <(tr '|' '\n' <<<"$patterns")
    [ "$before" = "$(state)" ] || fail "$what, $ranks ranks: something was written"
}
refuse() {
    refuse_on 0 "$@"
    refuse_on 2 "$@"
}
edit() { # SED_SCRIPT: a run file with a mistake
    sed "$1" run.yaml >bad.yaml
}

echo "# configuration"
edit 's/hidden: 16/hiden: 16/'
refuse "misspelt key" 'bad.yaml:2|model.hiden|did you mean model.hidden' train bad.yaml
edit 's/^router:/rooter:/'
refuse "misspelt section" 'bad.yaml:9|rooter|did you mean router' train bad.yaml
edit 's/layers: 2/layers: two/'
refuse "wrong type" 'bad.yaml:3|model.layers|an integer from 1 to|two' train bad.yaml
edit 's/fill: true/fill: 7/'
refuse "no bool" 'bad.yaml:11|router.fill|false, true, auto|7' train bad.yaml
edit 's/experts: 8/experts: 0/'
refuse "out of range" 'bad.yaml:6|model.experts|from 1' train bad.yaml
edit 's/experts: 8/experts: 6/'
refuse "D does not divide E" 'bad.yaml:6|model.experts|multiple|4|6' train bad.yaml
refuse_on 2 "P does not divide D" '--set parallel.domains=1|parallel.domains|2 ranks|1' train run.yaml \
    --set parallel.domains=1
refuse "batch does not fit" '--set train.batch=6|train.batch|multiple' train run.yaml --set train.batch=6
refuse "unknown key in --set" '--set router.kk=2|router.kk|known keys of router' train run.yaml --set router.kk=2
refuse "no value in --set" '--set router.k|=' train run.yaml --set router.k
refuse "bad choice" '--set parallel.backend=gpu|cpu, ref' train run.yaml --set parallel.backend=gpu
refuse "unknown wire type" '--set parallel.wire=f16|parallel.wire|auto, f32, bf16|f16' train run.yaml --set parallel.wire=f16
refuse "bf16 wire of f64" '--set parallel.wire=bf16|parallel.wire|auto with parallel.dtype: f64' train run.yaml \
    --set parallel.backend=ref --set parallel.dtype=f64 --set parallel.wire=bf16
refuse "policy without fill-in" '--set router.fill=true|router.fill|expert_choice|cannot' train run.yaml \
    --set router.policy=expert_choice --set router.fill=true
refuse "policy with its own k" '--set router.k=3|router.k|gshard' train run.yaml --set router.policy=gshard \
    --set router.fill=auto --set router.rectify=auto --set router.k=3
refuse "schedule that does not begin" 'router.capacity_schedule|begin at 0' train run.yaml \
    --set router.capacity_factor=-1 --set router.capacity_schedule=5:1.0
refuse "step past the end" '--record-routing|past train.steps' train run.yaml --record-routing 1,999999999
edit 's/  dir: run/  dir: [run/'
refuse "no YAML" 'bad.yaml:' train bad.yaml
sed '/train: train.txt/d' run.yaml >bad.yaml
refuse "required key missing" 'bad.yaml|data.train|required' train bad.yaml
refuse "no run file" 'missing.yaml' train missing.yaml
rm bad.yaml

echo "# command line"
refuse "misspelt command" 'trian|did you mean train' trian run.yaml
refuse "misspelt option" '--jsno|did you mean --json' train run.yaml --jsno
refuse "no operand" 'train needs RUN.yaml' train
refuse "operand too many" 'other.yaml' train run.yaml other.yaml
refuse "bad number" '--count|none' generate run --count none

echo "# data"
refuse "missing data" '--set data.train=none.txt|data.train|none.txt|No such file' train run.yaml --set data.train=none.txt
edit 's,valid: valid.txt,valid: none.txt,'
refuse "missing validation data" 'bad.yaml:25|data.valid|none.txt|No such file' train bad.yaml
rm bad.yaml
refuse "data is a folder" 'data.valid|Is a directory' train run.yaml --set data.valid=.
: >empty.txt
refuse "empty data" 'empty.txt|empty' train run.yaml --set data.train=empty.txt
head -c 16 train.txt >short.txt
refuse "short data" 'short.txt|16|17' train run.yaml --set data.train=short.txt
refuse "token outside the vocabulary" 'train.txt|vocabulary|100' train run.yaml --set model.vocabulary=100
printf 'GLNTOK\0\1\3\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' >header.tok
refuse "bad token file" 'header.tok' train run.yaml --set data.valid=header.tok

echo "# run directory"
refuse "below a file" '--set run.dir=train.txt/run|run.dir|Not a directory' train run.yaml --set run.dir=train.txt/run
refuse "a file" 'run.dir|train.txt|not a folder' train run.yaml --set run.dir=train.txt
refuse "in /proc" 'run.dir|/proc/gleaner' train run.yaml --set run.dir=/proc/gleaner/run

echo "# checkpoints"
cd .. || exit 1
mkdir good
cp input/* good
cd good || exit 1
must_run 2 train run.yaml
cd ..
damage() { # a fresh copy of the good run in ./input
    rm -rf input
    cp -r good input
    cd "$work/input" || exit 1
}
checkpoint=run/checkpoints/step-00000004
more=(train run.yaml --set train.steps=8)
damage
refuse "another model" "$checkpoint|hidden|16|32" "${more[@]}" --set model.hidden=32
refuse "other experts" "$checkpoint|experts|8|16" "${more[@]}" --set model.experts=16
make_text 201 other.txt
refuse "other data" "$checkpoint|other.txt" "${more[@]}" --set data.train=other.txt
refuse "a run is there" 'run.resume|never|step-00000004' "${more[@]}" --set run.resume=never
for file in dense experts-00001 experts-00003; do
    cd .. && damage
    truncate -s -1 $checkpoint/$file.safetensors
    refuse "truncated $file" "$checkpoint|$file.safetensors" "${more[@]}"
done
for file in dense.safetensors experts-00002.safetensors manifest.json; do
    cd .. && damage
    middle=$(($(stat -c %s $checkpoint/$file) / 2))
    byte=$(tail -c +$((middle + 1)) $checkpoint/$file | head -c 1 | od -An -tu1)
    printf "\\x$(printf %x $((byte ^ 4)))" | dd of=$checkpoint/$file bs=1 seek=$middle conv=notrunc 2>/dev/null
    cmp -s $checkpoint/$file ../good/$checkpoint/$file && fail "the test did not flip a bit"
    refuse "bit flipped in $file" "$checkpoint|$file" "${more[@]}"
    refuse_on 0 "digest, bit flipped in $file" "$file" ckpt digest run
    refuse_on 0 "info, bit flipped in $file" "$file" ckpt info run
    refuse "eval, bit flipped in $file" "$file" eval run
    refuse_on 0 "generate, bit flipped in $file" "$file" generate run --count 4
done
cd .. && damage
rm $checkpoint/experts-00000.safetensors
refuse "file missing" "$checkpoint|experts-00000.safetensors" "${more[@]}"
refuse "no run" 'nowhere' eval nowhere
refuse_on 0 "no run" 'nowhere' ckpt digest nowhere
refuse_on 0 "no run" 'nowhere' generate nowhere
cd ..
finish
