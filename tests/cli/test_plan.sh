#!/bin/bash
# `gleaner plan --memory` against trainings: what is allocated is what was planned, to the byte and by kind; the peak of the
# largest rank is within 5 % of the plan. A table of all cases is printed.
. "$(dirname "$0")/common.sh"
command -v python3 >/dev/null || {
    echo "skipped: python3 is not installed"
    exit 77
}
make_input
make_text 20000 long.txt
"$gleaner" info | grep -q sanitizers && sanitized=1 # they have memory of their own

cat >compare.py <<'PY'
import json, sys
name, ranks, sanitized = sys.argv[1:4]
plan = json.load(open("plan.json"))["a_rank"]
end = [json.loads(line) for line in open("train.json")][-1]
job, real = end["memory_planned"], end["memory"]
kinds = [key for key in real if key in plan]
wrong = ["%s planned %d, in the job %d, allocated %d" % (key, plan[key], job[key], real[key])
         for key in kinds if not plan[key] == job[key] == real[key]]
if len(kinds) != 10:
    wrong.append("kinds: %s" % kinds)
error = real["peak_bytes"] / plan["total_bytes"] - 1
print("%-22s P=%s  planned %6.1f MB  peak %6.1f MB  %+5.1f %%   (process %.1f + %.1f; in the job %+.1f %%)" % (
    name, ranks, plan["total_bytes"] / 1e6, real["peak_bytes"] / 1e6, 100 * error, plan["process_bytes"] / 1e6,
    plan["allowance_bytes"] / 1e6, 100 * (real["peak_bytes"] / job["total_bytes"] - 1)))
if abs(error) > 0.05 and not sanitized:
    wrong.append("peak is %.1f %% from the plan" % (100 * error))
sys.exit("; ".join(wrong) if wrong else 0)
PY

# case NAME P SETS...
case_run() {
    local name=$1 ranks=$2 words=() word
    shift 2
    for word in "$@"; do words+=(--set "$word"); done
    rm -rf run
    must_run 0 plan run.yaml --memory --json --ranks "$ranks" "${words[@]}"
    cp out plan.json
    must_run "$ranks" train run.yaml --json "${words[@]}"
    cp out train.json
    python3 compare.py "$name" "$ranks" "$sanitized" 2>why || fail "$name on $ranks ranks: $(cat why)"
}

quick=(model.hidden=192 model.layers=3 model.heads=6 model.kv_heads=3 model.expert_hidden=384 model.sequence=256
    train.batch=16 train.steps=2 eval.windows=4)
case_run tiny 1
case_run tiny 2
case_run quickstart 1 "${quick[@]}"
case_run quickstart 2 "${quick[@]}"
case_run quickstart 4 "${quick[@]}"
case_run "quickstart, messages" 2 "${quick[@]}" parallel.path=messages
case_run bf16 1 "${quick[@]}" parallel.dtype=bf16
case_run "bf16, 2 threads" 2 "${quick[@]}" parallel.dtype=bf16 parallel.threads=2
case_run "top-2, capacity 2" 2 "${quick[@]}" router.k=2 router.capacity_factor=2
case_run "16 experts, dense" 2 "${quick[@]}" model.experts=16 model.moe_every=3 model.dense_hidden=256
case_run "large" 2 "${quick[@]}" model.hidden=384 model.expert_hidden=1024 train.batch=4 data.train=long.txt

# text, and what is refused
must_run 0 plan run.yaml --memory --ranks 4 --ranks-per-node 2
grep -qE '^  total +[0-9.]+ MB' out || fail "no total: $(cat out)"
run 0 plan run.yaml
[ "$status" -eq 2 ] || fail "without --memory: exit status $status"
grep -q -- '--memory' err || fail "without --memory: $(cat err)"
run 0 plan run.yaml --memory --ranks 3
[ "$status" -eq 2 ] || fail "3 ranks for 4 domains: exit status $status"
# nothing of a run is needed or made: no text, no run folder; a large model takes no memory here
rm -rf run
must_run 0 plan run.yaml --memory --json --ranks 64 --ranks-per-node 8 --set data.train=nowhere.txt --set data.valid= \
    --set parallel.domains=64 --set model.experts=64 --set model.hidden=2048 --set model.heads=16 --set model.kv_heads=4 \
    --set model.expert_hidden=4096 --set model.layers=24 --set model.sequence=2048 --set train.batch=64
[ -e run ] && fail "plan made a run folder"
python3 - <<'PY' || fail "a large plan: $(cat out)"
import json
plan = json.load(open("out"))
rank = plan["a_rank"]
assert plan["nodes"] == 8 and rank["expert_parameters"] == 24 * 3 * 2048 * 4096, plan
assert rank["weights_bytes"] == 4 * (rank["expert_parameters"] + rank["dense_parameters"]), rank
assert rank["moments_bytes"] == 2 * rank["weights_bytes"], rank
assert rank["total_bytes"] > 20e9, rank
PY
# the figures are in the report
must_run 2 train run.yaml --set run.dir=text
grep -qE '^memory: planned [0-9.]+ MB a rank, peak [0-9.]+ MB \([-+][0-9.]+ %\) on rank [01]; [0-9.]+ MB a node$' \
    text/report.txt || fail "report.txt: $(grep memory text/report.txt)"
finish
