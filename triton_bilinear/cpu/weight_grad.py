"""Grad weight: over the batch, one of g, x, y times the Khatri-Rao product of the other two."""

from __future__ import annotations

import torch
from torch import Tensor

from .khatri_rao import multiply
from .orders import Plan
from .pieces import row_pieces, tiles
from .workspace import Workspace


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    Each tile of `out` is finished before the next is begun, so that it stays in cache while the batch goes by.
    """
    workspace = Workspace(alone)
    pieces = list(row_pieces(alone.shape[:-1], plan.rows))
    for o, i in tiles(outer.shape[-1], inner.shape[-1], plan.columns):
        tile = out[:, o, i]
        target = workspace.fused_target("out", tile)
        for count, index in enumerate(pieces):
            left = workspace.rows("alone", alone[index]).t()
            product = multiply(
                workspace, workspace.rows("outer", outer[index])[:, o], workspace.rows("inner", inner[index])[:, i]
            )
            if count:
                target.addmm_(left, product)
            else:
                torch.mm(left, product, out=target)
        workspace.store(tile, target)
