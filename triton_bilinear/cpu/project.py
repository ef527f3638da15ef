"""The project-then-dot order: u times the weight as a (q, p r) matrix, then the dot product with v along r."""

from __future__ import annotations

from torch import Tensor

from .budget import piece_elements
from .costs import Plan
from .dots import add_products
from .pieces import columns_of, row_pieces, tiles
from .workspace import Workspace


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out)
    weight = weight.transpose(0, 1)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    matrices = workspace.tiles("weight", weight, grid)
    pieces = row_pieces(out, plan.rows), workspace.rows("u", u, plan.rows), workspace.rows("v", v, plan.rows)
    for piece, left, right in zip(*pieces, strict=True):
        target = workspace.target("out", piece, piece_elements(out.device))
        if bias is not None:
            target.copy_(bias)
        for (p, r), matrix in zip(grid, matrices, strict=True):
            tile = workspace.product("projected", left, matrix).view(left.shape[0], -1, r.stop - r.start)
            started = bias is not None or r.start > 0
            add_products(workspace, columns_of(right, r), tile.mT, columns_of(target, p), started)
            del tile  # before the next one is made
        workspace.store(piece, target)


def contract_keep(
    u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor, rows: int, columns: int
) -> None:
    """The same for few outputs, and kept[..., p, r] = sum_q u[..., q] weight[p, q, r]; `kept` as (*batch, P R)."""
    workspace = Workspace(out)
    p, r = weight.shape[0], weight.shape[2]
    grid = list(tiles(p, r, columns))
    matrices = workspace.tiles("weight", weight.transpose(0, 1), grid)
    pieces = (row_pieces(t, rows) for t in (out, kept))
    for piece, kept_piece, left, right in zip(
        *pieces, workspace.rows("u", u, rows), workspace.rows("v", v, rows), strict=True
    ):
        projected = workspace.target("kept", kept_piece)
        for (outer, inner), matrix in zip(grid, matrices, strict=True):
            start = outer.start * r + inner.start
            part = columns_of(projected, slice(start, start + matrix.shape[1]))
            workspace.multiply(left, matrix, part)
        target = workspace.target("out", piece, piece_elements(out.device))
        if bias is not None:
            target.copy_(bias)
        add_products(workspace, right, projected.view(-1, p, r).mT, target, bias is not None)
        workspace.store(piece, target)
        workspace.store(kept_piece, projected)
