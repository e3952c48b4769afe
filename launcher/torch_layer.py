"""One MoE layer in PyTorch, forward and backward, timed on request: the peer of `gleaner bench layer --against torch`.

The mathematics of the Mixtral block (arXiv 2401.04088): a gate's softmax over E experts, the k largest renormalised, a
SwiGLU per expert, results weighted and summed. Form `loop` runs expert by expert, as most people do: rows selected, three
products, index_add. Form `grouped` sorts rows by expert and multiplies all experts in one call (grouped_mm), where this
PyTorch has it. Weights lie as torch.nn.Linear keeps them.

One request a line on stdin, one answer a line on stdout: `ok ...` or `error TEXT`.
  layer FILE DTYPE T H F E K   FILE: x, dy, gate [H, E], gate_up [E, H, 2F], down [E, F, H], all of DTYPE
                               -> ok VERSION FORM...
  run FORM THREADS             -> ok SECONDS
  compare FORM FILE            FILE: y, dx and the weights' gradients in f32, in the order and layout above
                               -> ok Y DX GATE GATE_UP DOWN: |difference| / |own result|, Euclidean norms
"""
import os
import sys
import time

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a library prints is no answer


def answer(text):
    answers.write(text.replace("\n", " ") + "\n")
    answers.flush()


try:
    import torch
    import torch.nn.functional as F
except Exception as problem:
    answer(f"error {sys.executable} cannot import torch ({problem})")
    sys.exit(1)


def grouped_product():
    return getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def read_tensors(path, dtype, shapes):
    with open(path, "rb") as file:
        whole = torch.frombuffer(bytearray(file.read()), dtype=dtype)
    counts = [torch.Size(shape).numel() for shape in shapes]
    if whole.numel() != sum(counts):
        raise ValueError(f"{path}: expected {sum(counts)} elements, found {whole.numel()}")
    return [part.view(shape) for part, shape in zip(whole.split(counts), shapes)]


class Layer:
    def __init__(self, path, dtype, tokens, hidden, width, experts, k):
        self.k, self.experts = k, experts
        self.shapes = [(tokens, hidden), (tokens, hidden), (hidden, experts), (experts, hidden, 2 * width),
                       (experts, width, hidden)]
        x, self.dy, gate, gate_up, down = read_tensors(path, dtype, self.shapes)
        leaf = lambda t: t.contiguous().clone().requires_grad_()
        self.x = leaf(x)
        self.gate = leaf(gate.t())
        self.w1 = [leaf(gate_up[e, :, :width].t()) for e in range(experts)]
        self.w3 = [leaf(gate_up[e, :, width:].t()) for e in range(experts)]
        self.w2 = [leaf(down[e].t()) for e in range(experts)]
        self.forms = ["loop"]
        self.stacked = None
        if grouped_product():
            self.stacked = [leaf(gate_up.transpose(1, 2)), leaf(down.transpose(1, 2))]
            self.forms.append("grouped")
            try:
                self.step("grouped")
            except Exception as problem:
                print(f"grouped_mm does not run here: {problem}", file=sys.stderr)
                self.forms.pop()

    def leaves(self):
        return [self.x, self.gate, *self.w1, *self.w2, *self.w3, *(self.stacked or [])]

    def choose(self, exact):
        """Weights and experts of every token, [T, k]. exact: logits are not rounded to bf16, so that near ties
        fall as they do elsewhere."""
        if exact:
            logits = F.linear(self.x.float(), self.gate.float())
        else:
            logits = F.linear(self.x, self.gate).float()
        weight, chosen = torch.topk(torch.softmax(logits, dim=1), self.k, dim=1)
        weight = weight / weight.sum(dim=1, keepdim=True)
        return weight.to(self.x.dtype), chosen

    def loop(self, exact):
        weight, chosen = self.choose(exact)
        out = torch.zeros_like(self.x)
        for e in range(self.experts):
            token, slot = torch.where(chosen == e)
            if token.numel() == 0:
                continue
            rows = self.x.index_select(0, token)
            rows = F.silu(F.linear(rows, self.w1[e])) * F.linear(rows, self.w3[e])
            rows = F.linear(rows, self.w2[e]) * weight[token, slot].unsqueeze(1)
            out.index_add_(0, token, rows)
        return out

    def grouped(self, exact):
        product = grouped_product()
        weight, chosen = self.choose(exact)
        route = torch.argsort(chosen.flatten(), stable=True)
        token = torch.div(route, self.k, rounding_mode="floor")
        ends = torch.cumsum(torch.bincount(chosen.flatten(), minlength=self.experts), 0).to(torch.int32)
        rows = self.x.index_select(0, token)
        gate, up = product(rows, self.stacked[0].transpose(1, 2), offs=ends).chunk(2, dim=1)
        rows = product(F.silu(gate) * up, self.stacked[1].transpose(1, 2), offs=ends)
        rows = rows * weight.flatten()[route].unsqueeze(1)
        return torch.zeros_like(self.x).index_add_(0, token, rows)

    def step(self, form, exact=False):
        for leaf in self.leaves():
            leaf.grad = None
        y = getattr(self, form)(exact)
        y.backward(self.dy)
        return y

    def run(self, form, threads):
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        begin = time.perf_counter()
        self.step(form)
        return time.perf_counter() - begin

    def compare(self, form, path):
        theirs = read_tensors(path, torch.float32, self.shapes)
        y = self.step(form, exact=True)
        grad = lambda leaf: leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)
        if form == "grouped":
            gate_up, down = grad(self.stacked[0]), grad(self.stacked[1])
        else:
            gate_up = torch.stack([torch.cat([grad(a), grad(b)]) for a, b in zip(self.w1, self.w3)])
            down = torch.stack([grad(w) for w in self.w2])
        mine = [y, grad(self.x), grad(self.gate).t(), gate_up.transpose(1, 2), down.transpose(1, 2)]
        mine, theirs = [t.detach().double() for t in mine], [t.double() for t in theirs]
        scale = [t.norm().clamp_min(1e-300) for t in mine]
        if self.k == 1:  # a weight of 1 whatever the gate says: its gradient is rounding alone
            scale[2] = scale[1]
        return [float((b - a).norm() / s) for a, b, s in zip(mine, theirs, scale)]


def serve():
    layer = None
    for line in sys.stdin:
        verb, *words = line.split("\t") if "\t" in line else line.split()
        words = [word.strip() for word in words]
        try:
            if verb == "layer":
                dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}[words[1]]
                layer = Layer(words[0], dtype, *map(int, words[2:]))
                answer(" ".join(["ok", torch.__version__, *layer.forms]))
            elif verb == "run":
                answer(f"ok {layer.run(words[0], int(words[1])):.9f}")
            elif verb == "compare":
                answer("ok " + " ".join(f"{d:.3e}" for d in layer.compare(*words)))
            else:
                answer(f"error unknown request {verb}")
        except Exception as problem:
            answer(f"error {type(problem).__name__}: {problem}")


serve()
