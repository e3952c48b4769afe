"""A byte-level language model in PyTorch around one gleaner MoE layer per block, data parallel with the experts spread over the ranks:

    mpirun -n 2 python3 examples/torch/train.py [--steps 60] [--file README.md]

GLEANER_LIBRARY names libgleaner.so where the system does not find it (build/libgleaner.so). Prints the loss; exits 1 if it does not fall.
"""
import argparse
import pathlib
import sys

import torch

from gleaner_torch import Comm, MixtralMoE

HIDDEN, LAYERS, EXPERTS, BATCH, SEQUENCE = 64, 2, 8, 8, 32


class Block(torch.nn.Module):
    def __init__(self, comm):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(HIDDEN), torch.nn.LayerNorm(HIDDEN)
        self.attention = torch.nn.MultiheadAttention(HIDDEN, 4, batch_first=True)
        # capacity 1.0 with both rectifications: fixed buffers, no token lost
        self.moe = MixtralMoE(BATCH * SEQUENCE, HIDDEN, 2 * HIDDEN, EXPERTS, k=2, comm=comm, policy="topk", capacity_factor=1.0,
                              fill=True, rectify=True, balance_coef=0.01, threads=1, timeout_ms=60000)

    def forward(self, x, mask):
        h = self.norm1(x)
        x = x + self.attention(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.moe(self.norm2(x))


class Model(torch.nn.Module):
    def __init__(self, comm):
        super().__init__()
        self.embed, self.place = torch.nn.Embedding(256, HIDDEN), torch.nn.Embedding(SEQUENCE, HIDDEN)
        self.blocks = torch.nn.ModuleList(Block(comm) for _ in range(LAYERS))
        self.head = torch.nn.Linear(HIDDEN, 256)

    def forward(self, ids):
        x = self.embed(ids) + self.place.weight
        mask = torch.ones(SEQUENCE, SEQUENCE, dtype=torch.bool).triu(1)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x)


def main():
    here = pathlib.Path(__file__).resolve()
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--file", default=str(here.parents[2] / "README.md"))
    arguments = arguments.parse_args()
    torch.set_num_threads(1)
    comm = Comm()
    torch.manual_seed(1)  # the same dense weights on every rank
    model = Model(comm)
    inside = {id(p) for block in model.blocks for p in block.moe.parameters()}
    dense = [p for p in model.parameters() if id(p) not in inside]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    text = torch.frombuffer(bytearray(pathlib.Path(arguments.file).read_bytes()), dtype=torch.uint8).long()
    random = torch.Generator().manual_seed(100 + comm.rank)  # every rank reads elsewhere
    losses = []
    for step in range(1, arguments.steps + 1):
        start = torch.randint(0, len(text) - SEQUENCE - 1, (BATCH,), generator=random)
        rows = torch.stack([text[i:i + SEQUENCE + 1] for i in start.tolist()])
        loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        for p in dense:
            comm.mean(p.grad)
        for block in model.blocks:  # sums over ranks already
            for p in block.moe.parameters():
                p.grad /= comm.size
        optimizer.step()
        mean = loss.detach().clone()
        comm.mean(mean)
        losses.append(mean.item())
        if comm.rank == 0 and (step == 1 or step % 10 == 0):
            print(f"step {step} loss {losses[-1]:.4f}", flush=True)
    for block in model.blocks:
        block.moe.close()
    comm.close()
    sys.exit(losses[-1] > 0.8 * losses[0])


if __name__ == "__main__":
    main()
