"""What the ops do beneath the dispatcher: the torch ops that a CUDA graph would capture, or could not."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from triton_bilinear import use_backend
from triton_bilinear.ops.library import KERNELS

# For each op the shapes of its tensors, then its options.
CALLS = {
    "contract": ((40, 24), (40, 16), (32, 24, 16), (32,), -1),
    "contract_keep": ((40, 24), (40, 16), (1, 24, 16), (1,), -1),
    "grad_inputs": ((40, 32), (40, 24), (40, 16), (32, 24, 16), -1),
    "grad_weight": ((40, 32), (40, 24), (40, 16), -1),
    "pairwise": ((2, 20, 24), (2, 20, 16), (8, 24, 16), (8,)),
    "pairwise_grad_x": ((2, 8, 20, 20), (2, 20, 16), (8, 24, 16)),
    "pairwise_grad_weight": ((2, 8, 20, 20), (2, 20, 24), (2, 20, 16)),
}


class Recorder(TorchDispatchMode):
    """Notes every torch op."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[torch._ops.OpOverload] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(func)
        return func(*args, **(kwargs or {}))


def ops_beneath(name: str, backend: str, value: float) -> list[torch._ops.OpOverload]:
    """The torch ops of one call, all of whose inputs are filled with `value`."""
    kernel = KERNELS[getattr(torch.ops.triton_bilinear, name).default]
    args = [torch.full(arg, value) if isinstance(arg, tuple) else arg for arg in CALLS[name]]
    with use_backend(backend), Recorder() as recorder:
        kernel(*args)
    return recorder.ops


def computing_ops(name: str, value: float) -> list[str]:
    """The torch ops of a call of Triton's kernels other than views and allocations."""
    allocations = (torch.ops.aten.empty.memory_format, torch.ops.aten.new_empty.default)
    return [str(op) for op in ops_beneath(name, "triton", value) if not (op.is_view or op in allocations)]


def triton_path() -> dict[str, list[str]]:
    """For the stand-in driver: every op twice, with other values; what it computes beside its launches."""
    return {name: computing_ops(name, 1.0) + computing_ops(name, float("nan")) for name in CALLS}
