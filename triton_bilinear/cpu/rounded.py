"""The Khatri-Rao order in bfloat16 on a CPU's matrix unit: products rounded once, whole sums by one matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from . import matrix_unit
from .bags import products
from .costs import Plan
from .padded import padded_rows, padded_transpose, sides
from .pieces import row_pieces, spans
from .workspace import Workspace, blas_ready


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out, rounded=True)
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
        del product  # before the next one is made
        workspace.store(piece, target)


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    The columns of a piece are whole rows of `inner`.
    """
    workspace = Workspace(alone, rounded=True)
    if lies_right(alone):
        left = alone.t()
    else:
        left = padded_transpose(workspace, "alone", alone, alone.shape[-1], plan.rows)
    right, width = workspace.matrix("inner", inner), inner.shape[-1]
    for o in spans(outer.shape[-1], plan.columns // width):
        tile, middle = out[:, o], workspace.matrix("outer", outer[..., o])
        if tile.is_contiguous() or plan.rows <= matrix_unit.LONGEST_IN_PLACE:
            target = workspace.fused_target("out", tile)
        else:
            target = workspace.take("out", len(tile), tile[0].numel())
        torch.mm(left, _multiply(workspace, middle, right, plan.rows, width), out=target)
        workspace.store(tile, target)


def lies_right(factor: Tensor) -> bool:
    """Whether `grad_weight` takes a factor as it lies."""
    return matrix_unit.takes_any_sum(factor) and factor.dim() == 2 and blas_ready(factor)


def _multiply(workspace: Workspace, outer: Tensor, inner: Tensor, rows: int, width: int) -> Tensor:
    """The products outer[:, q] inner[:, r] as a matrix (rows, Q width), 0 beyond what the factors have."""
    r = inner.shape[1]
    product = products(workspace, outer, padded_rows(workspace, "wide", inner, width), rows).view(rows, -1, width)
    product[:, :, r:] = 0  # even where a factor is infinite
    return product.flatten(1)
