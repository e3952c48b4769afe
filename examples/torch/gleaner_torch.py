"""gleaner's MoE layer as a torch.nn.Module, through ctypes: no compile step. It takes the place of the MoE block of a Hugging Face
Mixtral, on one rank or on several, and trains like any other module.

    layer = MixtralMoE.from_block(block, tokens=batch * sequence)      # weights of a transformers block
    layer = MixtralMoE(tokens=1024, hidden=512, expert_hidden=1024, experts=8, comm=mpi_init())

The library is libgleaner.so of this version: in $GLEANER_LIBRARY, or where the system finds it. Numbers are f32 on the CPU.

Weights and the library share memory, so an optimizer's update in place needs no copy. Every forward takes exactly
`tokens` rows. With several ranks each holds experts/P of the experts and brings its own rows; every rank calls forward
and backward in the same order. Gradients of the layer's weights are sums over all ranks.
"""
import ctypes
import math
import os

import torch

_INT, _LONG, _REAL, _PTR = ctypes.c_int, ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
VERSION = "0.1"  # of the library whose structures stand below
POLICIES = ("topk", "switch", "gshard", "mixtral", "expert_choice", "sinkhorn", "deepseek_v3", "expanded_drop", "random")


class _Router(ctypes.Structure):  # gln_router_options_t in router/router.h
    _fields_ = [("policy", _INT), ("k", _INT), ("capacity_factor", _REAL), ("min_capacity", _INT), ("priority", _INT),
                ("fill", _INT), ("fill_key", _INT), ("fill_rank", _INT), ("rectify", _INT), ("ir_tokens", _INT),
                ("ir_exclude", _INT), ("ir_capacity", _LONG), ("ir_scope", _INT), ("ir_scale", _INT), ("weight", _INT),
                ("attached", _INT), ("balance_coef", _REAL), ("z_coef", _REAL), ("group_count", _INT),
                ("group_topk", _INT), ("route_scale", _REAL), ("sinkhorn_iterations", _INT), ("sinkhorn_tolerance", _REAL)]


class _Options(ctypes.Structure):  # gln_moe_options_t in moe/gleaner.h
    _fields_ = [("tokens", _LONG), ("hidden", _LONG), ("expert_hidden", _LONG), ("experts", _INT), ("domains", _INT),
                ("expert_replicas", _INT), ("threads", _INT), ("backend", _INT), ("dtype", _INT), ("seed", ctypes.c_uint64),
                ("router", _Router), ("wire", _INT), ("across", _INT), ("overlap", _INT), ("stages", _INT),
                ("timeout_ms", _LONG)]


class _Tensor(ctypes.Structure):  # gln_tensor_t in base/tensor.h
    _fields_ = [("data", _PTR), ("dtype", _INT), ("dims_count", _INT), ("dims", _LONG * 4)]


def _load():
    lib = ctypes.CDLL(os.environ.get("GLEANER_LIBRARY", f"libgleaner.so.{VERSION}"), mode=ctypes.RTLD_GLOBAL)
    lib.gln_version.restype = lib.gln_last_error.restype = ctypes.c_char_p
    found = lib.gln_version().decode()
    if not found.startswith(VERSION + "."):
        raise ImportError(f"expected libgleaner {VERSION}, found {found}")
    lib.gln_moe_open.argtypes = [ctypes.POINTER(_Options), _PTR, ctypes.POINTER(_PTR)]
    for name in ("close", "zero_grad"):
        getattr(lib, f"gln_moe_{name}").argtypes = [_PTR]
        getattr(lib, f"gln_moe_{name}").restype = None
    lib.gln_moe_forward.argtypes = lib.gln_moe_backward.argtypes = [_PTR, _PTR, _PTR]
    lib.gln_moe_parameter.argtypes = [_PTR, ctypes.c_char_p, ctypes.POINTER(_Tensor), ctypes.POINTER(_Tensor)]
    return lib


_lib = _load()


def _check(status):
    if status != 0:
        raise RuntimeError(f"gleaner: {_lib.gln_last_error().decode()}")


# ---- MPI, as far as an example needs it (Open MPI; with mpi4py pass MPI._addressof(comm) as `comm`) ----------------


class Comm:
    """MPI_COMM_WORLD of Open MPI. `address` is that of the MPI_Comm."""

    def __init__(self):
        self.lib = ctypes.CDLL("libmpi.so", mode=ctypes.RTLD_GLOBAL) if _finds("libmpi.so") else \
            ctypes.CDLL("libmpi.so.40", mode=ctypes.RTLD_GLOBAL)
        provided, rank, size = _INT(), _INT(), _INT()
        if self.lib.MPI_Init_thread(None, None, 1, ctypes.byref(provided)) != 0:  # MPI_THREAD_FUNNELED
            raise RuntimeError("MPI_Init_thread failed")
        self._world = _PTR(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "ompi_mpi_comm_world")))
        self.address = ctypes.addressof(self._world)
        self.lib.MPI_Comm_rank(self._world, ctypes.byref(rank))
        self.lib.MPI_Comm_size(self._world, ctypes.byref(size))
        self.rank, self.size = rank.value, size.value

    def mean(self, tensor):
        """Replace a contiguous f32 tensor by its mean over all ranks."""
        op = _PTR(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "ompi_mpi_op_sum")))
        kind = _PTR(ctypes.addressof(ctypes.c_char.in_dll(self.lib, "ompi_mpi_float")))
        out = torch.empty_like(tensor)
        self.lib.MPI_Allreduce(_PTR(tensor.data_ptr()), _PTR(out.data_ptr()), _INT(tensor.numel()), kind, op, self._world)
        tensor.copy_(out / self.size)

    def close(self):
        self.lib.MPI_Finalize()


def _finds(name):
    try:
        ctypes.CDLL(name)
        return True
    except OSError:
        return False


# ---- the layer ------------------------------------------------------------------------------------------------------


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gate, gate_up, down, layer):
        y = torch.empty_like(x)
        _check(_lib.gln_moe_forward(layer.handle, x.data_ptr(), y.data_ptr()))
        layer.calls += 1
        ctx.layer, ctx.call, ctx.x = layer, layer.calls, x  # the library reads x again in backward
        return y

    @staticmethod
    def backward(ctx, dy):
        layer = ctx.layer
        if ctx.call != layer.calls:
            raise RuntimeError("gleaner: backward belongs to the last forward of a layer; run them in turn, or open a second layer")
        dy = dy.contiguous()
        dx = torch.empty_like(dy)
        _lib.gln_moe_zero_grad(layer.handle)
        _check(_lib.gln_moe_backward(layer.handle, dy.data_ptr(), dx.data_ptr()))
        return dx, *(gradient.clone() for gradient in layer.gradients), None


class MixtralMoE(torch.nn.Module):
    """tokens: rows of each forward call on this rank. comm: address of an MPI_Comm, a Comm, or None for one rank.
    The router defaults to Mixtral's (top-k, no capacity); policy, capacity_factor, fill and rectify choose gleaner's others.
    Parameters: gate [H, E], gate_up [local experts, H, 2F] (gate | up), down [local experts, F, H]."""

    def __init__(self, tokens, hidden, expert_hidden, experts, k=2, *, comm=None, policy="mixtral", capacity_factor=math.inf,
                 fill=False, rectify=False, balance_coef=0.0, z_coef=0.0, threads=0, seed=0, timeout_ms=0):
        super().__init__()
        self.handle = None
        address = comm.address if isinstance(comm, Comm) else comm
        router = _Router(policy=POLICIES.index(policy), k=k, capacity_factor=capacity_factor, fill=fill, rectify=rectify,
                         balance_coef=balance_coef, z_coef=z_coef)
        options = _Options(tokens=tokens, hidden=hidden, expert_hidden=expert_hidden, experts=experts, backend=1, dtype=0,
                           threads=threads or torch.get_num_threads(), seed=seed, router=router, timeout_ms=timeout_ms)
        handle = _PTR()
        _check(_lib.gln_moe_open(ctypes.byref(options), address, ctypes.byref(handle)))
        self.handle, self.rows, self.hidden, self.calls, self.comm = handle, tokens, hidden, 0, comm
        self.gradients = []
        for name in ("gate", "gate_up", "down"):
            weight, gradient = _Tensor(), _Tensor()
            _check(_lib.gln_moe_parameter(handle, name.encode(), ctypes.byref(weight), ctypes.byref(gradient)))
            self.register_parameter(name, torch.nn.Parameter(_view(weight)))
            self.gradients.append(_view(gradient))

    def forward(self, x):
        if x.numel() != self.rows * self.hidden or x.shape[-1] != self.hidden or x.dtype != torch.float32:
            raise ValueError(f"gleaner: expected {self.rows} rows of {self.hidden} in float32, found {tuple(x.shape)} in {x.dtype}")
        rows = x.contiguous().view(self.rows, self.hidden)
        return _Function.apply(rows, self.gate, self.gate_up, self.down, self).view(x.shape)

    def close(self):
        """On every rank, before MPI_Finalize; the parameters are gone after it."""
        if self.handle:
            _lib.gln_moe_close(self.handle)
            self.handle = None

    @classmethod
    def from_block(cls, block, tokens, comm=None, **options):
        """A layer with the weights of a transformers MixtralSparseMoeBlock: of this rank's share of its experts."""
        gate, gate_up, down = block_weights(block)
        experts, hidden = gate.shape
        layer = cls(tokens, hidden, down.shape[2], experts, block.top_k, comm=comm, **options)
        local = layer.down.shape[0]
        first = comm.rank * local if isinstance(comm, Comm) else 0
        if local != experts and not isinstance(comm, Comm):
            raise ValueError("gleaner: from_block needs a Comm to know which experts this rank holds")
        with torch.no_grad():
            layer.gate.copy_(gate.t())
            layer.gate_up.copy_(gate_up[first:first + local].transpose(1, 2))
            layer.down.copy_(down[first:first + local].transpose(1, 2))
        return layer


def block_weights(block):
    """gate [E, H], gate and up [E, 2F, H], down [E, H, F] of a block: transformers 5 keeps experts fused, 4 one by one."""
    experts = block.experts
    if hasattr(experts, "gate_up_proj"):
        return block.gate.weight, experts.gate_up_proj, experts.down_proj
    gate_up = torch.stack([torch.cat([e.w1.weight, e.w3.weight]) for e in experts])
    return block.gate.weight, gate_up, torch.stack([e.w2.weight for e in experts])


def _view(tensor):
    """The library's memory as a torch tensor, without a copy."""
    dims = list(tensor.dims[:tensor.dims_count])
    array = (ctypes.c_float * math.prod(dims)).from_address(tensor.data)
    return torch.frombuffer(array, dtype=torch.float32).view(dims)
