"""The Khatri-Rao order: the products u[q] v[r] of a piece of rows, times the weight as a (q r, p) matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import piece_elements
from .costs import Plan
from .pieces import columns_of, row_pieces, tiles
from .workspace import Workspace


def products(workspace: Workspace, outer: Tensor, inner: Tensor) -> Tensor:
    """The products outer[:, q] inner[:, r] of rows (rows, Q) and (rows, R) as a matrix (rows, Q R)."""
    rows, q, r = outer.shape[0], outer.shape[1], inner.shape[1]
    torch.mul(outer.unsqueeze(2), inner.unsqueeze(1), out=workspace.take("product", rows, q, r))
    return workspace.take("product", rows, q * r)


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    # A weight that is copied gets the row-major order in which the product reads it fastest.
    if plan.copies:
        matrices = workspace.copied_tiles("weight", weight.permute(1, 2, 0), grid)
    else:
        matrices = workspace.tiles("weight", weight, grid)
    pieces = row_pieces(out, plan.rows), workspace.rows("u", u, plan.rows), workspace.rows("v", v, plan.rows)
    for piece, outer, inner in zip(*pieces, strict=True):
        target = workspace.target("out", piece, piece_elements(out.device))
        if bias is not None:
            target.copy_(bias)
        for i, ((q, r), matrix) in enumerate(zip(grid, matrices, strict=True)):
            product = products(workspace, columns_of(outer, q), columns_of(inner, r))
            matrix = matrix if plan.copies else matrix.t()
            workspace.multiply(product, matrix, target, add=i > 0 or bias is not None)
        workspace.store(piece, target)
