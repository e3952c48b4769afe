"""Holds the router against the oracle: plan, weights, ledger and gradients of random cases.

    test_router.py ROUTER_CASES [--cases N] [--seed S] [--only I [--large]]

Two thirds of the cases have fixed seeds, the others one that is drawn and printed; --seed repeats a
printed one, --only a single case (--large: one of the few large ones, seed 2). A tenth of them replay
the gate logits of a real run (docs/recording.md). The plan must be equal, weights within 1e-6 (1e-12
in double), gradients within 1e-9 in double. Every case is routed with 1 and with 3 threads; the results must be the same bytes.
"""

import argparse
import json
import math
import os
import random
import struct
import subprocess
import sys

from router_oracle import DEFAULTS, Case, Oracle, f32, logsumexp, refusal, sigmoid, softmax
from router_oracle import uses_sigmoid

POLICIES = list(DEFAULTS)
PRIORITIES = ["", "max", "position", "random", "score"]
WEIGHTS = ["", "p", "topk_softmax", "normalized"]
LOGITS = "normal zipf one_expert ties equal twins eighty denormal underflow recorded".split()
LEDGER = (
    "tokens choices slots routed overflow filled padded rescued rectified dropped rect_tokens "
    "rect_rows unserved sent_rows"
).split()
ERR_ARGUMENT, ERR_NUMERIC = 1, 9


class Wrong(Exception):
    pass


# ---- cases


def recorded_rows():
    """The shipped recording: gate logits of all steps and layers, one row per token."""
    path = os.path.join(os.path.dirname(__file__), "..", "data", "routing.safetensors")
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + struct.unpack_from("<Q", data)[0]
    rows = []
    for name, tensor in json.loads(data[8:start]).items():
        if name.endswith(".logits"):
            experts, (first, end) = tensor["shape"][-1], tensor["data_offsets"]
            values = struct.unpack(f"<{(end - first) // 4}f", data[start + first : start + end])
            rows += [values[i : i + experts] for i in range(0, len(values), experts)]
    return rows


RECORDED = recorded_rows()


def draw_logits(r, kind, case):
    T, E = case.tokens, case.experts
    favourite, shift = r.randrange(E), r.randrange(E)
    edge = (700, 745) if case.double else (80, 104)
    rows, first = [], r.randrange(len(RECORDED))
    for t in range(T):
        row = [r.gauss(0, 1) for _ in range(E)]
        if kind == "zipf":
            row = [0.5 * x - 1.5 * math.log(1 + (e + shift) % E) for e, x in enumerate(row)]
        elif kind == "one_expert":
            row[favourite] += 12
        elif kind == "ties":
            row = [float(round(x)) for x in row]
        elif kind == "equal":
            row = [0.0] * E
        elif kind == "twins" and t % 2:
            row = list(rows[-1])
        elif kind == "eighty":
            row = [80.0 * r.choice((-1, 0, 1)) + r.choice((0.0, x)) for x in row]
        elif kind == "denormal":
            row = [x * (1e-310 if case.double else 1e-41) for x in row]
        elif kind == "underflow":  # scores that are denormal or 0
            row = [x - r.choice((0, 0, r.uniform(*edge), 2000)) for x in row]
        elif kind == "recorded":  # consecutive tokens; more experts than recorded repeat with noise
            real = RECORDED[(first + t) % len(RECORDED)]
            noise = [0.01 * x if e >= len(real) else 0.0 for e, x in enumerate(row)]
            row = [real[e % len(real)] + x for e, x in enumerate(noise)]
        rows.append(row)
    return rows if case.double else [[f32(x) for x in row] for row in rows]


def divisor(r, n):
    return r.choice([d for d in range(1, n + 1) if n % d == 0])


def draw_options(r, case):
    E = case.experts
    default_k, only, *_ = DEFAULTS[case.policy]
    if not only and r.random() < 0.85:
        case.k = r.choice((1, 1, 2, 2, 3, 4, E, r.randint(1, E)))
        case.k = min(case.k, E)
    k = case.k or min(default_k, E)
    case.capacity_factor = r.choice((0, 0, 1e-9, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, math.inf))
    case.capacity_factor_max = r.choice((0, 0, math.inf))
    if case.capacity_factor_max:
        case.call_capacity_factor = r.choice((0, r.uniform(0.1, 3)))
    case.min_capacity = r.choice((0, 0, 0, 0, 1, 3, 9))
    case.weight = r.choice(WEIGHTS)
    case.attached = r.choice((0, 0, 1, -1))
    case.balance_coef = r.choice((0, 0.3))
    case.z_coef = r.choice((0, 0.1))
    if case.policy not in ("expert_choice", "expanded_drop"):
        if case.policy != "random":
            case.priority = r.choice(PRIORITIES)
        case.fill = r.random() < 0.65
        case.rectify = r.random() < 0.65
        if k < E and r.random() < 0.3:
            case.fill_rank = r.randint(k + 1, E)
    if case.policy in ("expert_choice", "sinkhorn", "deepseek_v3"):
        case.weight = r.choice(("", "p", "normalized"))
    case.fill_key = r.choice(("next", "max"))
    case.ir_tokens = r.choice(("auto", "none_left", "any_lost"))
    case.ir_exclude = r.random() < 0.5
    case.ir_capacity = r.choice((0, 0, 1, 2, 5))
    case.ir_scope = r.choice((0, divisor(r, E // case.per_domain)))
    case.ir_scale = r.choice(("k", "k_gate"))
    case.skip_fill = r.random() < 0.1
    case.skip_rectify = r.random() < 0.1
    if case.policy == "sinkhorn":
        case.sinkhorn_iterations = r.choice((0, 1, 3, 20))
        case.sinkhorn_tolerance = r.choice((0, 1e-9, 0.03, 0.1, 0.3))
    if case.policy == "deepseek_v3":
        draw_deepseek(r, case, k)


def draw_deepseek(r, case, k):
    E = case.experts
    case.group_count = r.choice((0, divisor(r, E)))
    groups = case.group_count or 1
    least = -(-k // (E // groups))
    case.group_topk = r.choice((0, r.randint(least, groups)))
    case.route_scale = r.choice((0, 1, 2.5))
    if r.random() < 0.7:
        base = r.choice((0, 0, 0, 1e7))  # large: sums round to ties in single precision
        case.bias = [base + r.choice((0, r.gauss(0, 0.3), round(r.gauss(0, 1)))) for _ in range(E)]
        case.bias = [f32(b) for b in case.bias]
    case.load = [r.choice((0, 5, r.randrange(100))) for _ in range(E)]
    case.gamma = r.choice((0, 0.001, 0.5))


def spoil(r, case):
    """Something that must be refused. Whether it is, the oracle says."""
    what = r.randrange(7)
    if what == 0:
        case.fill = True
    elif what == 1:
        case.rectify = True
    elif what == 2 and case.policy != "deepseek_v3":
        case.group_count = 1
    elif what == 3:
        case.sinkhorn_iterations = 3
    elif what == 4:
        case.priority = "max"
    elif what == 5:
        case.weight = "topk_softmax"
    elif what == 6:
        case.k = case.experts + 1
    case.fill_rank = 0


def draw_case(seed, index, large):
    r = random.Random(f"{seed} {index}")
    T = r.choice((0, 1, 1, 2, 3, 5, 8, 13, 13, 20, 30))
    E = r.choice((1, 2, 3, 4, 4, 6, 8, 8, 12))
    if large:
        T, E = r.choice((150, 400, 700)), r.choice((37, 40))
    policy = POLICIES[index % len(POLICIES)]
    if policy == "gshard":
        E = max(E, 2)
    case = Case(T, E, divisor(r, E), [], double=r.random() < 0.5, policy=policy)
    draw_options(r, case)
    case.domain = r.randrange(100)
    case.first_local = case.per_domain * r.randrange(E // case.per_domain)
    case.seed = r.getrandbits(64)
    case.step = r.randrange(1000)
    case.layer = r.randrange(5)
    case.aux_scale = r.choice((1, 0.25))
    kind = r.choice(LOGITS)
    case.logits = draw_logits(r, kind, case)
    case.a = [[r.gauss(0, 1) for _ in range(E)] for _ in range(T)]
    if not case.double:
        case.a = [[f32(x) for x in row] for row in case.a]
    if r.random() < 0.2:
        case.fraction = [r.random() for _ in range(E)]
    if r.random() < 0.02:
        spoil(r, case)
    if T and r.random() < 0.01:
        case.logits[r.randrange(T)][r.randrange(E)] = r.choice((math.nan, math.inf, -math.inf))
        kind = "not_finite"
    return case, kind


# ---- to the router and back


def pack_case(c):
    ints = [2 if c.double else 0, c.tokens, c.experts, c.per_domain, POLICIES.index(c.policy), c.k]
    ints += [c.min_capacity, PRIORITIES.index(c.priority), c.fill, c.fill_key == "max", c.fill_rank]
    ints += [c.rectify, ("auto", "none_left", "any_lost").index(c.ir_tokens), c.ir_exclude]
    ints += [c.ir_capacity, c.ir_scope, c.ir_scale == "k_gate", WEIGHTS.index(c.weight), c.attached]
    ints += [c.group_count, c.group_topk, c.sinkhorn_iterations, c.domain, c.first_local]
    ints += [c.seed - (c.seed >> 63 << 64), c.step, c.layer, c.skip_fill, c.skip_rectify]
    ints += [c.bias is not None, c.fraction is not None, c.load is not None]
    reals = [c.capacity_factor, c.capacity_factor_max, c.call_capacity_factor, c.balance_coef]
    reals += [c.z_coef, c.route_scale, c.sinkhorn_tolerance, c.aux_scale, c.gamma]
    zeros = [0] * c.experts
    for row in c.logits + c.a:
        reals += row
    reals += (c.bias or zeros) + (c.fraction or zeros)
    load = c.load or zeros
    return struct.pack(f"<{len(ints)}q{len(reals)}d{len(load)}q", *ints, *reals, *load)


class Result:
    """What the router said about one case, read from `data` at `at`."""

    def __init__(self, data, at, case):
        self.data, self.at = data, at
        T, E = case.tokens, case.experts
        self.status = self.int()
        if self.status:
            length = self.int()
            self.message = bytes(data[self.at : self.at + length]).decode()
            self.at += length
            return
        self.k, self.capacity, routes, rects, entries = self.ints(5)
        self.expert_offset = self.ints(E + 1)
        self.route_token = self.ints(routes)
        self.route_kind = self.ints(routes)
        self.route_choice = self.ints(routes)
        self.rect_offset = self.ints(E + 1)
        self.rect_token = self.ints(rects)
        self.token_offset = self.ints(T + 1)
        self.token_expert = self.ints(entries)
        self.token_route = self.ints(entries)
        self.token_rect = self.ints(T)
        self.token_h = self.ints(T)
        self.token_m = self.ints(T)
        self.choice_count = self.ints(E)
        self.ledger = self.ints(len(LEDGER))
        self.route_weight = self.reals(routes)
        self.rect_weight = self.reals(rects)
        self.scores = [self.reals(E) for _ in range(T)]
        self.softmax = [self.reals(E) for _ in range(T)]
        self.lse = self.reals(T)
        self.token_scale = self.reals(T)
        self.score_mean = self.reals(E)
        self.fraction = self.reals(E)
        self.balance_loss, self.z_loss = self.reals(2)
        self.gradient_status = self.int()
        self.gradient = [self.reals(E) for _ in range(T)]
        self.bias_status = self.int()
        self.bias = self.reals(E)
        self.routes_max, self.rect_max, self.token_routes_max = self.ints(3)

    def take(self, kind, count):
        values = struct.unpack_from(f"<{count}{kind}", self.data, self.at)
        self.at += 8 * count
        return list(values)

    def ints(self, count):
        return self.take("q", count)

    def reals(self, count):
        return self.take("d", count)

    def int(self):
        return self.ints(1)[0]


# ---- comparison


def equal(what, found, expected):
    if found != expected:
        raise Wrong(f"{what} is {found}, expected {expected}")


def near(what, found, expected, tolerance):
    if not abs(found - expected) <= tolerance * max(1, abs(expected)):
        raise Wrong(f"{what} is {found!r}, expected {expected!r} within {tolerance}")


def near_all(what, found, expected, tolerance):
    equal(f"length of {what}", len(found), len(expected))
    for i, (x, y) in enumerate(zip(found, expected)):
        near(f"{what}[{i}]", x, y, tolerance)


def check_scores(case, result):
    tolerance = 1e-13 if case.double else 1e-6
    for t, logits in enumerate(case.logits):
        near_all(f"softmax[{t}]", result.softmax[t], softmax(logits), tolerance)
        near(f"lse[{t}]", result.lse[t], logsumexp(logits), tolerance)
        if uses_sigmoid(case):
            near_all(f"scores[{t}]", result.scores[t], [sigmoid(x) for x in logits], tolerance)
        else:
            equal(f"scores[{t}]", result.scores[t], result.softmax[t])
    z = [logsumexp(logits) ** 2 / case.tokens for logits in case.logits]
    near("z_loss", result.z_loss, sum(z), 1e-12 if case.double else 1e-5)


def check_plan(case, oracle, result):
    tolerance = 1e-12 if case.double else 1e-6
    equal("k", result.k, oracle.k)
    equal("capacity", result.capacity, oracle.capacity)
    equal("choice_count", result.choice_count, oracle.choice_count)
    tokens, kinds, choices, weights, offset = [], [], [], [], [0]
    route_of = {}
    for e, slots in enumerate(oracle.slots):
        for t, entry in slots:
            route_of[t, entry] = len(tokens)
            tokens.append(t)
            kinds.append(0 if entry < oracle.k else 1)
            choices.append(entry)
            weights.append(oracle.w[t][e])
        offset.append(len(tokens))
    equal("expert_offset", result.expert_offset, offset)
    equal("route_token", result.route_token, tokens)
    equal("route_kind", result.route_kind, kinds)
    equal("route_choice", result.route_choice, choices)
    near_all("route_weight", result.route_weight, weights, tolerance)
    experts, routes, offset = [], [], [0]
    for t, entries in enumerate(oracle.entries):
        for entry, e in enumerate(entries):
            experts.append(-1 if e is None else e)
            missing = -2 if (t, entry) in oracle.declined else -1
            routes.append(route_of.get((t, entry), missing))
        offset.append(len(experts))
    equal("token_offset", result.token_offset, offset)
    equal("token_expert", result.token_expert, experts)
    equal("token_route", result.token_route, routes)


def check_rows(case, oracle, result):
    tolerance = 1e-12 if case.double else 1e-6
    tokens, weights, offset, index = [], [], [0], [-1] * case.tokens
    for e in range(case.experts):
        for t in range(case.tokens):
            if oracle.row[t] and oracle.h[t] == e:
                index[t] = len(tokens)
                tokens.append(t)
                weights.append(oracle.w[t][e])
        offset.append(len(tokens))
    equal("rect_offset", result.rect_offset, offset)
    equal("rect_token", result.rect_token, tokens)
    equal("token_rect", result.token_rect, index)
    equal("token_h", result.token_h, oracle.h)
    equal("token_m", result.token_m, oracle.m)
    near_all("rect_weight", result.rect_weight, weights, tolerance)
    near_all("token_scale", result.token_scale, oracle.divisor, tolerance)


def check_rest(case, oracle, result):
    for name, found, expected in zip(LEDGER, result.ledger, oracle.ledger()):
        equal(f"ledger {name}", found, expected)
    near_all("score_mean", result.score_mean, oracle.score_mean(), 1e-12)
    near_all("balance_fraction", result.fraction, oracle.fraction(), 1e-15)
    near("balance_loss", result.balance_loss, oracle.balance_loss(), 1e-12)
    equal("status of backward", result.gradient_status, 0)
    for t, row in enumerate(oracle.gradient()):
        size = sum(abs(w * case.a[t][e]) for e, w in oracle.w[t].items())  # of what cancels
        tolerance = (1e-9 if case.double else 1e-5) * max(1, size)
        near_all(f"gradient[{t}]", result.gradient[t], row, tolerance)
    equal("status of the bias", result.bias_status, 0)
    if case.load is not None:
        equal("bias", result.bias, oracle.stepped_bias())
    for what, found, most in (
        ("routes", len(result.route_token), result.routes_max),
        ("rows", len(result.rect_token), result.rect_max),
        ("routes of a token", max(map(len, oracle.served), default=0), result.token_routes_max),
    ):
        if found > most:
            raise Wrong(f"{found} {what}, but the bound is {most}")


def check_case(case, result):
    """The ledger of a case that was routed; raises Wrong."""
    option = refusal(case)
    if option:
        equal("status", result.status, ERR_ARGUMENT)
        if f"router option {option} is" not in result.message:
            raise Wrong(f'the message "{result.message}" does not name {option}')
        return None
    bad = [(t, e) for t, row in enumerate(case.logits) for e, x in enumerate(row)
           if not math.isfinite(x)]
    if bad:
        equal("status", result.status, ERR_NUMERIC)
        place = f"domain {case.domain}, layer {case.layer}, token {bad[0][0]}, expert {bad[0][1]}:"
        if place not in result.message:
            raise Wrong(f'the message "{result.message}" does not name {place}')
        return None
    if result.status:
        raise Wrong(f"refused with status {result.status}: {result.message}")
    check_scores(case, result)
    oracle = Oracle(case, result.scores, result.softmax)
    check_plan(case, oracle, result)
    check_rows(case, oracle, result)
    check_rest(case, oracle, result)
    return result.ledger


# ---- what the cases reached: they must not miss anything that the test promises


class Reach:
    def __init__(self):
        self.seen = {}

    def count(self, what, times=1):
        self.seen[what] = self.seen.get(what, 0) + times

    def note(self, case, kind, result, ledger):
        self.count(f"logits {kind}")
        if ledger is None:
            self.count("refused" if result.status == ERR_ARGUMENT else "not finite")
            return
        self.count(f"policy {case.policy}")
        for name, value in zip(LEDGER, ledger):
            self.count(f"ledger {name}", value)
        for what, true in {
            "L = 1": case.per_domain == 1,
            "E = 1": case.experts == 1,
            "T = 0": case.tokens == 0,
            "T = 1": case.tokens == 1,
            "C = 0": result.capacity == 0 < case.tokens,
            "C = T": result.capacity == case.tokens > 0,
            "k = E": result.k == case.experts,
            "declined": -2 in result.token_route,
            "underflowed divisor": 0 in result.token_scale,
        }.items():
            self.count(what, true)

    def check(self):
        wanted = [f"policy {name}" for name in POLICIES] + [f"logits {name}" for name in LOGITS]
        wanted += [f"ledger {name}" for name in LEDGER if name != "sent_rows"]
        wanted += "refused,not finite,L = 1,E = 1,T = 0,T = 1,C = 0,C = T,k = E".split(",")
        wanted += "declined,underflowed divisor".split(",")
        for what in wanted:
            if self.seen.get(what, 0) < 50:
                raise Wrong(f'the cases reach "{what}" only {self.seen.get(what, 0)} times')


def run(program, threads, data):
    return subprocess.run([program, str(threads)], input=data, stdout=subprocess.PIPE, check=True
                          ).stdout


def test(program, seed, indices, large, reach):
    made = [draw_case(seed, i, large) for i in indices]
    data = b"".join(pack_case(case) for case, _ in made)
    results = run(program, 1, data)
    if run(program, 3, data) != results:
        raise Wrong(f"seed {seed}, cases {indices}: the results depend on the number of threads")
    at = 0
    for index, (case, kind) in zip(indices, made):
        result = Result(results, at, case)
        at = result.at
        try:
            reach.note(case, kind, result, check_case(case, result))
        except Wrong as wrong:
            text = {k: v for k, v in vars(case).items() if k not in ("logits", "a")}
            raise Wrong(f"seed {seed}, case {index} ({kind} logits): {wrong}\n{text}") from None
    equal("bytes of results", len(results), at)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--cases", type=int, default=30000)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--only", type=int)
    parser.add_argument("--large", action="store_true")
    o = parser.parse_args()
    names = run(o.program, "--policies", b"").decode().split()
    equal("policies", names, POLICIES)
    drawn = random.SystemRandom().getrandbits(32) if o.seed is None else o.seed
    print(f"random seed {drawn}", flush=True)
    reach = Reach()
    if o.only is not None:
        test(o.program, drawn, [o.only], o.large, reach)
        print("ok")
        return
    parts = [(1, o.cases * 2 // 3, False), (drawn, o.cases // 3, False), (2, 18, True)]
    for seed, count, large in parts:
        step = 6 if large else 300
        for first in range(0, count, step):
            test(o.program, seed, range(first, min(first + step, count)), large, reach)
    if o.cases >= 10000:
        reach.check()
    print(f"{sum(count for _, count, _ in parts)} cases agree: ok")


if __name__ == "__main__":
    try:
        main()
    except Wrong as wrong:
        sys.exit(f"wrong: {wrong}")
