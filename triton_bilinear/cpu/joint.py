"""The joint order: g times the weight gives a tile G[i, m, n]; grad x and grad y are its products with y and with x."""

from __future__ import annotations

import torch
from torch import Tensor

from .orders import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace


def grad_inputs(g: Tensor, x: Tensor, y: Tensor, weight: Tensor, out_x: Tensor, out_y: Tensor, plan: Plan) -> None:
    """out_x[..., m] = sum_n G[..., m, n] y[..., n] and out_y[..., n] = sum_m G[..., m, n] x[..., m], G = g . weight."""
    workspace = Workspace(g)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    whole = workspace.fused("weight", weight) if len(grid) == 1 else None
    for index in row_pieces(g.shape[:-1], plan.rows):
        left = workspace.rows("g", g[index])
        right_x, right_y = (workspace.rows(name, t[index]).unsqueeze(1) for name, t in (("x", x), ("y", y)))
        target_x = workspace.target("out_x", out_x[index])
        target_y = workspace.take("out_y", left.shape[0], 1, weight.shape[2])
        for m, n in grid:
            matrix = whole if whole is not None else workspace.fused("weight", weight[:, m, n])
            tile = torch.mm(left, matrix, out=workspace.take("tile", left.shape[0], matrix.shape[1]))
            tile = tile.view(left.shape[0], m.stop - m.start, n.stop - n.start)
            dots = workspace.take("dots", left.shape[0], 1, tile.shape[1])
            torch.bmm(right_y[:, :, n], tile.mT, out=dots)
            if n.start:
                target_x[:, m].add_(dots.squeeze(1))
            else:
                target_x[:, m].copy_(dots.squeeze(1))
            _add_product(target_y[:, :, n], right_x[:, :, m], tile, first=m.start == 0)
        workspace.store(out_x[index], target_x)
        out_y[index].copy_(target_y.view(out_y[index].shape))


def _add_product(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    if first:
        torch.bmm(left, right, out=total)
    else:
        total.baddbmm_(left, right)
