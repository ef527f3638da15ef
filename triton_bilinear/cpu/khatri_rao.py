"""The Khatri-Rao order: the products u[q] v[r] of a piece of rows, times the weight as a (p, q r) matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace


def multiply(workspace: Workspace, outer: Tensor, inner: Tensor) -> Tensor:
    """The products outer[:, q] inner[:, r] of rows (rows, Q) and (rows, R) as a matrix (rows, Q R)."""
    rows, q, r = outer.shape[0], outer.shape[1], inner.shape[1]
    torch.mul(outer.unsqueeze(2), inner.unsqueeze(1), out=workspace.take("product", rows, q, r))
    return workspace.take("product", rows, q * r)


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    matrices = workspace.tiles("weight", weight, grid)
    start = None if bias is None else workspace.copy("bias", bias)
    pieces = row_pieces(out, plan.rows), workspace.rows("u", u, plan.rows), workspace.rows("v", v, plan.rows)
    for piece, outer, inner in zip(*pieces, strict=True):
        target = workspace.target("out", piece)
        for i, ((q, r), matrix) in enumerate(zip(grid, matrices, strict=True)):
            product = multiply(workspace, outer[:, q], inner[:, r])
            if i:
                target.addmm_(product, matrix.t())
            elif start is None:
                torch.mm(product, matrix.t(), out=target)
            else:
                torch.addmm(start, product, matrix.t(), out=target)
        workspace.store(piece, target)
