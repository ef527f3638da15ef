"""The joint order in bfloat16 on a CPU's matrix unit: g times the weight rounded once, every sum whole."""

from __future__ import annotations

from torch import Tensor

from .costs import Plan
from .dots import rounded_products
from .matrix_unit import padded
from .padded import padded_rows
from .pieces import row_pieces
from .rounded_project import project
from .workspace import Workspace


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor, plan: Plan) -> None:
    """out_x[..., m] = sum_n G[..., m, n] y[..., n] and out_y[..., n] = sum_m G[..., m, n] x[..., m], G = g . weight."""
    work = Workspace(g, rounded=True)
    length, m, n = (padded(1, size) for size in weight.shape)
    pieces = (row_pieces(t, plan.rows) for t in (g, x, y, out_x, out_y))
    for left, rows_x, rows_y, piece_x, piece_y in zip(*pieces, strict=True):
        left = padded_rows(work, "g", left, length)
        tile = project(work, left, weight.transpose(0, 1), m, n, plan.outputs * n)
        made = rounded_products(work, padded_rows(work, "y", rows_y, n), tile.mT)
        piece_x.copy_(made[:, : weight.shape[1]].view(piece_x.shape))
        made = rounded_products(work, padded_rows(work, "x", rows_x, m), tile)
        piece_y.copy_(made[:, : weight.shape[2]].view(piece_y.shape))
