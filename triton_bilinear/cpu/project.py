"""The project-then-dot order: u times the weight as a (q, p r) matrix, then the dot product with v along r."""

from __future__ import annotations

import torch
from torch import Tensor

from .orders import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace


def contract(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, plan: Plan) -> None:
    """out[..., p] = sum_{q,r} u[..., q] v[..., r] weight[p, q, r] + bias[p]."""
    workspace = Workspace(out)
    weight = weight.transpose(0, 1)
    grid = list(tiles(weight.shape[1], weight.shape[2], plan.columns))
    whole = workspace.fused("weight", weight) if len(grid) == 1 else None
    for index in row_pieces(out.shape[:-1], plan.rows):
        left, right = workspace.rows("u", u[index]), workspace.rows("v", v[index]).unsqueeze(1)
        target = workspace.target("out", out[index])
        rows = left.shape[0]
        for p, r in grid:
            matrix = whole if whole is not None else workspace.fused("weight", weight[:, p, r])
            projected = torch.mm(left, matrix, out=workspace.take("projected", rows, matrix.shape[1]))
            dots = workspace.take("dots", rows, 1, p.stop - p.start)
            torch.bmm(right[:, :, r], projected.view(rows, -1, r.stop - r.start).mT, out=dots)
            if r.start:
                target[:, p].add_(dots.squeeze(1))
            elif bias is None:
                target[:, p].copy_(dots.squeeze(1))
            else:
                torch.add(dots.squeeze(1), bias[p], out=target[:, p])
        workspace.store(out[index], target)


def contract_keep(
    u: Tensor, v: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, kept: Tensor, rows: int
) -> None:
    """The same for small P, and kept[..., p, r] = sum_q u[..., q] weight[p, q, r]; `kept` as (*batch, P R)."""
    workspace = Workspace(out)
    matrix = workspace.fused("weight", weight.transpose(0, 1))
    p, r = weight.shape[0], weight.shape[2]
    for index in row_pieces(out.shape[:-1], rows):
        left, right = workspace.rows("u", u[index]), workspace.rows("v", v[index]).unsqueeze(1)
        projected = torch.mm(left, matrix, out=workspace.target("kept", kept[index]))
        dots = workspace.take("dots", left.shape[0], 1, p)
        torch.bmm(right, projected.view(-1, p, r).mT, out=dots)
        total = dots.squeeze(1) if bias is None else dots.squeeze(1).add_(bias)
        out[index].copy_(total.view(out[index].shape))
        workspace.store(kept[index], projected)
