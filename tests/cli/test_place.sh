#!/bin/bash
# gleaner place: a planted recording, the recorded one, the file it writes, bad input.
. "$(dirname "$0")/common.sh"
command -v python3 >/dev/null || {
    echo "skipped: python3 is needed to make logits"
    exit 77
}
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$source_dir/tests/cli
recorded=$source_dir/tests/data/routing.safetensors

# 4 domains, 8 experts, k = 2: tokens of domains 0 and 1 use odd experts, those of 2 and 3 even ones. The default puts
# experts 0..3 on the first two domains, so half of the choices cross.
cat >make.py <<'PY'
import json, random, struct
r = random.Random(1)
D, T, E = 4, 64, 8
tensors = {"routing.info": ("F64", [4], struct.pack("<4d", 1, 2, 2, 1))}
for step in (1, 2, 3):
    logits = []
    for d in range(D):
        for t in range(T):
            logits += [r.gauss(0, 1) + (8 if e % 2 == (d < 2) else 0) for e in range(E)]
    tensors["step-%d.layer-1.logits" % step] = ("F32", [D, T, E], struct.pack("<%df" % len(logits), *logits))
header, at = {}, 0
for name, (dtype, shape, data) in tensors.items():
    header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
    at += len(data)
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open("planted.safetensors", "wb") as out:
    out.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))
PY
python3 make.py || exit 1

echo "# planted"
must_run 0 place planted.safetensors --nodes 2 --sources recorded --out placed.json --json
cp out planted
python3 - <<'PY' || fail "planted sets were not found"
import json
lines = [json.loads(line) for line in open("planted")]
assert [(l["layer"], l["steps"], l["steps_count"]) for l in lines] == [
    (1, "chosen", 2), (1, "held_out", 1), (None, "chosen", 2), (None, "held_out", 1)], lines
for l in lines:
    assert l["before"]["far_domain_rows"] > 60, l
    assert l["after"]["far_domain_rows"] == 0 and l["saved_per_cent"] == 100, l
    for key in ("before", "after"):
        c = l[key]
        assert c["expert_rows"] == 4 * 64 * 2 * l["steps_count"], l
    assert l["after"]["imbalance"] < 1.3, l
placed = json.load(open("placed.json"))
where = placed["layers"]["1"]
assert where == lines[0]["domain_of"] and list(placed["layers"]) == ["1"], placed
assert all((d < 2) == (e % 2 == 1) for e, d in enumerate(where)), where
assert sorted(where) == [0, 0, 1, 1, 2, 2, 3, 3], where
assert placed["experts"] == 8 and placed["domains"] == 4, placed
PY
for key in $(grep -oE '"[a-z_]+":' planted | tr -d '":' | sort -u); do
    grep -qE "\`$key\`" "$source_dir/docs/json.md" || fail "docs/json.md lacks the key $key"
done
must_run 0 place planted.safetensors --nodes 2 --sources recorded --copies node
grep -qE '^all +chosen .* 100\.0 %' out || fail "text: no sum with 100 % saved"
must_run 0 place planted.safetensors --nodes 1 --set parallel.threads=3 --json
grep -qF '"far_domain_rows":0,"far_node_rows":0' out || fail "one node: rows between nodes"

# from any domain alike, the default: sets of experts that are used together are still found, but not who uses them
must_run 0 place planted.safetensors --nodes 2 --copies node --json
python3 - "$work/out" <<'PY' || fail "--sources any: sets were torn"
import json, sys
line = json.loads(open(sys.argv[1]).readline())
nodes = [d // 2 for d in line["domain_of"]]
assert line["sources"] == "any" and len(set(nodes[0::2])) == len(set(nodes[1::2])) == 1, line
PY

echo "# recorded"
must_run 0 place "$recorded" --nodes 2 --sources recorded --set router.k=2 --json
cp out first
must_run 0 place "$recorded" --nodes 2 --sources recorded --set router.k=2 --set parallel.threads=3 --json
cmp -s out first || fail "two calls, two placements"
python3 - <<'PY' || fail "recorded: not better where it was chosen"
import json
lines = [json.loads(line) for line in open("first")]
assert len(lines) == 8, lines
for l in lines:
    assert l["before"]["expert_rows"] == l["after"]["expert_rows"], l
    if l["steps"] == "chosen":
        assert l["saved_per_cent"] > 0, l
PY
must_run 0 place "$recorded" --nodes 4 --config "$source_dir/examples/quickstart.yaml" --json
grep -qF '"policy":"topk","k":1' out || fail "the run file was not used"
must_run 0 place "$recorded" --nodes 4 --set parallel.domains=8 --json
grep -qF '"domains":8' out || fail "another number of domains"

echo "# bad input"
refuse() {
    local what=$1 pattern=$2
    shift 2
    run 0 "$@"
    [ "$status" -eq 2 ] || fail "$what: exit status $status, expected 2"
    grep 'gleaner: error:' err | grep -qF -- "$pattern" || fail "$what: no \"$pattern\" in $(cat err)"
    [ ! -s out ] || fail "$what: something was printed"
}
refuse "no nodes" '--nodes N' place planted.safetensors
refuse "nodes" 'must divide the 4 domains' place planted.safetensors --nodes 3
refuse "many nodes" '--nodes' place planted.safetensors --nodes 5
refuse "copies" 'domain or node' place planted.safetensors --nodes 2 --copies rank
refuse "sources" 'any or recorded' place planted.safetensors --nodes 2 --sources some
refuse "imbalance" '--imbalance' place planted.safetensors --nodes 2 --imbalance 0.5
refuse "no recording" 'none.safetensors' place none.safetensors --nodes 2
refuse "experts" '8 experts' place planted.safetensors --nodes 2 --set model.experts=16
refuse "domains" 'does not divide' place planted.safetensors --nodes 1 --set parallel.domains=3
refuse "policy" 'expanded_drop' place planted.safetensors --nodes 2 --set router.policy=expanded_drop
finish
