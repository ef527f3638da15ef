"""The joint order in bfloat16 by tiles of the features of x: of many rows, where whole rows of g A would leave few.

g times the weight is rounded once. The sum over n is whole in each tile; that over m is of parts, and so in float32.
"""

from __future__ import annotations

from torch import Tensor

from .costs import Plan
from .dots import rounded_products
from .matrix_unit import padded
from .padded import padded_rows
from .pieces import row_pieces, spans
from .rounded_project import project
from .workspace import Workspace


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor, plan: Plan) -> None:
    """out_x[..., m] = sum_n G[..., m, n] y[..., n] and out_y[..., n] = sum_m G[..., m, n] x[..., m], G = g . weight."""
    work, wide = Workspace(g, rounded=True), Workspace(g)
    length, n = padded(1, weight.shape[0]), padded(1, weight.shape[2])
    pieces = (row_pieces(t, plan.rows) for t in (g, x, y, out_x, out_y))
    for left, rows_x, rows_y, piece_x, piece_y in zip(*pieces, strict=True):
        left, right = padded_rows(work, "g", left, length), padded_rows(work, "y", rows_y, n)
        row, target = wide.matrix("x", rows_x).unsqueeze(1), work.target("out", piece_x)
        total = wide.take("total", len(left), 1, n)
        for features in spans(weight.shape[1], plan.outputs):
            part = weight[:, features].transpose(0, 1)
            tile = project(work, left, part, len(part), n, plan.columns)
            target[:, features].copy_(rounded_products(work, right, tile.mT))
            total.baddbmm_(row[:, :, features], wide.copy("tile", tile), beta=1 if features.start else 0)
        work.store(piece_x, target)
        piece_y.copy_(total[:, 0, : weight.shape[2]].view(piece_y.shape))
