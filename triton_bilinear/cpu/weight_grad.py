"""Grad weight: over the batch, one of g, x, y times the Khatri-Rao product of the other two."""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import Plan
from .khatri_rao import products
from .pieces import tiles
from .shares import add_products_of_rows
from .workspace import Workspace


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    Each tile of `out` is finished before the next is begun, so that it stays in cache while the batch goes by.
    """
    workspace = Workspace(alone)
    for o, i in tiles(outer.shape[-1], inner.shape[-1], plan.columns):
        tile = out[:, o, i]
        factors = (("alone", alone), ("outer", outer[..., o]), ("inner", inner[..., i]))
        pieces = (workspace.rows(name, factor, plan.rows) for name, factor in factors)
        target = workspace.fused_target("out", tile)
        if plan.apart:
            sums = workspace.take("sums", workspace.threads, len(tile), tile[0].numel()).zero_()
            for left, *others in zip(*pieces, strict=True):
                add_products_of_rows(left, products(workspace, *others), sums)
            torch.sum(sums, 0, out=target)
        else:
            for count, (left, *others) in enumerate(zip(*pieces, strict=True)):
                product = products(workspace, *others)
                workspace.multiply(left.t(), product, target, add=count > 0, together=True)
        workspace.store(tile, target)
