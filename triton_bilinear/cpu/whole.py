"""The primitives on problems that one piece holds: a few plain products, for what counts there is the number of calls.

Operands are matrices (rows, features) of one batch axis, of at least one row and one feature. `run` brings those of
half precision to the dtype that sums are accumulated in, but where a matrix unit multiplies them as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import freed_memory, matrix_unit, onednn
from .workspace import ACCUMULATE, fusible

# Elements of the largest intermediate, and of the largest product of two features where no other is smaller: there a
# step is three products whole as it is in pieces.
LARGEST = 2**18
LARGEST_PRODUCT = 2**20

# Multiply-adds from which a matrix unit is faster than float32, which rounds less.
LEAST_BY_UNIT = 2**21

# How many times as large the product of two features is for which two intermediates with outputs are faster.
FEW = 8


def suits(rows: Tensor, weight: Tensor) -> bool:
    """Whether the products of these rows are one small piece, not of size 0, and no large weight must be copied.

    rows: (*batch, features), of which only (batch, features) suits.
    """
    if rows.dim() != 2 or not rows.shape[0] or not weight.numel():
        return False
    p, q, r = weight.shape
    wide = weight.dtype == ACCUMULATE[weight.dtype]
    if weight.numel() <= LARGEST:
        small = wide or rows.shape[0] * max(p, q, r) <= LARGEST  # else what is converted is not
        return small and rows.shape[0] * min(p * q, q * r, p * r) <= LARGEST
    return wide and fusible(weight, 1) and rows.shape[0] * q * r <= _largest_product(weight)


def _largest_product(weight: Tensor) -> int:
    return LARGEST_PRODUCT if _is_product_least(weight) else LARGEST


def _is_product_least(weight: Tensor) -> bool:
    """Whether no intermediate of a weight (p, q, r) is smaller than the product of the features q and r."""
    p, q, r = weight.shape
    return q * r <= p * min(q, r)


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[i, p] = sum_{q,r} u[i, q] v[i, r] weight[p, q, r] + bias[p], by the smallest intermediate."""
    p, q, r = weight.shape
    if _is_product_least(weight) or weight.numel() > LARGEST:
        pairs, matrix = _pairs(u, v), weight.reshape(p, -1).t()
        _mm(pairs, matrix, out, bias)
        return
    if q < r:
        u, v, weight = v, u, weight.mT
    _dot(_mm(u, _sides(weight)).view(-1, p, v.shape[1]), v, bias, out)


def contract_keep(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor) -> None:
    """The same, and kept[i, p, r] = sum_q u[i, q] weight[p, q, r]."""
    _mm(u, _sides(weight), kept.view(u.shape[0], -1))
    _dot(kept, v, bias, out)


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor) -> None:
    """out_x[i, m] = sum_{l,n} g[i, l] weight[l, m, n] y[i, n] and out_y[i, n] = sum_{l,m} g weight x."""
    outputs, m, n = weight.shape
    few = FEW * outputs * max(m, n) < m * n and weight.numel() <= LARGEST
    if few or len(g) * m * n > _largest_product(weight):
        contract(g, y, weight.transpose(0, 1), None, out_x)
        contract(g, x, weight.permute(2, 0, 1), None, out_y)
        return
    tile = _mm(g, weight.reshape(outputs, -1)).view(-1, m, n)
    torch.bmm(y.unsqueeze(1), tile.mT, out=out_x.unsqueeze(1))
    torch.bmm(x.unsqueeze(1), tile, out=out_y.unsqueeze(1))


def grad_weight(g: Tensor, x: Tensor, y: Tensor, out: Tensor) -> None:
    """out[l, m, n] = sum_i g[i, l] x[i, m] y[i, n]; the two with the fewest features first, if `out` is not large."""
    factors = (g, x, y)
    widest = 0 if out.numel() > LARGEST else max(range(3), key=lambda axis: factors[axis].shape[1])
    axes = [widest, *(axis for axis in range(3) if axis != widest)]
    alone, *others = (factors[axis] for axis in axes)
    target = out.permute(axes)
    if target.is_contiguous():
        _mm(alone.t(), _pairs(*others), target.view(alone.shape[1], -1))
    else:
        target.copy_(_mm(alone.t(), _pairs(*others)).view(target.shape))


def run(
    rows: Tensor, weight: Tensor, primitive: Callable[..., None], inputs: tuple[Tensor | None, ...], *outputs: Tensor
) -> None:
    """Run a primitive on a problem that `suits`, in a dtype whose products are as exact as the results are to be."""
    freed_memory.keep()
    wide = ACCUMULATE[weight.dtype]
    pays_by_unit = matrix_unit.takes_any_sum(weight) and rows.shape[0] * weight.numel() >= LEAST_BY_UNIT
    if wide is weight.dtype or pays_by_unit:
        primitive(*inputs, *outputs)
        return
    results = [torch.empty(out.shape, dtype=wide, device=out.device) for out in outputs]
    primitive(*(None if t is None else t.to(wide) for t in inputs), *results)
    for out, result in zip(outputs, results, strict=True):
        out.copy_(result)


def _pairs(u: Tensor, v: Tensor) -> Tensor:
    """The products u[i, q] v[i, r] as a matrix (rows, Q R)."""
    return (u.unsqueeze(2) * v.unsqueeze(1)).reshape(u.shape[0], -1)


def _mm(left: Tensor, right: Tensor, out: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """left right + bias, in `out` if there is one."""
    if onednn.serves(left.dtype, left.device) and onednn.is_dense(right):
        if out is None and onednn.pays(left, right):
            return onednn.product(left, right, bias)
        if out is not None and onednn.pays_to_copy(left, right):
            return out.copy_(onednn.product(left, right, bias))
    return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)


def _sides(weight: Tensor) -> Tensor:
    """A weight (p, q, r) as a matrix (q, p r)."""
    return weight.transpose(0, 1).reshape(weight.shape[1], -1)


def _dot(projected: Tensor, v: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out[i, p] = sum_r projected[i, p, r] v[i, r] + bias[p], rounded once."""
    left, right, result = v.unsqueeze(1), projected.mT, out.unsqueeze(1)
    torch.bmm(left, right, out=result) if bias is None else torch.baddbmm(bias, left, right, out=result)
