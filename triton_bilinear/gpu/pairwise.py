"""All pairs of rows of x and of y, and the gradients, as products of three matrices for `chain`.

`chain` takes p (*batch, l, a, e), q (*batch, l, e, c), r (*batch, l, c, d) and out (*batch, l, a, d), of size 1 along
what is summed: expanded views, no copies of matrices. Names of sizes: x (*batch, S, M), y (*batch, T, N),
weight (L, M, N), g (*batch, L, S, T).
"""

from __future__ import annotations

from torch import Tensor

from .chain import chain
from .rows import walkable

ChainOperands = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]


def pairwise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_operands(x, y, weight, bias, out))


def pairwise_grad_x(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_grad_x_operands(g, y, weight, out))


def pairwise_grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """See `triton_bilinear.gpu`."""
    chain(*pairwise_grad_weight_operands(g, x, y, out))


def pairwise_operands(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> ChainOperands:
    """What `chain` is given for the forward pass."""
    x, y = walkable([x.unsqueeze(-3), y.unsqueeze(-3)], [out], axes=3)
    lead = out.shape[:-2]
    return _expanded(x, lead), _expanded(weight, lead), _expanded(y.mT, lead), bias, out


def pairwise_grad_x_operands(g: Tensor, y: Tensor, weight: Tensor, out: Tensor) -> ChainOperands:
    """What `chain` is given for the gradient of x."""
    out = out.unsqueeze(-3)
    g, y = walkable([g, y.unsqueeze(-3)], [out], axes=3)
    lead = g.shape[:-2]
    return g, _expanded(y, lead), _expanded(weight.mT, lead), None, out


def pairwise_grad_weight_operands(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> ChainOperands:
    """What `chain` is given for the gradient of the weight."""
    g, x, y = walkable([g, x.unsqueeze(-3), y.unsqueeze(-3)], axes=3)
    lead = g.shape[:-2]
    return _expanded(x.mT, lead), g, _expanded(y, lead), None, out[(None,) * (g.dim() - 3)]


def _expanded(matrices: Tensor, lead: tuple[int, ...]) -> Tensor:
    return matrices.expand(*lead, -1, -1)
