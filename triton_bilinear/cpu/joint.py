"""The joint order: g times the weight gives a tile G[i, m, n]; grad x and grad y are its products with y and with x."""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor, plan: Plan) -> None:
    """out_x[..., m] = sum_n G[..., m, n] y[..., n] and out_y[..., n] = sum_m G[..., m, n] x[..., m], G = g . weight."""
    workspace = Workspace(g)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    matrices = workspace.tiles("weight", weight, grid)
    operands = (workspace.rows(name, t, plan.rows) for name, t in (("g", g), ("x", x), ("y", y)))
    targets = (row_pieces(t, plan.rows) for t in (out_x, out_y))
    for left, left_x, left_y, piece_x, piece_y in zip(*operands, *targets, strict=True):
        rows = left.shape[0]
        target_x, target_y = workspace.target("out_x", piece_x), workspace.take("out_y", rows, weight.shape[2])
        for (m, n), matrix in zip(grid, matrices, strict=True):
            tile = torch.mm(left, matrix, out=workspace.take("tile", rows, matrix.shape[1]))
            tile = tile.view(rows, m.stop - m.start, n.stop - n.start)
            dots = workspace.take("dots", rows, 1, tile.shape[1])
            # As products of one row each: of all ways to reduce a tile these read it the fastest.
            torch.bmm(left_y[:, n].unsqueeze(1), tile.mT, out=dots)
            if n.start:
                target_x[:, m].add_(dots.squeeze(1))
            else:
                target_x[:, m].copy_(dots.squeeze(1))
            part_x, part_y = left_x[:, m].unsqueeze(1), target_y[:, n].unsqueeze(1)
            if m.start:
                part_y.baddbmm_(part_x, tile)
            else:
                torch.bmm(part_x, tile, out=part_y)
        workspace.store(piece_x, target_x)
        piece_y.copy_(target_y.view(piece_y.shape))
