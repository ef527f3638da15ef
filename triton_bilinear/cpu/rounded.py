"""The Khatri-Rao order in bfloat16 on a CPU's matrix unit: products rounded once, whole sums by one matrix product."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from . import matrix_unit
from .costs import Plan
from .pieces import row_pieces, spans
from .workspace import Walk, Workspace, fusible


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out, out.dtype)
    width = plan.columns // u.shape[-1]
    matrices = sides(workspace, weight, u.shape[-1], width, plan.outputs or len(weight))
    start = None if bias is None else workspace.copy("bias", bias)
    pieces = row_pieces(out, plan.rows), workspace.rows("u", u, plan.rows), workspace.rows("v", v, plan.rows)
    for piece, outer, inner in zip(*pieces, strict=True):
        target = workspace.target("out", piece)
        product = _multiply(workspace, outer, inner, len(outer), width)
        for p, matrix in matrices:
            if start is None:
                torch.mm(product, matrix, out=target[:, p])
            else:
                torch.addmm(start[p], product, matrix, out=target[:, p])
        workspace.store(piece, target)


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    The columns of a piece are whole rows of `inner`.
    """
    workspace = Workspace(alone, alone.dtype)
    left = transposed(workspace, "alone", alone, plan.rows)
    right, width = workspace.matrix("inner", inner), inner.shape[-1]
    for o in spans(outer.shape[-1], plan.columns // width):
        target = workspace.fused_target("out", out[:, o])
        middle = workspace.matrix("outer", outer[..., o])
        torch.mm(left, _multiply(workspace, middle, right, plan.rows, width), out=target)
        workspace.store(out[:, o], target)


def sides(workspace: Workspace, weight: Tensor, outer: int, inner: int, outputs: int) -> Iterable[tuple[slice, Tensor]]:
    """A weight (p, q, r) as matrices (outer inner, `outputs` of p), 0 beyond q and r; may be walked many times.

    Where they are copies each lasts until the next is asked for.
    """
    parts = list(spans(weight.shape[0], outputs))
    if len(parts) == 1:
        return [(parts[0], _side(workspace, weight, outer, inner))]
    return Walk(lambda: ((p, _side(workspace, weight[p], outer, inner)) for p in parts))


def _side(workspace: Workspace, weight: Tensor, outer: int, inner: int) -> Tensor:
    """A weight (p, q, r) as a matrix (outer inner, p). A copy keeps the axis that is dense, if p or r is."""
    if weight.shape[1:] == (outer, inner) and fusible(weight, 1):
        return workspace.fused("weight", weight).t()
    p = weight.shape[0]
    if weight.stride(0) == 1:
        return workspace.padded("weight", weight.permute(1, 2, 0), outer, inner, p).view(-1, p)
    return workspace.padded("weight", weight, p, outer, inner).view(p, -1).t()


def transposed(workspace: Workspace, name: str, tensor: Tensor, length: int) -> Tensor:
    """A copy of a tensor (*batch, features) as a matrix (features, length), 0 beyond the batch."""
    matrix = workspace.take(name, tensor.shape[-1], length)
    batch = tensor.numel() // tensor.shape[-1]
    matrix[:, :batch].unflatten(1, tensor.shape[:-1]).copy_(tensor.movedim(-1, 0))
    matrix[:, batch:] = 0
    return matrix


def _multiply(workspace: Workspace, outer: Tensor, inner: Tensor, rows: int, width: int) -> Tensor:
    """The products outer[:, q] inner[:, r] as a matrix (rows, Q width), 0 beyond the rows and columns of the factors.

    The unit makes them of sums of length 2 whose second term is 0: of length 1, the length that is asked for, it would
    read beyond the end (see `matrix_unit`).
    """
    batch, q, r = outer.shape[0], outer.shape[1], inner.shape[1]
    product = workspace.take("product", rows, q, width)
    product[batch:] = 0
    if matrix_unit.multiplies_rows(q, r):
        left, right = workspace.take("left", batch, q, 2), workspace.take("right", batch, 2, width)
        left[:, :, 0], left[:, :, 1] = outer, 0
        right[:, 0, :r], right[:, 0, r:], right[:, 1] = inner, 0, 0
        torch.bmm(left, right, out=product[:batch])
    else:
        torch.mul(outer.unsqueeze(2), inner.unsqueeze(1), out=product[:batch, :, :r])
        product[:, :, r:] = 0
    return product.view(rows, -1)
