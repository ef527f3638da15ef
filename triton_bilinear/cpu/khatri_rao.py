"""The Khatri-Rao order: the products u[q] v[r] of a piece of rows, times the weight as a (p, q r) matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .orders import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace

VECTOR = 16


def multiply(workspace: Workspace, outer: Tensor, inner: Tensor) -> Tensor:
    """The products outer[:, q] inner[:, r] of rows (rows, Q) and (rows, R) as a matrix (rows, Q R)."""
    buffer = workspace.take("product", outer.shape[0], outer.shape[1], inner.shape[1])
    torch.mul(outer.unsqueeze(2), inner.unsqueeze(1), out=buffer)
    return buffer.view(outer.shape[0], -1)


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    # A weight that is one tile is fused once, for all rows.
    whole = workspace.fused("weight", weight) if len(grid) == 1 else None
    # The product's rows become a vector axis of the processor's kernels where p does not fill one.
    columns_first = weight.shape[0] % VECTOR != 0
    start = None if bias is None else workspace.copy("bias", bias)
    for index in row_pieces(out.shape[:-1], plan.rows):
        outer, inner = workspace.rows("u", u[index]), workspace.rows("v", v[index])
        target = workspace.target("out", out[index], columns_first)
        for i, (q, r) in enumerate(grid):
            matrix = whole if whole is not None else workspace.fused("weight", weight[:, q, r])
            product = multiply(workspace, outer[:, q], inner[:, r])
            if i:
                target.addmm_(product, matrix.t())
            elif start is None:
                torch.mm(product, matrix.t(), out=target)
            else:
                torch.addmm(start, product, matrix.t(), out=target)
        workspace.store(out[index], target)
