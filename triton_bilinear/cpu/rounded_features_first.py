"""Grad weight in bfloat16 on a CPU's matrix unit, rows of the batch innermost: products as a matrix (o i, rows).

So the products of two features are one long loop each, and whole sums over the batch are made by one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .costs import Plan
from .padded import padded_transpose
from .pieces import spans
from .workspace import Workspace


def grad_weight(alone: Tensor, outer: Tensor, inner: Tensor, out: Tensor, plan: Plan) -> None:
    """out[a, o, i] = sum_batch alone[..., a] outer[..., o] inner[..., i]; `out` with its axes in that order.

    plan.columns: pairs (o, i) of a piece, all of i for some of o.
    """
    work = Workspace(alone, rounded=True)
    right, width = work.matrix("alone", alone), inner.shape[-1]
    outer_turned = padded_transpose(work, "outer", outer, outer.shape[-1], plan.rows)
    inner_turned = padded_transpose(work, "inner", inner, width, plan.rows)
    for o in spans(outer.shape[-1], plan.columns // width):
        product = work.take("product", o.stop - o.start, width, plan.rows)
        torch.mul(outer_turned[o].unsqueeze(1), inner_turned, out=product)
        tile = out[:, o].permute(1, 2, 0)
        target = work.rows_target("out", tile)
        torch.mm(product.flatten(0, 1), right, out=target)
        work.store(tile, target)
