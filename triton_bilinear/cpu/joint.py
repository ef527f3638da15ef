"""The joint order: g times the weight gives a tile G[i, m, n]; grad x and grad y are its products with y and with x."""

from __future__ import annotations

from torch import Tensor

from .budget import piece_elements
from .costs import Plan
from .dots import add_products
from .pieces import columns_of, row_pieces, tiles
from .workspace import Workspace


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor, plan: Plan) -> None:
    """out_x[..., m] = sum_n G[..., m, n] y[..., n] and out_y[..., n] = sum_m G[..., m, n] x[..., m], G = g . weight."""
    workspace, dense_up_to = Workspace(g), piece_elements(g.device)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    matrices = workspace.tiles("weight", weight, grid)
    operands = (workspace.rows(name, t, plan.rows) for name, t in (("g", g), ("x", x), ("y", y)))
    targets = (row_pieces(t, plan.rows) for t in (out_x, out_y))
    for left_g, left_x, left_y, piece_x, piece_y in zip(*operands, *targets, strict=True):
        rows = left_g.shape[0]
        target_x = workspace.target("out_x", piece_x, dense_up_to)
        target_y = workspace.target("out_y", piece_y, dense_up_to)
        for (m, n), matrix in zip(grid, matrices, strict=True):
            tile = workspace.product("tile", left_g, matrix).view(rows, m.stop - m.start, n.stop - n.start)
            left, target = columns_of(left_y, n), columns_of(target_x, m)
            add_products(workspace, left, tile.mT, target, started=n.start > 0)
            left, target = columns_of(left_x, m), columns_of(target_y, n)
            add_products(workspace, left, tile, target, started=m.start > 0)
            del tile  # before the next one is made
        workspace.store(piece_x, target_x)
        workspace.store(piece_y, target_y)
