"""The torch ops: their schemas, what they allocate, and the call of the primitives that fill it.

Every op is opaque to torch, has no side effect, returns fresh tensors, and takes arguments that functional.py (or
another op's derivative) has already checked: one dtype, one device, matching sizes, any strides. `feature_dim` counts
from the end, so that it means the same axis when a transform adds axes in front.

Names of sizes: u (*batch, Q), v (*batch, R), weight (P, Q, R); for pairwise x (*batch, S, M), y (*batch, T, N),
weight (L, M, N), g (*batch, L, S, T).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backend import primitives

LIBRARY = torch.library.Library("triton_bilinear", "DEF")

# Each op's kernel, for whoever knows that dispatch would end there.
KERNELS: dict[torch._ops.OpOverload, Callable[..., Any]] = {}

# Strides are served as they come, so a compiler may choose them: it never has to copy for our sake.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)


def resized(like: Tensor, feature_dim: int, size: int) -> Tensor:
    """An empty contiguous tensor shaped as `like` but for `size` features."""
    if feature_dim == -1:
        return like.new_empty((*like.shape[:-1], size))
    shape = list(like.shape)
    shape[feature_dim] = size
    return like.new_empty(shape)


def _last(tensor: Tensor, feature_dim: int) -> Tensor:
    """A view with the features on the last axis."""
    return tensor if feature_dim == -1 else tensor.movedim(feature_dim, -1)


# What each op allocates. The fake kernels are these functions, so real and traced layouts cannot differ.


def _contract_out(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> Tensor:
    return resized(u, feature_dim, weight.shape[0])


def _contract_keep_out(
    u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int
) -> tuple[Tensor, Tensor]:
    out = resized(u, feature_dim, weight.shape[0])
    return out, u.new_empty((*_last(u, feature_dim).shape[:-1], weight.shape[0], weight.shape[2]))


def _grad_inputs_out(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, feature_dim: int) -> tuple[Tensor, Tensor]:
    return g.new_empty(x.shape), g.new_empty(y.shape)


def _grad_weight_out(g: Tensor, x: Tensor, y: Tensor, feature_dim: int) -> Tensor:
    return g.new_empty((g.shape[feature_dim], x.shape[feature_dim], y.shape[feature_dim]))


def pairwise_out(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-2], weight.shape[0], x.shape[-2], y.shape[-2]))


def _pairwise_grad_x_out(g: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return g.new_empty((*g.shape[:-3], g.shape[-2], weight.shape[1]))


def _pairwise_grad_weight_out(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return g.new_empty((g.shape[-3], x.shape[-1], y.shape[-1]))


# The kernels.


def _contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int) -> Tensor:
    out = _contract_out(u, v, weight, bias, feature_dim)
    contract = primitives(u.device).contract
    contract(_last(u, feature_dim), _last(v, feature_dim), weight, bias, _last(out, feature_dim))
    return out


def _contract_keep(
    u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, feature_dim: int
) -> tuple[Tensor, Tensor]:
    out, kept = _contract_keep_out(u, v, weight, bias, feature_dim)
    contract_keep = primitives(u.device).contract_keep
    contract_keep(_last(u, feature_dim), _last(v, feature_dim), weight, bias, _last(out, feature_dim), kept)
    return out, kept


def _grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, feature_dim: int) -> tuple[Tensor, Tensor]:
    out_x, out_y = _grad_inputs_out(g, x, y, weight, feature_dim)
    primitives(g.device).grad_inputs(
        _last(g, feature_dim),
        _last(x, feature_dim),
        _last(y, feature_dim),
        weight,
        _last(out_x, feature_dim),
        _last(out_y, feature_dim),
    )
    return out_x, out_y


def _grad_weight(g: Tensor, x: Tensor, y: Tensor, feature_dim: int) -> Tensor:
    out = _grad_weight_out(g, x, y, feature_dim)
    grad_weight = primitives(g.device).grad_weight
    grad_weight(_last(g, feature_dim), _last(x, feature_dim), _last(y, feature_dim), out)
    return out


def _pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = pairwise_out(x, y, weight, bias)
    primitives(x.device).pairwise(x, y, weight, bias, out)
    return out


def _pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    out = _pairwise_grad_x_out(g, y, weight)
    primitives(g.device).pairwise_grad_x(g, y, weight, out)
    return out


def _pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    out = _pairwise_grad_weight_out(g, x, y)
    primitives(g.device).pairwise_grad_weight(g, x, y, out)
    return out


def _finally(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel whose own products and views are final: not recorded again, nor cast again under autocast.

    Autograd is through with an op before its kernel runs, and a view that it looks at again takes twice as long.
    """

    def call(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            if not torch._C._is_any_autocast_enabled():
                return kernel(*args)
            with torch._C._DisableAutocast():
                return kernel(*args)

    return call


def _define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> torch._ops.OpOverload:
    name = LIBRARY.define(schema, tags=_TAGS)
    op = getattr(torch.ops.triton_bilinear, name).default
    KERNELS[op] = _finally(kernel)
    # One kernel for every device: which implementation serves the tensors is backend.py's question.
    LIBRARY.impl(name, KERNELS[op], "CompositeExplicitAutograd")
    torch.library.register_fake(f"triton_bilinear::{name}", fake, lib=LIBRARY)
    return op


contract = _define(
    "contract(Tensor u, Tensor v, Tensor weight, Tensor? bias, int feature_dim) -> Tensor", _contract, _contract_out
)
contract_keep = _define(
    "contract_keep(Tensor u, Tensor v, Tensor weight, Tensor? bias, int feature_dim) -> (Tensor, Tensor)",
    _contract_keep,
    _contract_keep_out,
)
grad_inputs = _define(
    "grad_inputs(Tensor g, Tensor x, Tensor y, Tensor weight, int feature_dim) -> (Tensor, Tensor)",
    _grad_inputs,
    _grad_inputs_out,
)
grad_weight = _define(
    "grad_weight(Tensor g, Tensor x, Tensor y, int feature_dim) -> Tensor", _grad_weight, _grad_weight_out
)
pairwise = _define("pairwise(Tensor x, Tensor y, Tensor weight, Tensor? bias) -> Tensor", _pairwise, pairwise_out)
pairwise_grad_x = _define(
    "pairwise_grad_x(Tensor g, Tensor y, Tensor weight) -> Tensor", _pairwise_grad_x, _pairwise_grad_x_out
)
pairwise_grad_weight = _define(
    "pairwise_grad_weight(Tensor g, Tensor x, Tensor y) -> Tensor", _pairwise_grad_weight, _pairwise_grad_weight_out
)
