"""torch_block.py: outputs and all gradients of gleaner_torch.MixtralMoE against torch's own autograd through the Mixtral block, within 1e-5; on one
rank or under mpirun. With --transformers against transformers' block instead of the one written here."""
import sys

import torch

from gleaner_torch import Comm, MixtralMoE, block_weights

TOKENS, HIDDEN, F, EXPERTS, K = 96, 32, 48, 8, 2


class Block(torch.nn.Module):
    """y_t = sum over the k best experts of p_e / (sum of their p) * W2 (silu(W1 x) * W3 x), p = softmax(Wg x)."""

    def __init__(self):
        super().__init__()
        self.top_k = K
        self.gate = torch.nn.Linear(HIDDEN, EXPERTS, bias=False)
        self.experts = torch.nn.ModuleList()
        for _ in range(EXPERTS):
            expert = torch.nn.Module()
            expert.w1, expert.w3 = (torch.nn.Linear(HIDDEN, F, bias=False) for _ in range(2))
            expert.w2 = torch.nn.Linear(F, HIDDEN, bias=False)
            self.experts.append(expert)

    def forward(self, x):
        best, index = torch.softmax(self.gate(x), -1).topk(K, -1)
        best = best / best.sum(-1, keepdim=True)
        y = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            row, choice = torch.where(index == e)
            out = expert.w2(torch.nn.functional.silu(expert.w1(x[row])) * expert.w3(x[row]))
            y = y.index_add(0, row, out * best[row, choice, None])
        return y


def transformers_block():
    import transformers
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    if comm.rank == 0:
        print("transformers", transformers.__version__)
    block = MixtralSparseMoeBlock(transformers.MixtralConfig(hidden_size=HIDDEN, intermediate_size=F, num_local_experts=EXPERTS,
                                                            num_experts_per_tok=K))
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return block


def gradients(block):
    """In the library's layout: gate [H, E], gate_up [E, H, 2F], down [E, F, H]."""
    if hasattr(block.experts, "gate_up_proj"):
        gate_up, down = block.experts.gate_up_proj.grad, block.experts.down_proj.grad
    else:
        gate_up = torch.stack([torch.cat([e.w1.weight.grad, e.w3.weight.grad]) for e in block.experts])
        down = torch.stack([e.w2.weight.grad for e in block.experts])
    return block.gate.weight.grad.t(), gate_up.transpose(1, 2), down.transpose(1, 2)


def compare(what, found, wanted):
    worst = (found - wanted).abs().max().item()
    size = wanted.abs().max().item()
    if comm.rank == 0:
        print(f"{what}: largest difference {worst:.2g}, largest value {size:.2g}")
    if not worst <= 1e-5 * max(1, size) or size == 0:
        sys.exit(f"FAILED: {what}")


torch.manual_seed(3)
torch.set_num_threads(1)
comm = Comm()
block = transformers_block() if "--transformers" in sys.argv else Block()
xs, dys = torch.randn(2, comm.size, TOKENS, HIDDEN)
layer = MixtralMoE.from_block(block, TOKENS, comm)
x = xs[comm.rank].clone().requires_grad_()
y = layer(x.view(4, TOKENS // 4, HIDDEN)).view(TOKENS, HIDDEN)
y.backward(dys[comm.rank])

whole = xs.flatten(0, 1).clone().requires_grad_()  # all ranks' rows in one
wanted = block(whole.unsqueeze(0) if "--transformers" in sys.argv else whole).view_as(whole)
wanted.backward(dys.flatten(0, 1))
mine = slice(comm.rank * TOKENS, (comm.rank + 1) * TOKENS)
local = layer.down.shape[0]
held = slice(comm.rank * local, (comm.rank + 1) * local)
gate, gate_up, down = gradients(block)
compare("output", y.detach(), wanted.detach()[mine])
compare("gradient of the input", x.grad, whole.grad[mine])
compare("gradient of the gate", layer.gate.grad, gate)
compare("gradient of gate and up", layer.gate_up.grad, gate_up[held])
compare("gradient of down", layer.down.grad, down[held])

# an optimizer's step is seen by the library; calls out of order and wrong shapes are told, on every rank alike
with torch.no_grad():
    for p in layer.parameters():
        p.mul_(0.5)
first, second = layer(x), layer(x)
if torch.equal(first, y):
    sys.exit("FAILED: the library does not see new weights")
for what, call in (("old backward", lambda: first.sum().backward()), ("rows", lambda: layer(x[1:])), ("type", lambda: layer(x.double()))):
    try:
        call()
        sys.exit(f"FAILED: {what}: nothing was said")
    except (RuntimeError, ValueError) as error:
        if "gleaner" not in str(error):
            sys.exit(f"FAILED: {what}: {error}")
second.sum().backward()
layer.close()
comm.close()
if comm.rank == 0:
    print("ok")
