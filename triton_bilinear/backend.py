"""Which implementation of the primitives serves a tensor.

A backend is a module with the functions `contract`, `contract_keep`, `grad_inputs`, `grad_weight`, `pairwise`,
`pairwise_grad_x` and `pairwise_grad_weight`.
The choice is one setting for the whole process, not one per thread: the backward pass of a graph of GPU tensors
runs on threads of autograd's own, which would not see a thread's setting.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from threading import Lock
from types import ModuleType, TracebackType

import torch

BACKENDS = ("auto", "triton", "torch")

# NVIDIA's GPUs from this compute capability have the matrix instructions that Triton compiles products to.
_LEAST_CAPABILITY = (8, 0)

# Those that were entered and not left, by whichever thread: the last one's choice holds.
_entered: list[use_backend] = []
_lock = Lock()


class use_backend:
    """Context manager that chooses the implementation: `"auto"`, `"triton"` or `"torch"`.

    `"auto"` (the default of the process) takes Triton's kernels for tensors on AMD's GPUs and on NVIDIA's from compute
    capability 8.0, where triton is installed, and torch's matrix products for all others. `"triton"` takes the kernels
    for every tensor, on whatever driver Triton has active (its interpreter, for CPU tensors); `"torch"` takes the
    matrix products.

    The setting belongs to the process, not to a thread. Backward, and a compiled function, follow the setting that
    holds while they run; so inside a function for torch.compile it is an error (with fullgraph) or breaks the graph.

    Raises:
        ValueError: for another name.
        ImportError: for `"triton"` where triton is not installed.
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            choices = ", ".join(repr(choice) for choice in BACKENDS)
            raise ValueError(f"use_backend(): unknown backend {name!r}, expected one of {choices}")
        if name == "triton" and not triton_installed():
            raise ImportError(
                "use_backend('triton'): the package `triton` is not installed; install it (pip install triton) or use "
                "the backend 'torch'"
            )
        self.name = name

    def __enter__(self) -> use_backend:
        if torch.compiler.is_compiling():
            raise RuntimeError("use_backend() acts while ops run: enter it around the compiled function, not inside")
        _entered.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            last = max(index for index, entered in enumerate(_entered) if entered is self)
            del _entered[last]


@cache
def triton_installed() -> bool:
    """Whether triton can be imported, found out without importing it."""
    return importlib.util.find_spec("triton") is not None


@cache
def _load(name: str) -> ModuleType:
    return importlib.import_module(f"triton_bilinear.{name}")


def _choice() -> str:
    entered = _entered[-1:]  # at once: another thread may leave the last one
    return entered[0].name if entered else "auto"


def is_automatic() -> bool:
    """Whether nobody has chosen an implementation."""
    return _choice() == "auto"


@cache
def _is_served(device: torch.device) -> bool:
    """Whether Triton's kernels are the better choice for this device; torch calls AMD's GPUs "cuda" too."""
    if device.type != "cuda" or not triton_installed():
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


def primitives(device: torch.device) -> ModuleType:
    """The primitives for tensors of this device, under the current choice."""
    choice = _choice()
    if choice == "triton" or (choice == "auto" and _is_served(device)):
        return _load("gpu")
    return _load("cpu")
