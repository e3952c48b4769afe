#!/bin/bash
# A run that begins with a dense model: same bits at any number of ranks of either run, and at any number of domains of
# the dense one; gleaner waste tells beginnings apart; bad input is one message.
. "$(dirname "$0")/common.sh"
make_input

must_run 1 train run.yaml --set model.experts=1 --set parallel.expert_replicas=4 --set train.steps=50 --set run.dir=dense
must_run 4 train run.yaml --set model.experts=1 --set parallel.expert_replicas=4 --set train.steps=50 --set run.dir=dense4
must_run 0 ckpt digest dense
cp out digest
must_run 0 ckpt digest dense4
cmp -s out digest || fail "dense: other bits on 4 ranks"

for ranks in 1 2 4; do
    from=dense
    [ $ranks -eq 2 ] && from=dense4
    must_run $ranks train run.yaml --set train.steps=10 --set train.upcycle=$from --set run.dir=up$ranks
    grep -qF "from a dense model, $from, to step 10" out || fail "upcycled on $ranks ranks: does not say from what"
    same_lines up$ranks/metrics.jsonl >up$ranks.lines
    must_run 0 ckpt digest up$ranks
    mv out up$ranks.digest
    cmp -s up1.lines up$ranks.lines || fail "upcycled on $ranks ranks: other losses or ledgers"
    cmp -s up1.digest up$ranks.digest || fail "upcycled on $ranks ranks: other checkpoint"
done
must_run 1 train run.yaml --set train.steps=10 --set run.dir=scratch
same_lines scratch/metrics.jsonl | cmp -s - up1.lines && fail "upcycling changes nothing"
grep -qE '^  upcycle: "?dense"?$' up1/config.yaml || fail "config.yaml does not say where the run began"

# the run goes on without the dense one, on other ranks; evaluation and generation need no dense one either
mv dense away
must_run 4 train run.yaml --set train.steps=12 --set train.upcycle=dense --set run.dir=up1
mv away dense
must_run 2 train run.yaml --set train.steps=12 --set train.upcycle=dense4 --set run.dir=up2
must_run 0 ckpt digest up1
mv out digest
must_run 0 ckpt digest up2
cmp -s out digest || fail "resumed: other checkpoint"
mv dense away
must_run 2 eval up1
must_run 0 generate up1 --prompt green --count 4
mv away dense

# what a cell of waste began with is part of its key
grid=(--policies top1,top2+fr --capacity 1.0 --unbalanced none --seeds 1 --set train.steps=3 --set run.dir=waste)
must_run 1 waste run.yaml "${grid[@]}" --set train.upcycle=dense
must_run 2 waste run.yaml "${grid[@]}" --set train.upcycle=dense
[ "$(wc -l <waste/cells.jsonl)" -eq 2 ] || fail "waste: expected 2 cells, found $(wc -l <waste/cells.jsonl)"
must_run 1 waste run.yaml "${grid[@]}"
[ "$(wc -l <waste/cells.jsonl)" -eq 4 ] || fail "waste: cells from scratch were taken for upcycled ones"
[ "$(grep -o '"bits_per_byte":[^,]*' waste/cells.jsonl | sort -u | wc -l)" -eq 4 ] || fail "waste: equal figures"

# refuse P TEXT ARGUMENTS...: exit status 2, one message with this text, nothing written
refuse() {
    run "$1" train run.yaml --set run.dir=bad "${@:3}"
    [ "$status" -eq 2 ] || fail "${*:3}: exit status $status"
    [ "$(grep -c 'gleaner: error' err)" -eq 1 ] || fail "${*:3}: expected one message"
    grep -qF "$2" err || fail "${*:3}: no word of \"$2\": $(grep -m 1 'gleaner' err)"
    [ ! -e bad ] || fail "${*:3}: wrote something"
}
refuse 2 'expected model.hidden 32, found 16' --set train.upcycle=dense --set model.hidden=32
refuse 1 'model.experts 1, found 8' --set train.upcycle=up1
refuse 2 'found neither' --set train.upcycle=nowhere
finish
