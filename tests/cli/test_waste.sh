#!/bin/bash
# gleaner waste on a tiny grid: stopped by a signal, it goes on without repeating a cell; the table is the one of a run at
# once on other ranks, and follows from the cells.
. "$(dirname "$0")/common.sh"
make_input
command -v python3 >/dev/null || {
    echo "skipped: python3 is not here"
    exit 77
}

policies=top1,top1+fr,top1+ir,top1+fr+ir,top1+dropless,expanded_drop1,top2+fr+ir
grid=(--policies "$policies" --capacity 0.5,1.0 --unbalanced 1.0 --seeds 1,2)
small=(--set train.steps=30)

# at once, on 1 rank
must_run 0 waste run.yaml --set parallel.domains=4 "${small[@]}" "${grid[@]}" --set run.dir=once --json
cp out once.json
cp err once.err
cells=$(wc -l <once/cells.jsonl)
grep -qE "^ *$cells/$cells .* bits/byte, dropless .*; took .*, left 0:00" once.err || fail "no progress with the time left"

# stopped after the first cell, on 2 ranks; then to the end on 1, and once more
timeout -k 10 240 mpirun -n 2 "$gleaner" waste run.yaml "${small[@]}" "${grid[@]}" --set run.dir=parts >out 2>err </dev/null &
job=$!
for _ in $(seq 1 2000); do
    [ -s parts/cells.jsonl ] && break
    sleep 0.02
done
pkill -USR1 -P $job -x mpirun
wait $job
status=$?
[ $status -eq 75 ] || fail "after SIGUSR1: exit status $status"
grep -q 'stopped by a signal' out || fail "after SIGUSR1: does not say so"
before=$(wc -l <parts/cells.jsonl)
[ "$before" -ge 1 ] && [ "$before" -lt "$cells" ] || fail "stopped run: $before of $cells cells"
[ -s parts/waste.md ] && [ -s parts/waste.svg ] || fail "stopped run: no table or plot of what is finished"
cp parts/cells.jsonl before.jsonl

timeout -k 10 240 "$gleaner" waste run.yaml --set parallel.domains=4 "${small[@]}" "${grid[@]}" --set run.dir=parts >out 2>err </dev/null &
job=$!
for _ in $(seq 1 2000); do
    [ "$(wc -l <parts/cells.jsonl)" -gt "$before" ] && break
    sleep 0.02
done
pkill -TERM -P $job -x "$(basename "$gleaner")"
wait $job
status=$?
[ $status -eq 75 ] || fail "after SIGTERM: exit status $status"
[ "$(wc -l <parts/cells.jsonl)" -lt "$cells" ] || fail "SIGTERM came too late to see anything"

must_run 2 waste run.yaml "${small[@]}" "${grid[@]}" --set run.dir=parts --json
grep -qE "$cells cells of 30 steps, [1-9][0-9]* of them finished before" err || fail "does not say what was finished before"
cmp -s out once.json || fail "the table of the parts is not that of the run at once"
head -n "$before" parts/cells.jsonl | cmp -s - before.jsonl || fail "finished cells were rewritten"
[ "$(wc -l <parts/cells.jsonl)" -eq "$cells" ] || fail "expected $cells cells, found $(wc -l <parts/cells.jsonl)"
[ "$(grep -o '"key":"[^"]*"' parts/cells.jsonl | sort -u | wc -l)" -eq "$cells" ] || fail "a cell was repeated"

cp parts/cells.jsonl before.jsonl
must_run 0 waste run.yaml --set parallel.domains=4 "${small[@]}" "${grid[@]}" --set run.dir=parts --set parallel.exchange=flat \
    --set parallel.path=messages --set parallel.overlap=off --set parallel.timeout_ms=1000000
cmp -s parts/cells.jsonl before.jsonl || fail "a finished grid was run again"
grep -qE '^top1\+fr\+ir +0\.5 +yes +2 ' out || fail "no table as text"
grep -qE '^\| top2\+fr\+ir \| 1 \| no \| 2 \| ' parts/waste.md || fail "no table in waste.md"
python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' parts/waste.svg || fail "waste.svg is no XML"

# a line that was cut off is run again, that one alone
head -c -40 before.jsonl >parts/cells.jsonl
must_run 0 waste run.yaml --set parallel.domains=4 "${small[@]}" "${grid[@]}" --set run.dir=parts --json
cmp -s out once.json || fail "the table after a cut line is another"
[ "$(grep -c '"rows_per_token".*}}$' parts/cells.jsonl)" -eq "$cells" ] || fail "after a cut line: not every cell is there once"

# another run file is another grid
must_run 0 waste run.yaml --set parallel.domains=4 --set train.lr=2e-2 "${small[@]}" --policies top1 --capacity 1 --unbalanced none \
    --seeds 1 --set run.dir=parts --json
grep -q '1 cells of 30 steps, 0 of them' err || fail "cells of another learning rate were taken"

# the table follows from the cells
python3 - once/cells.jsonl once.json once.err <<'PY' || fail "the table does not follow from the cells"
import json, statistics, sys
cells = [json.loads(line) for line in open(sys.argv[1])]
rows = [json.loads(line) for line in open(sys.argv[2])]
skips = "skipped: expanded_drop1" in open(sys.argv[3]).read()
capacities, seeds = [0.5, 1.0], [1, 2]
expected = set()
for policy in ["top1", "top1+fr", "top1+ir", "top1+fr+ir", "expanded_drop1", "top2+fr+ir"]:
    if policy == "expanded_drop1" and skips:
        continue
    expected |= {(policy, c, True) for c in capacities} | {(policy, 1.0, False)}
expected |= {("top1+dropless", None, True), ("top1+dropless", None, False)}
name = lambda x: (x["policy"], x["capacity_factor"], x["balanced"])
assert {name(r) for r in rows} == expected and len(rows) == len(expected), "rows"
assert len(cells) == len(expected) * len(seeds), "cells"
plain = {(c["k"], c["capacity_factor"], c["balanced"], c["seed"]): c["bits_per_byte"] for c in cells
         if c["policy"] in ("top1", "top2")}
for row in rows:
    mine = [c for c in cells if name(c) == name(row)]
    assert sorted(c["seed"] for c in mine) == seeds and row["seeds"] == len(seeds)
    for key in ("bits_per_byte", "bits_per_byte_dropless"):
        values = [c[key] for c in mine]
        for part, f in (("mean", statistics.mean), ("deviation", statistics.stdev), ("min", min), ("max", max)):
            assert abs(row[key][part] - f(values)) < 1e-9, (name(row), key, part)
        assert 0 < min(values) < 8.1 and len(set(values)) > 1, "seeds must differ"
    ledger = row["ledger"]
    for key in ledger:
        assert ledger[key] == sum(c["ledger"][key] for c in mine), key
    rows_per_token = (ledger["routed"] + ledger["filled"] + ledger["rect_rows"]) / ledger["tokens"]
    assert abs(row["rows_per_token"] - rows_per_token) < 1e-12
    assert abs(row["slots_per_token"] - ledger["slots"] / ledger["tokens"]) < 1e-12
    p = row["per_cent"]
    assert abs(p["routed"] + p["rescued"] + p["rectified"] + p["dropped"] - 100) < 1e-9
    twin = [plain.get((c["k"], c["capacity_factor"], c["balanced"], c["seed"])) for c in mine]
    if None in twin:
        assert row["gain"] is None
    else:
        gain = statistics.mean(t - c["bits_per_byte"] for t, c in zip(twin, mine))
        assert abs(row["gain"]["mean"] - gain) < 1e-9
    if row["policy"] == "top1+dropless":  # the second evaluation is of the same weights
        assert p["dropped"] == 0 and rows_per_token == 1
        assert all(abs(c["bits_per_byte"] - c["bits_per_byte_dropless"]) < 1e-4 for c in mine)
    if "+ir" in row["policy"]:
        assert p["dropped"] == 0 and ledger["rect_tokens"] > 0
    if "+fr" not in row["policy"] and row["policy"].startswith("top"):
        assert ledger["filled"] == 0
with_loss = {name(r)[:2]: r["bits_per_byte"]["mean"] for r in rows if r["balanced"]}
for row in rows:
    assert row["balanced"] or row["bits_per_byte"]["mean"] != with_loss[name(row)[:2]], "balance loss changes nothing"
PY
for key in $(cat once.json once/cells.jsonl | grep -oE '"[a-z_]+":' | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done

# a cell that diverges is named and passed over; the others are there, and the status says so
for ranks in 1 2; do
    run $ranks waste run.yaml --set train.steps=30 --set train.lr=1000 --set train.weight_decay=1000 --set train.warmup_steps=0 \
        --set train.clip=0 --policies top1 --capacity 1 --unbalanced none --seeds 1,2 --set run.dir=wild
    [ "$status" -eq 1 ] || fail "diverged on $ranks ranks: exit status $status"
    grep -q '2/2 top1, capacity 1, seed 2: failed: ' out || fail "diverged on $ranks ranks: the last cell is not named"
    grep -q '2 of 2 cells failed' err || fail "diverged on $ranks ranks: does not say how many"
    [ ! -s wild/cells.jsonl ] && [ -s wild/waste.svg ] || fail "diverged on $ranks ranks: cells were written, or no plot"
done

# bad input: status 2, and no folder
for bad in "--policies nonsense1" "--policies top" "--policies top1+fr+fr" "--policies top1,top1" "--policies top9" \
    "--capacity -1" "--capacity inf" "--capacity 1,x" "--seeds -1" "--seeds 1.5" "--set data.valid="; do
    run 0 waste run.yaml --set run.dir=bad $bad
    [ "$status" -eq 2 ] || fail "$bad: exit status $status"
    [ -s err ] && [ ! -e bad ] || fail "$bad: no message, or a folder was made"
done
finish
