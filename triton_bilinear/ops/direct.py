"""Calls of the ops past torch's dispatcher, where it would lead to nothing but their kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch import _C, Tensor


def _key_set(*names: str) -> _C.DispatchKeySet:
    return reduce(or_, (_C.DispatchKeySet(getattr(_C.DispatchKey, name)) for name in names))


# Tensors of a device and nothing else: no mode, no transform, no subclass stands between autograd and the kernel.
PLAIN = frozenset(_key_set(device).raw_repr() for device in ("CPU", "CUDA", "XPU"))

# The keys of such a tensor in full, and those that a thread adds where no mode is on; outside and in inference mode.
_PLAIN_TENSOR = frozenset(
    _key_set(device, f"Autocast{device}", *recording).raw_repr()
    for device in ("CPU", "CUDA", "XPU")
    for recording in ((), (f"Autograd{device}", "ADInplaceOrView"))
)
_PLAIN_THREAD = frozenset(_key_set("BackendSelect", *more).raw_repr() for more in ((), ("ADInplaceOrView",)))

# For each op, what the dispatcher runs for such tensors; `derivatives` fills it.
DIRECT: dict[torch._ops.OpOverload, Callable[..., Any]] = {}


def call(op: torch._ops.OpOverload, *args: Any) -> Any:
    """`op(*args)`, past the dispatcher where nothing else would act: two passes through it cost what a tiny layer does.

    Dispatch modes, transforms, subclasses, autocast, compilers and torch's profiler see the op as ever.
    """
    return DIRECT[op](*args) if is_plain(*args) and not _C._autograd._profiler_enabled() else op(*args)


def is_plain(*args: Any) -> bool:
    """Whether the tensors among the arguments are plain ones, and nothing would act on an op called with them."""
    if (
        torch.compiler.is_compiling()
        or _C._is_any_autocast_enabled()
        or _C._dispatch_tls_local_include_set().raw_repr() not in _PLAIN_THREAD
    ):
        return False
    return all(not isinstance(arg, Tensor) or _C._dispatch_keys(arg).raw_repr() in _PLAIN_TENSOR for arg in args)
