#!/bin/bash
# gleaner route: a plan written by hand, plans of the oracle (tests/oracle), bad input; gleaner bench router.
. "$(dirname "$0")/common.sh"
command -v python3 >/dev/null || {
    echo "skipped: python3 is needed to make logits"
    exit 77
}
here=$source_dir/tests/cli
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here:$here/../oracle
limit_s=60

cat >make.py <<'PY'
import math, random, sys
from route_files import write
p = [[.50, .30, .10, .10], [.55, .15, .20, .10], [.70, .05, .05, .20], [.10, .35, .10, .45], [.40, .05, .30, .25]]
flat = [x for row in p for x in row]
write("hand.safetensors", {"scores": ([2, 5, 4], flat + flat), "logits": ([5, 4], [math.log(x) for x in flat])})
write("sums.safetensors", {"scores": ([1, 4], [.5, .25, .125, 0])})
write("nan.safetensors", {"logits": ([2, 1, 4], [0, 0, 0, 0, 1, 2, math.nan, 0])})
write("line.safetensors", {"logits": ([4], [0, 1, 2, 3])})
r = random.Random(1)
random_logits = [r.gauss(0, 1) - 0.4 * math.log(1 + i % 8) for i in range(4 * 40 * 8)]
write("random.safetensors", {"logits": ([4, 40, 8], random_logits), "other": ([40, 8], random_logits[:320])})
write("empty.safetensors", {"logits": ([2, 0, 8], [])})
PY
python3 make.py || exit 1
cat >route.yaml <<'YAML'
router: {k: 1, capacity_factor: 0.8, fill: true, rectify: true}
model: {experts: 4}
parallel: {domains: 2, expert_replicas: 1}
YAML
state() {
    find . -type f ! -name out ! -name err -exec cksum {} + | LC_ALL=C sort
}

echo "# by hand"
# One slot per expert. Tokens 0, 1, 2 and 4 want expert 0, token 3 wants 3; of the next choices 3 (.35) beats 0 (.30)
# for expert 1, and 4 (.30) beats 1 (.20) for expert 2. Left without a route: 0 and 1, which stay on experts 0, 1
# in domain 0 and on experts 2, 3 in domain 1.
must_run 0 route --logits hand.safetensors --scores --config route.yaml --json --out used.safetensors
cp out given
# domain token expert slot kind choice multiplicity weight
cat >expected <<'TEXT'
0 2 0 0 topk 0 0 1
0 3 1 0 filled 1 0 0.437500
0 4 2 0 filled 1 0 1
0 3 3 0 topk 0 0 0.562500
0 0 0 null rectified null 1 1
0 1 0 null rectified null 1 1
1 2 0 0 topk 0 0 1
1 3 1 0 filled 1 0 0.437500
1 4 2 0 filled 1 0 1
1 3 3 0 topk 0 0 0.562500
1 0 2 null rectified null 1 1
1 1 2 null rectified null 1 1
TEXT
python3 - "$PWD/out" >found <<'PY'
import json, sys
for line in open(sys.argv[1]):
    item = json.loads(line)
    if item["event"] != "route":
        continue
    words = [item[key] for key in "domain token expert slot kind choice multiplicity".split()]
    weight = item["weight"] if item["weight"] == 1 else "%.6f" % item["weight"]
    print(*["null" if word is None else word for word in words], weight)
PY
diff expected found || fail "the plan is not the one written by hand"
ledger='"choices":10,"slots":8,"routed":4,"overflow":6,"filled":4,"padded":0,"rescued":2,"rectified":4,"dropped":0'
tail -n 1 out | grep -qF "$ledger" || fail "the ledger is not the one written by hand"
[ "$(grep -c '"event":"domain"' out)" -eq 2 ] || fail "expected two ledgers of domains"
python3 -c '
from route_files import read
if read("used.safetensors")["scores"] != read("hand.safetensors")["scores"]:
    raise SystemExit("the scores used are not those given")' || fail "scores"
must_run 0 route --logits used.safetensors --scores --config route.yaml --json
grep -v '"event":"scores"' out | diff - given >/dev/null || fail "the scores written give another plan"
must_run 0 route --logits hand.safetensors --config route.yaml --set parallel.domains=1 --json
sed -n '/"event":"route"/p' out | grep -c . | grep -qx 6 || fail "[T, E]: expected 6 routes"
must_run 2 route --logits hand.safetensors --scores --config route.yaml
[ "$(grep -c '^domain [01], per cent: routed 40.0' out)" -eq 2 ] || fail "text: no two domains in the output"
for key in $(grep -oE '"[a-z_]+":' given | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done
must_run 0 route --logits empty.safetensors --json
tail -n 1 out | grep -qF '"tokens":0,"experts":8' || fail "no tokens: no total"

echo "# against the oracle"
must_run 0 help train
policies=$(sed -n 's/^router\.policy: //p' out | grep -oE '[a-z_0-9]+' | sort -u)
echo 'router: {k: 1}' >plain.yaml
for policy in topk switch gshard mixtral expert_choice sinkhorn deepseek_v3 expanded_drop random; do
    grep -qx "$policy" <<<"$policies" || continue
    python3 "$here/route_oracle.py" "$gleaner" "$policy" || fail "policy $policy: not the oracle's plan"
done

echo "# any number of threads"
must_run 0 route --logits random.safetensors --json --set parallel.threads=1
cp out first
must_run 0 route --logits random.safetensors --json --set parallel.threads=3
cmp -s out first || fail "the output depends on the number of threads"

echo "# bad input"
# refuse WHAT "PATTERN|..." ARGUMENTS...
refuse() {
    local what=$1 patterns=$2 before pattern
    shift 2
    before=$(state)
    run 0 "$@"
    [ "$status" -eq 2 ] || fail "$what: exit status $status, expected 2"
    [ "$(grep -c 'gleaner: error:' err)" -eq 1 ] || fail "$what: expected one message"
    [ ! -s out ] || fail "$what: something was printed"
    while read -r pattern; do
        grep 'gleaner: error:' err | grep -qF -- "$pattern" || fail "$what: no \"$pattern\" in $(cat err)"
    done < <(tr '|' '\n' <<<"$patterns")
    [ "$before" = "$(state)" ] || fail "$what: something was written"
}
refuse "no file" 'route needs --logits' route --config route.yaml
refuse "missing file" 'none.safetensors' route --logits none.safetensors
refuse "no safetensors" 'route.yaml|safetensors' route --logits route.yaml
refuse "no tensor" 'random.safetensors|"nothing"|logits, other|--tensor' route --logits random.safetensors --tensor nothing
refuse "no shape" 'line.safetensors|[D, T, E]|1 dimension' route --logits line.safetensors
refuse "no number" 'domain 1|token 0|expert 2' route --logits nan.safetensors --json --out new.safetensors
refuse "logits as scores" 'are these logits' route --logits random.safetensors --scores
refuse "sum of scores" 'sum to 0.875|expected 1' route --logits sums.safetensors --scores
refuse "experts" 'route.yaml:2|model.experts|8 experts' route --logits random.safetensors --config route.yaml
refuse "domains" '--set parallel.domains=2|4 domains' route --logits random.safetensors --set parallel.domains=2
refuse "misspelt key" 'router.kk' route --logits random.safetensors --set router.kk=2
refuse "k" 'router.k|8' route --logits random.safetensors --set router.k=9
refuse "no place" 'nowhere/x' route --logits random.safetensors --out nowhere/x --json

echo "# bench router"
small="--set model.hidden=16 --set model.expert_hidden=16 --repeat 1"
must_run 0 bench router $small --set model.experts=8 --tokens 128
[ "$(grep -c '^router .* % of the forward pass' out)" -eq 3 ] || fail "bench router: expected three k"
must_run 0 bench router $small --k 2 --logits random.safetensors --set parallel.domains=4 --set router.capacity_factor=1 --json
cp out bench
# the bench routes what is recorded
must_run 0 route --logits random.safetensors --set router.k=2 --json
for key in routed filled rectified; do
    one=$(grep '"event":"total"' out | grep -o "\"$key\":[0-9]*")
    grep -qF "$one," bench || fail "bench router --logits: not $one"
done
for key in $(grep -oE '"[a-z_]+":' bench | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done
must_run 2 bench exchange --logits random.safetensors --k 1 --bytes 4096 --repeat 1
grep -q 'recorded routing' out || fail "bench exchange --logits: not recorded routing"
refuse "bench: k" '--k|0' bench router --k 1,0
refuse "bench: path" '--path|auto, shared or messages|shred' bench exchange --path shred
refuse "bench: hidden" 'model.hidden|8' bench router --logits random.safetensors --set model.hidden=4
refuse "bench: too many tokens" '--tokens|160' bench router --logits random.safetensors --tokens 161
finish
