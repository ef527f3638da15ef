"""The primitives on problems that one piece holds: a few plain products, for what counts there is the number of calls.

Operands are matrices (rows, features) of one batch axis, of at least one row and one feature, in a dtype that sums are
accumulated in; `in_wide_dtype` brings others there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .workspace import ACCUMULATE, fusible

# Elements of the largest intermediate.
LARGEST = 2**16


def suits(rows: Tensor, weight: Tensor) -> bool:
    """Whether the products of these rows are one small piece, not of size 0, and no large weight must be copied.

    rows: (*batch, features), of which only (batch, features) suits.
    """
    if rows.dim() != 2:
        return False
    p, q, r = weight.shape
    if not 0 < rows.shape[0] * q * r <= LARGEST:
        return False
    return 0 < p * q * r <= LARGEST or (p > 0 and weight.dtype == ACCUMULATE[weight.dtype] and fusible(weight, 1))


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[i, p] = sum_{q,r} u[i, q] v[i, r] weight[p, q, r] + bias[p]."""
    pairs, matrix = _pairs(u, v), weight.reshape(weight.shape[0], -1).t()
    if bias is None:
        torch.mm(pairs, matrix, out=out)
    else:
        torch.addmm(bias, pairs, matrix, out=out)


def contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor) -> None:
    """The same, and kept[i, p, r] = sum_q u[i, q] weight[p, q, r]."""
    p, q, r = weight.shape
    torch.mm(u, weight.transpose(0, 1).reshape(q, p * r), out=kept.view(-1, p * r))
    rows, matrices = v.unsqueeze(1), kept.mT
    if bias is None:
        torch.bmm(rows, matrices, out=out.unsqueeze(1))
    else:
        torch.baddbmm(bias, rows, matrices, out=out.unsqueeze(1))


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """out_x[i, m] = sum_{l,n} g[i, l] weight[l, m, n] y[i, n] and out_y[i, n] = sum_{l,m} g weight x."""
    tile = torch.mm(g, weight.reshape(weight.shape[0], -1)).view(-1, *weight.shape[1:])
    torch.bmm(y.unsqueeze(1), tile.mT, out=out_x.unsqueeze(1))
    torch.bmm(x.unsqueeze(1), tile, out=out_y.unsqueeze(1))


def grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """out[l, m, n] = sum_i g[i, l] x[i, m] y[i, n]."""
    if out.is_contiguous():
        torch.mm(g.t(), _pairs(x, y), out=out.view(out.shape[0], -1))
    else:
        out.copy_(torch.mm(g.t(), _pairs(x, y)).view(out.shape))


def in_wide_dtype(primitive: Callable[..., None], inputs: tuple[Tensor | None, ...], *outputs: Tensor) -> None:
    """Run a primitive in the dtype that sums are accumulated in."""
    dtype = outputs[0].dtype
    wide = ACCUMULATE[dtype]
    if wide is dtype:
        primitive(*inputs, *outputs)
        return
    results = [torch.empty(out.shape, dtype=wide, device=out.device) for out in outputs]
    primitive(*(None if t is None else t.to(wide) for t in inputs), *results)
    for out, result in zip(outputs, results, strict=True):
        out.copy_(result)


def _pairs(u: Tensor, v: Tensor) -> Tensor:
    """The products u[i, q] v[i, r] as a matrix (rows, Q R)."""
    return (u.unsqueeze(2) * v.unsqueeze(1)).reshape(u.shape[0], -1)
