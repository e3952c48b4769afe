"""Holds the output of `gleaner route` against the oracle on the scores that the router wrote.

    route_oracle.py GLEANER POLICY      in a folder with random.safetensors [4, 40, 8]
"""

import json
import subprocess
import sys

from route_files import read
from router_oracle import Case, Oracle, f32, sigmoid, softmax, uses_sigmoid

D, T, E, L = 4, 40, 8, 2
LEDGER = (
    "tokens choices slots routed overflow filled padded rescued rectified dropped rect_tokens rect_rows unserved"
).split()
gleaner, policy = sys.argv[1:]


def cases():
    rectifies = policy not in ("expert_choice", "expanded_drop")
    priority = {"random": "random", "switch": "position", "gshard": "position"}.get(policy, "score")
    ks = {"switch": [1], "gshard": [2]}.get(policy, [1, 2, 3])
    for k in ks:
        for factor in (0.5, 1.0):
            for on in (True, False) if rectifies else (False,):
                yield dict(k=k, capacity_factor=factor, priority=priority, weight="normalized", fill=on, rectify=on)
        if rectifies:
            yield dict(k=k, capacity_factor=0.7, priority=priority, weight="p", fill=False, rectify=True, ir_scope=2)
            yield dict(k=k, capacity_factor=0.7, priority=priority, weight="normalized", fill=True, rectify=True,
                       ir_tokens="any_lost", ir_exclude=True, ir_capacity=3, fill_key="max", ir_scale="k_gate")


def run(options):
    sets = {"router.policy": policy, "parallel.threads": 2}
    sets.update({"router." + key: str(value).lower() for key, value in options.items()})
    words = [gleaner, "route", "--logits", "random.safetensors", "--config", "plain.yaml", "--json", "--seed", "7"]
    words += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    subprocess.run(words + ["--out", "scores.safetensors"], check=True, capture_output=True)
    return [json.loads(line) for line in lines], read("scores.safetensors")


def rows(values, d):
    return [values[(d * T + t) * E : (d * T + t + 1) * E] for t in range(T)]


def close(found, expected, bound=1e-6):
    return abs(found - expected) <= bound * max(1, abs(expected))


def check(options):
    events, tensors = run(options)
    logits = read("random.safetensors")["logits"][1]
    shape, scores = tensors["scores"]
    assert shape == [D, T, E], shape
    softmaxes = tensors.get("softmax", tensors["scores"])[1]
    printed = {(x["domain"], x["token"]): x["scores"] for x in events if x["event"] == "scores"}
    totals = dict.fromkeys(LEDGER, 0)
    for d in range(D):
        case = Case(T, E, L, rows(logits, d), policy=policy, domain=d, first_local=d * L, seed=7, **options)
        p = rows(scores, d)
        for t in range(T):
            assert [f32(x) for x in printed[d, t]] == p[t], f"scores of domain {d}, token {t}"
            exact = softmax(case.logits[t])
            if uses_sigmoid(case):
                exact = [sigmoid(x) for x in case.logits[t]]
            assert all(close(x, y) for x, y in zip(p[t], exact)), f"domain {d}, token {t}: no softmax"
        check_plan(events, d, Oracle(case, p, rows(softmaxes, d)), totals)
    total = [x for x in events if x["event"] == "total"]
    assert len(total) == 1 and {key: total[0]["ledger"][key] for key in LEDGER} == totals, total


def check_plan(events, d, oracle, totals):
    def multiplicity(t, e):
        return oracle.m[t] if oracle.h[t] == e else 0

    slots = [
        (t, e, slot, "topk" if choice < oracle.k else "filled", choice, multiplicity(t, e), oracle.w[t][e])
        for e in range(E)
        for slot, (t, choice) in enumerate(oracle.slots[e])
    ]
    expected = slots + [
        (t, e, None, "rectified", None, oracle.m[t], oracle.w[t][e])
        for e in range(E)
        for t in range(T)
        if oracle.row[t] and oracle.h[t] == e
    ]
    keys = "token expert slot kind choice multiplicity weight".split()
    found = [tuple(x[key] for key in keys) for x in events if x["event"] == "route" and x["domain"] == d]
    assert len(found) == len(expected), f"domain {d}: {len(found)} routes, not {len(expected)}"
    for x, y in zip(found, expected):
        assert x[:-1] == y[:-1] and close(x[-1], y[-1]), f"domain {d}: route {x}, not {y}"
    ledger = [x["ledger"] for x in events if x["event"] == "domain" and x["domain"] == d]
    assert len(ledger) == 1
    for key, value in zip(LEDGER, oracle.ledger()):
        assert ledger[0][key] == value, f"domain {d}: {key} is {ledger[0][key]}, not {value}"
        totals[key] += value


for case in cases():
    try:
        check(case)
    except AssertionError as wrong:
        sys.exit(f"{policy}, {case}: {wrong}")
    except subprocess.CalledProcessError as wrong:
        sys.exit(f"{policy}, {case}: {wrong.stderr}")
