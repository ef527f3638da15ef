"""The cost of each op for torch.utils.flop_counter, in closed form.

One contraction of the family is one unit of 2*B*P*Q*R floating-point operations (grad_inputs yields two results from
one contraction). A pairwise product is two matrix products, in the cheaper of the two orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch

from .importing import when_imported

Shape = Sequence[int]


def _unit(vectors: Shape, weight: Shape, feature_dim: int) -> int:
    batch = prod(vectors) // vectors[feature_dim] if vectors[feature_dim] else 0
    return 2 * batch * prod(weight)


def _contract(u: Shape, v: Shape, weight: Shape, bias: Shape | None, feature_dim: int, **_: Any) -> int:
    return _unit(u, weight, feature_dim)


def _grad_inputs(g: Shape, x: Shape, y: Shape, weight: Shape, feature_dim: int, **_: Any) -> int:
    return _unit(g, weight, feature_dim)


def _grad_weight(g: Shape, x: Shape, y: Shape, feature_dim: int, *, out_shape: Shape, **_: Any) -> int:
    return _unit(g, out_shape, feature_dim)


def chain_flops(count: int, a: int, e: int, c: int, d: int) -> int:
    """Of `count` products (a, e) (e, c) (c, d), by the cheaper of the two orders."""
    return 2 * count * min(a * c * (e + d), e * d * (c + a))


def _pairwise(x: Shape, y: Shape, weight: Shape, bias: Shape | None, **_: Any) -> int:
    outputs, m, n = weight
    return chain_flops(prod(x[:-2]) * outputs, x[-2], m, n, y[-2])


def _pairwise_grad_x(g: Shape, y: Shape, weight: Shape, **_: Any) -> int:
    m, n = weight[1:]
    return chain_flops(prod(g[:-2]), g[-2], g[-1], n, m)


def _pairwise_grad_weight(g: Shape, x: Shape, y: Shape, **_: Any) -> int:
    return chain_flops(prod(g[:-2]), x[-1], g[-2], g[-1], y[-1])


_FORMULAS: dict[str, Callable[..., int]] = {
    "contract": _contract,
    "contract_keep": _contract,
    "grad_inputs": _grad_inputs,
    "grad_weight": _grad_weight,
    "pairwise": _pairwise,
    "pairwise_grad_x": _pairwise_grad_x,
    "pairwise_grad_weight": _pairwise_grad_weight,
}


def _register(counter: ModuleType) -> None:
    for name, formula in _FORMULAS.items():
        counter.register_flop_formula(getattr(torch.ops.triton_bilinear, name))(formula)


# Importing the counter ourselves would import triton, and that would settle whether triton interprets or compiles its
# own library before the user had the chance to say so (TRITON_INTERPRET).
when_imported("torch.utils.flop_counter", _register)
