"""The router once more, as slowly and as plainly as it can be said.

Written from the definition of the rectify-router (arXiv 2402.12399 as router/README.md states it) and
from the papers of the other policies, sentence by sentence; it shares nothing with router/. Standard
library only. The oracle decides on scores that it is given, so that it can be held against scores
rounded in any way; `softmax` and `sigmoid` say what those scores should be.

    plan = Oracle(case, scores, softmax)   # case: a Case, scores and softmax: T rows of E numbers
    plan.slots[e]          tokens that expert e serves, in slot order, as (token, entry of the token)
    plan.gradient(a)       dL/dlogits, with a[t][e] = <dL/dy_t, E_e(x_t)>
"""

import math
import struct
from dataclasses import dataclass, field

# ---- random numbers: Philox4x32-10 (Salmon et al., SC 2011), constants of the Random123 distribution

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF


def philox(counter, key):
    """128 random bits, as two numbers of 64, for a counter of two such numbers and a key of one."""
    c = [counter[0] & MASK32, counter[0] >> 32, counter[1] & MASK32, counter[1] >> 32]
    k = [key & MASK32, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK32, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK32]
        k = [(k[0] + 0x9E3779B9) & MASK32, (k[1] + 0xBB67AE85) & MASK32]
    return c[0] | c[1] << 32, c[2] | c[3] << 32


def draw(seed, step, layer, index):
    """The router's 64 random bits number `index` of a step and a layer."""
    stream = philox((step, layer), 0x676C65616E657203)[0]  # "gleaner", 3: the router's
    return philox((index, stream), seed)[0]


def f32(x):
    """x rounded to single precision."""
    return struct.unpack("f", struct.pack("f", x))[0]


# ---- scores


def softmax(logits):
    largest = max(logits)
    powers = [math.exp(x - largest) for x in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def logsumexp(logits):
    largest = max(logits)
    return largest + math.log(math.fsum(math.exp(x - largest) for x in logits))


def sigmoid(x):
    try:
        return 1 / (1 + math.exp(-x))
    except OverflowError:
        return 0.0


# ---- what a case is, and what its policy makes of options that were left alone

SCORE, MAX, POSITION, RANDOM = "score", "max", "position", "random"
NORMALIZED, P, TOPK = "normalized", "p", "topk_softmax"

#            default k, is it the only one, capacity factor, priority, weight, divisor has a gradient
DEFAULTS = {
    "topk": (1, False, 1.0, SCORE, NORMALIZED, False),
    "switch": (1, True, 1.0, POSITION, P, False),
    "gshard": (2, True, 1.0, POSITION, TOPK, True),
    "mixtral": (2, False, math.inf, SCORE, TOPK, True),
    "expert_choice": (1, False, 1.0, SCORE, P, False),
    "sinkhorn": (1, False, 1.0, SCORE, P, False),
    "deepseek_v3": (8, False, math.inf, SCORE, NORMALIZED, True),
    "expanded_drop": (1, False, 1.0, SCORE, NORMALIZED, False),
    "random": (1, False, 1.0, RANDOM, NORMALIZED, False),
}


@dataclass
class Case:
    """0, "" and None stand for what was left alone."""

    tokens: int
    experts: int
    per_domain: int
    logits: list  # [T][E]
    double: bool = False  # type of logits, scores and weights: double or single precision
    policy: str = "topk"
    k: int = 0
    capacity_factor: float = 0.0
    capacity_factor_max: float = 0.0
    min_capacity: int = 0
    priority: str = ""
    fill: bool = False
    fill_key: str = "next"
    fill_rank: int = 0
    rectify: bool = False
    ir_tokens: str = "auto"
    ir_exclude: bool = False
    ir_capacity: int = 0
    ir_scope: int = 0
    ir_scale: str = "k"
    weight: str = ""
    attached: int = 0
    group_count: int = 0
    group_topk: int = 0
    route_scale: float = 0.0
    sinkhorn_iterations: int = 0
    sinkhorn_tolerance: float = 0.0
    balance_coef: float = 0.0
    z_coef: float = 0.0
    domain: int = 0
    first_local: int = 0
    seed: int = 0
    step: int = 0
    layer: int = 0
    call_capacity_factor: float = 0.0
    skip_fill: bool = False
    skip_rectify: bool = False
    aux_scale: float = 1.0
    gamma: float = 0.0
    bias: list = None  # [E]
    fraction: list = None  # [E]
    load: list = None  # [E]
    a: list = field(default_factory=list)  # [T][E]


def resolved_k(case):
    k, only, *_ = DEFAULTS[case.policy]
    if case.k:
        return case.k
    return k if only else min(k, case.experts)


def uses_sigmoid(case):
    return case.policy == "deepseek_v3" or (case.policy == "sinkhorn" and resolved_k(case) == 1)


def refusal(case):
    """The name of an option that the policy must refuse; None if there is none."""
    only = DEFAULTS[case.policy][1]
    if case.policy in ("expert_choice", "expanded_drop"):
        if case.fill:
            return "fill"
        if case.rectify:
            return "rectify"
    if case.policy != "deepseek_v3":
        for name in ("group_count", "group_topk", "route_scale"):
            if getattr(case, name):
                return name
    if case.policy != "sinkhorn":
        for name in ("sinkhorn_iterations", "sinkhorn_tolerance"):
            if getattr(case, name):
                return name
    if case.policy in ("expert_choice", "expanded_drop", "random"):
        if case.priority and case.priority != DEFAULTS[case.policy][3]:
            return "priority"
    if case.policy in ("expert_choice", "sinkhorn", "deepseek_v3") and case.weight == TOPK:
        return "weight"
    k = resolved_k(case)
    if k > case.experts or (only and k != DEFAULTS[case.policy][0]):
        return "k"
    groups = case.group_count or 1
    if k > case.experts // groups * (case.group_topk or groups):
        return "k"
    return None


class Oracle:
    def __init__(self, case, scores, softmaxes):
        self.case = case
        self.T, self.E, self.L = case.tokens, case.experts, case.per_domain
        self.p, self.softmax = scores, softmaxes
        self.k = resolved_k(case)
        default = DEFAULTS[case.policy]
        self.factor = case.call_capacity_factor or case.capacity_factor or default[2]
        self.priority = case.priority or default[3]
        self.weight = case.weight or default[4]
        self.attached = case.attached > 0 if case.attached else default[5]
        self.scale = case.route_scale or 1.0
        self.fill_on = case.fill and not case.skip_fill
        self.rectify_on = case.rectify and not case.skip_rectify
        self.capacity = self.find_capacity()
        self.slots = [[] for _ in range(self.E)]  # [E] of (token, entry)
        self.declined = set()  # (token, entry)
        self.h = [-1] * self.T
        self.m = [0] * self.T
        self.row = [False] * self.T
        if case.policy == "expert_choice":
            self.let_experts_choose()
        elif case.policy == "expanded_drop":
            self.choose()
            self.expand()
        else:
            self.choose()
            if case.policy == "gshard":
                self.decline()
            self.serve()
            if self.fill_on:
                self.fill()
        self.served = [{} for _ in range(self.T)]  # [T] expert -> entry
        for e in range(self.E):
            for t, entry in self.slots[e]:
                self.served[t][e] = entry
        if self.rectify_on:
            self.rectify()
        self.weigh()

    # -- capacity

    def find_capacity(self):
        if self.T == 0:
            return 0
        slots = self.factor * self.k * self.T / self.E
        if slots >= self.T:
            return self.T
        return min(self.T, max(self.case.min_capacity, math.ceil(slots - 1e-6)))

    # -- entries: the experts that a token chose, then those it may get beyond; None: there is none

    def ranking(self, t):
        """Experts that token t may use, best first."""
        keys = self.p[t]
        allowed = range(self.E)
        if self.case.policy == "sinkhorn":
            keys = [self.column[e] * self.softmax[t][e] for e in range(self.E)]
        if self.case.policy == "deepseek_v3":
            bias = self.case.bias or [0.0] * self.E
            exact = self.case.double
            keys = [p + b if exact else f32(p + f32(b)) for p, b in zip(self.p[t], bias)]
            allowed = self.allowed_by_group(keys)
        return sorted(allowed, key=lambda e: (-keys[e], e))

    def allowed_by_group(self, keys):
        groups = self.case.group_count or 1
        chosen = self.case.group_topk or groups
        size = self.E // groups
        values = []
        for g in range(groups):
            best = sorted(keys[g * size : (g + 1) * size], reverse=True)[:2]
            values.append(sum(best) if self.case.double else f32(sum(best)))
        good = sorted(range(groups), key=lambda g: (-values[g], g))[:chosen]
        return [e for e in range(self.E) if e // size in good]

    def balance_columns(self):
        """Sinkhorn: the factor of every expert. Sums over tokens are cut at 128 or T / 64 tokens."""
        limit = self.case.sinkhorn_iterations or 100
        tolerance = self.case.sinkhorn_tolerance or 1e-4
        cut = max(128, -(-(-(-self.T // 64)) // 32) * 32)
        v = [1.0] * self.E
        for _ in range(limit if self.T else 0):
            sums = [0.0] * self.E
            for first in range(0, self.T, cut):
                part = [0.0] * self.E
                for t in range(first, min(first + cut, self.T)):
                    total = 0.0
                    for e in range(self.E):
                        total += v[e] * self.softmax[t][e]
                    u = (1.0 / self.T) / (total + 1e-8)
                    for e in range(self.E):
                        part[e] += u * self.softmax[t][e]
                sums = [s + q for s, q in zip(sums, part)]
            new = [(1.0 / self.E) / (s + 1e-8) for s in sums]
            change = 0.0
            for old, now in zip(v, new):
                change += abs(now - old)
            v = new
            if change / self.E <= tolerance:
                break
        return v

    def choose(self):
        if self.case.policy == "sinkhorn":
            self.column = self.balance_columns()
        self.entries = []
        self.choice_count = [0] * self.E
        for t in range(self.T):
            order = self.ranking(t)
            mine = order[: self.k]
            for e in mine:
                self.choice_count[e] += 1
            if self.case.policy == "expanded_drop":
                first = self.case.first_local
                local = [e for e in range(first, first + self.L) if e not in mine]
                mine = mine + local
                mine += [None] * (self.k + self.L - len(mine))
            else:
                rank = self.case.fill_rank or self.k + 1
                candidate = self.fill_on and rank <= len(order)
                mine = mine + [order[rank - 1] if candidate else None]
            self.entries.append(mine)

    def decline(self):
        """GShard: the second choice is made with probability min(1, 2 p_2)."""
        for t in range(self.T):
            bits = self.draw(t, 1 << 63)
            second = self.entries[t][1]
            if not (bits >> 11) * 2.0**-53 < min(1.0, 2 * self.p[t][second]):
                self.declined.add((t, 1))

    def draw(self, t, which=0):
        c = self.case
        return draw(c.seed, c.step, c.layer, which | c.domain << 32 | t)

    # -- slots

    def serve(self):
        if self.priority == RANDOM:
            draws = [self.draw(t) for t in range(self.T)]
        for choice in range(self.k):
            for e in range(self.E):
                wanting = [
                    t
                    for t in range(self.T)
                    if self.entries[t][choice] == e and (t, choice) not in self.declined
                ]
                if self.priority == SCORE:
                    wanting.sort(key=lambda t: (-self.p[t][e], t))
                elif self.priority == MAX:
                    wanting.sort(key=lambda t: (-self.p[t][self.entries[t][0]], t))
                elif self.priority == RANDOM:
                    wanting.sort(key=lambda t: (-draws[t], t))
                for t in wanting:
                    if len(self.slots[e]) < self.capacity:
                        self.slots[e].append((t, choice))

    def fill(self):
        for e in range(self.E):
            wanting = [t for t in range(self.T) if self.entries[t][self.k] == e]
            by = {t: e if self.case.fill_key == "next" else self.entries[t][0] for t in wanting}
            wanting.sort(key=lambda t: (-self.p[t][by[t]], t))
            for t in wanting:
                if len(self.slots[e]) < self.capacity:
                    self.slots[e].append((t, self.k))

    def expand(self):
        for e in range(self.E):
            wanting = [t for t in range(self.T) if e in self.entries[t]]
            wanting.sort(key=lambda t: (-self.p[t][e], t))
            for t in wanting[: self.capacity]:
                self.slots[e].append((t, self.entries[t].index(e)))

    def let_experts_choose(self):
        taken = []
        for e in range(self.E):
            order = sorted(range(self.T), key=lambda t: (-self.p[t][e], t))
            taken.append(order[: self.capacity])
        self.choice_count = [self.capacity] * self.E
        self.entries = []
        for t in range(self.T):
            mine = [e for e in range(self.E) if t in taken[e]]
            self.entries.append(sorted(mine, key=lambda e: (-self.p[t][e], e)))
        for e in range(self.E):
            self.slots[e] = [(t, self.entries[t].index(e)) for t in taken[e]]

    # -- rectification

    def rectify(self):
        case = self.case
        none_left = case.ir_tokens == "none_left" or (case.ir_tokens == "auto" and self.k == 1)
        wanted = self.k + 1 if case.ir_scale == "k_gate" and self.fill_on else self.k
        reach = self.L * (case.ir_scope or 1)
        near = [e for e in range(self.E) if e // reach == case.first_local // reach]
        for t in range(self.T):
            routes = len(self.served[t])
            short = routes == 0 if none_left else routes < self.k
            allowed = [e for e in near if not (case.ir_exclude and e in self.served[t])]
            if not short or not allowed:
                continue
            self.h[t] = min(allowed, key=lambda e: (-self.p[t][e], e))
            self.m[t] = wanted - routes
            self.row[t] = self.h[t] not in self.served[t]
        if case.ir_capacity:
            for e in near:
                rows = [t for t in range(self.T) if self.row[t] and self.h[t] == e]
                rows.sort(key=lambda t: (-self.p[t][e], t))
                for t in rows[case.ir_capacity :]:
                    self.h[t], self.m[t], self.row[t] = -1, 0, False

    # -- weights: w_j = r c_j p_j / S, c_j how often expert j counts for the token

    def counts(self, t):
        counts = {e: 1 for e in self.served[t]}
        if self.h[t] >= 0:
            counts[self.h[t]] = counts.get(self.h[t], 0) + self.m[t]
        return counts

    def weigh(self):
        self.w = []  # [T] expert -> weight
        self.ratio = []  # [T] expert -> p / S
        self.divisor = []
        for t in range(self.T):
            counts = self.counts(t)
            chosen = self.entries[t][: self.k]
            if self.weight == P:
                divisor = 1.0
            elif self.weight == TOPK:
                divisor = sum(self.p[t][e] for e in chosen)
            else:
                divisor = sum(c * self.p[t][e] for e, c in counts.items())
            known = set(counts) | set(chosen)
            if divisor == 0:  # all of it underflowed: every p counts as one
                ratio = {e: 1 / sum(counts.values()) for e in counts}
            else:
                ratio = {e: self.p[t][e] / divisor for e in known}
            self.divisor.append(divisor)
            self.ratio.append(ratio)
            self.w.append({e: self.scale * c * ratio[e] for e, c in counts.items()})

    # -- what became of every choice and every slot

    def ledger(self):
        count = dict.fromkeys(
            "tokens choices slots routed overflow filled padded rescued rectified dropped "
            "rect_tokens rect_rows unserved sent_rows".split(),
            0,
        )
        count["tokens"] = self.T
        count["choices"] = self.T * self.k
        count["slots"] = self.E * self.capacity
        count["padded"] = sum(self.capacity - len(slots) for slots in self.slots)
        for t in range(self.T):
            routed = sum(1 for entry in self.served[t].values() if entry < self.k)
            filled = len(self.served[t]) - routed
            lost = self.k - routed
            rescued = min(lost, filled)
            count["routed"] += routed
            count["filled"] += filled
            count["overflow"] += lost
            count["rescued"] += rescued
            count["rectified" if self.h[t] >= 0 else "dropped"] += lost - rescued
            count["rect_tokens"] += self.h[t] >= 0
            count["rect_rows"] += self.row[t]
            count["unserved"] += not self.served[t] and self.h[t] < 0
        return list(count.values())

    # -- losses

    def shares(self, t):
        """What P_e is the mean of: p, or its share of the token's sum where p is a sigmoid."""
        if not uses_sigmoid(self.case):
            return self.p[t]
        total = sum(self.p[t])
        return [p / total if total else 0.0 for p in self.p[t]]

    def score_mean(self):
        rows = [self.shares(t) for t in range(self.T)]
        return [sum(row[e] for row in rows) / self.T if self.T else 0.0 for e in range(self.E)]

    def fraction(self):
        if self.case.fraction:
            return self.case.fraction
        total = sum(self.choice_count)
        return [count / total if total else 0.0 for count in self.choice_count]

    def balance_loss(self):
        return self.E * sum(f * p for f, p in zip(self.fraction(), self.score_mean()))

    # -- gradient: L = sum_t sum_j w_j a_j + auxiliary losses, f and (detached) S constant

    def weight_part(self, t):
        """p_i dL/dp_i through the weights, for every expert i."""
        a = self.case.a[t]
        u = [0.0] * self.E
        for e, w in self.w[t].items():
            u[e] += w * a[e]
        if self.attached and self.weight != P:
            y = sum(w * a[e] for e, w in self.w[t].items())
            # dL/dS = - y / S, and dS/dp_i says how often p_i is in S
            within = self.counts(t)
            if self.weight == TOPK:
                within = {e: 1 for e in self.entries[t][: self.k]}
            for e, count in within.items():
                u[e] -= y * count * self.ratio[t][e]
        return u

    def gradient(self):
        case, result = self.case, []
        balance = case.aux_scale * case.balance_coef
        z = case.aux_scale * case.z_coef
        fraction = self.fraction()
        for t in range(self.T):
            p = self.p[t]
            u = self.weight_part(t)
            shares = self.shares(t)
            g = [balance * self.E * f / self.T for f in fraction]  # dL/dshare
            mean = sum(s * x for s, x in zip(shares, g))
            lse = logsumexp(case.logits[t])
            row = []
            total = sum(u)
            for i in range(self.E):
                if uses_sigmoid(case):  # dp_i/dlogit_i = p_i (1 - p_i), share_i = p_i / sum p
                    d = (1 - p[i]) * (u[i] + shares[i] * (g[i] - mean))
                else:  # dp_j/dlogit_i = p_j ((i = j) - p_i)
                    d = u[i] - p[i] * total + p[i] * (g[i] - mean)
                row.append(d + z * 2 * lse / self.T * self.softmax[t][i])
            result.append(row)
        return result

    # -- the bias of DeepSeek-V3 after its step

    def stepped_bias(self):
        bias = [f32(b) for b in self.case.bias or [0.0] * self.E]
        load, gamma = self.case.load, f32(self.case.gamma)
        for e in range(self.E):
            if load[e] * self.E < sum(load):
                bias[e] = f32(bias[e] + gamma)
            if load[e] * self.E > sum(load):
                bias[e] = f32(bias[e] - gamma)
        return bias
